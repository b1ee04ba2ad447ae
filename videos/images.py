"""Images: any below a folder, as clips of one frame."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from videos.clip import ClipSpec
from videos.codec import check_picture
from videos.folders import IMAGE_SUFFIXES, ClipDataset, files_below
from videos.splits import sources_of_split

# PIL goes by content, and some of its formats (EPS) start other programs.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# What PIL raises on damaged bytes, beside its own errors.
_DAMAGE = (OSError, SyntaxError, ValueError, LookupError, TypeError, RuntimeError, EOFError, OverflowError, MemoryError)
_DAMAGE += (struct.error, zlib.error)


class ImageFolder(ClipDataset):
    """Every image file below a folder, as clips of one frame."""

    name = "images"
    suffixes = IMAGE_SUFFIXES

    def _use(self, clip: ClipSpec, *, strict: bool = True, enlarge: bool = True) -> None:
        if clip.num_frames != 1:
            raise InputError(f"data set 'images' has clips of 1 frame, {clip.num_frames} asked")
        super()._use(clip, strict=strict, enlarge=enlarge)

    def list_sources(self) -> list[Path]:
        """Images of the split."""
        return sources_of_split(self.root, self.split, lambda folder: files_below(folder, IMAGE_SUFFIXES))

    def probe(self, source: Path) -> tuple[int, int, int]:
        """1 frame, height and width, once the header has been read."""
        return 1, *probe_image(source)

    def read(self, source: Path, frames: np.ndarray) -> np.ndarray:
        """The image, RGB."""
        return read_image(source)[None]

    def verify(self, source: Path) -> None:
        """Decode the image."""
        read_image(source)


def open_image(path: Path):
    """A PIL image whose header is read; InputError when it is none of `IMAGE_FORMATS`, or of an absurd size."""
    from PIL import Image

    try:
        image = Image.open(path, formats=IMAGE_FORMATS)
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error})") from error
    try:
        check_picture(path, image.height, image.width)
    except InputError:
        image.close()
        raise
    return image


def probe_image(path: Path) -> tuple[int, int]:
    """Height and width; InputError when it is no image, or its checksums do not hold."""
    with open_image(path) as image:
        try:
            image.verify()
        except _DAMAGE as error:
            raise InputError(f"{path}: not a readable image ({error})") from error
        return image.height, image.width


def read_image(path: Path) -> np.ndarray:
    """uint8 RGB `[H, W, 3]`; 16 bits a channel are rounded to 8. InputError when it cannot be decoded."""
    with open_image(path) as image:
        try:
            if image.mode.startswith("I"):  # 16-bit grey, which `convert` would cut off at 255
                grey = np.round(np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged image ({error})") from error
