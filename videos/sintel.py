"""MPI Sintel: scenes of an animated film with the optical flow that it was rendered with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from videos.codec import check_picture
from videos.images import read_image
from videos.motion import MotionClips, fit_flow

MAGIC = 202021.25
UNKNOWN = 1e9  # longer vectors mean that the flow is not known there
TEST_SHARE = 0.25  # of the places where scenes play


class Sintel(MotionClips):
    """`training/final/<scene>/frame_0001.png` with `training/flow/<scene>/frame_0001.flo`, and, where it is there,
    `training/invalid/<scene>/frame_0001.png`, whose white pixels do not count.

    Scenes are split by the place where they play (alley_1 and alley_2 are one place): about a quarter of the places is
    "test", by a hash of the name.

    With `truth`, items hold "flow" float32 `[T, 2, H, W]`, (u, v) in pixels of the clip, and "valid" bool `[T, H, W]`.
    """

    name = "sintel"
    rendering = "final"  # with fog, blur and light; "clean" is without

    def list_sources(self) -> list[Path]:
        """Folders of the scenes of the split."""
        folder = self.root / "training" / self.rendering
        found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if self.split == "all":
            return found
        test = held_out_places(sorted({place_of(path) for path in found}))
        return [path for path in found if (place_of(path) in test) == (self.split == "test")]

    def truth_of(self, index: int, frames: np.ndarray, source: tuple[int, int]) -> dict[str, np.ndarray]:
        """Flow and where it is valid; a stride above 1 has none, since flow does not add up over occlusions."""
        if self.strides[index] != 1:
            raise InputError(f"{self.name} has flow from frame to frame: frame_stride {self.strides[index]} has none")
        scene, training = self.sources[index], self.root / "training"
        names = [path.stem for path in self.frames_of(scene)]
        flows, valid = [], []
        for frame in frames[:-1]:
            path = training / "flow" / scene.name / f"{names[frame]}.flo"
            flow = read_flow(path)
            if flow.shape[1:] != source:
                raise InputError(
                    f"{path}: flow of {flow.shape[2]}x{flow.shape[1]}, pictures of {source[1]}x{source[0]}"
                )
            known = (np.abs(flow) < UNKNOWN).all(0)
            mask = training / "invalid" / scene.name / f"{names[frame]}.png"
            if mask.is_file():
                invalid = read_image(mask)[:, :, 0] > 127
                if invalid.shape != source:
                    raise InputError(f"{mask}: of another size than the flow")
                known &= ~invalid
            flows.append(flow)
            valid.append(known)
        flow, known = fit_flow(np.stack(flows), np.stack(valid), self.clip.size)
        return {"flow": flow, "valid": known}


class SintelClean(Sintel):
    """The rendering without fog, blur and light."""

    name = "sintel_clean"
    rendering = "clean"


def place_of(scene: Path) -> str:
    """Where a scene plays: its name without the number."""
    return re.sub(r"_\d+$", "", scene.name)


def held_out_places(places: Sequence[str]) -> set[str]:
    """About a quarter of the places, at least one and not all; a single place is on no side but "train"."""
    order = sorted(places, key=lambda place: hashlib.blake2b(place.encode(errors="surrogateescape")).digest())
    return set(order[: max(1, round(TEST_SHARE * len(order)))]) if len(order) > 1 else set()


def read_flow(path: Path) -> np.ndarray:
    """A .flo file: float32 `[2, H, W]`, (u, v) in pixels; what is not finite is `UNKNOWN` and more.

    Raises:
        InputError: If there is none, it is none, of an absurd size, or not of the length that it promises.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; Sintel's flow lies beside its pictures")
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or np.frombuffer(head, "<f4", 1)[0] != np.float32(MAGIC):
            raise InputError(f"{path}: not a .flo file of optical flow")
        width, height = (int(n) for n in np.frombuffer(head, "<i4", 2, 4))
        if width < 1 or height < 1:
            raise InputError(f"{path}: flow of {width}x{height}")
        check_picture(path, height, width)
        needed, found = 8 * width * height, path.stat().st_size - 12
        if needed != found:
            raise InputError(f"{path}: flow of {width}x{height} has {needed} bytes, the file holds {found}")
        values = np.fromfile(file, "<f4", 2 * width * height)
    return (
        np.nan_to_num(values, nan=2 * UNKNOWN, posinf=2 * UNKNOWN, neginf=-2 * UNKNOWN)
        .reshape(height, width, 2)
        .transpose(2, 0, 1)
    )
