"""C3D (Tran et al. 2015), fine-tuned to name the 101 classes of UCF101: the network of the Inception Score on video.

Protocol of TGANv2 (Saito et al. 2020), whose files these are: the Caffe network as a NumPy archive, with the mean clip
that it subtracts. Sixteen frames; blue before red; pictures of 112x112 with values 0..255; every pooling rounds its
size up, as Caffe does, so the last one turns 7x7 into 4x4 without padding.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.features.clips import check_clips, exact_float32
from runtime.errors import InputError
from runtime.published_weights import PUBLISHED, find_weights
from runtime.run import file_sha256
from runtime.seeds import seeded
from runtime.weights import load_strictly, reading

FRAMES = 16
SIZE = 112
CLASSES = 101
MEAN_SHAPE = (3, 16, 128, 171)
# Where the window of the mean clip begins, in rows and in columns.
MEAN_CORNER = 8
SCALE = 128.0
# Layers of the archive that hold the preprocessing where somebody saved it along.
_NOT_WEIGHTS = ("pre/W", "mean/b")
_pool = partial(F.max_pool3d, ceil_mode=True)


class C3D(nn.Module):
    """`[B, 3, T >= 16, H, W]` in [-1, 1] -> logits of UCF101's classes `[B, 101]`, in evaluation mode from the start.

    Only the first 16 frames are seen. Dropout (after pool5, fc6 and fc7) is off when judging, so there is none.
    """

    name = "c3d"
    dim = CLASSES
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.version_hash = "untrained"
        self.conv1a = nn.Conv3d(3, 64, 3, padding=1)
        self.conv2a = nn.Conv3d(64, 128, 3, padding=1)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.fc6 = nn.Linear(512 * 1 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, CLASSES)
        # Part of the preprocessing, not of the network; zero until `from_file` reads it.
        self.register_buffer("mean", torch.zeros(3, FRAMES, SIZE, SIZE), persistent=False)
        self.eval()

    def forward(self, clip: Tensor) -> Tensor:
        """Logits `[B, 101]` of prepared clips `[B, 3, 16, 112, 112]` (see `prepare`)."""
        x = _pool(F.relu(self.conv1a(clip)), (1, 2, 2))
        x = _pool(F.relu(self.conv2a(x)), 2)
        x = _pool(F.relu(self.conv3b(F.relu(self.conv3a(x)))), 2)
        x = _pool(F.relu(self.conv4b(F.relu(self.conv4a(x)))), 2)
        x = _pool(F.relu(self.conv5b(F.relu(self.conv5a(x)))), 2)
        x = F.relu(self.fc6(x.flatten(1)))
        return self.fc8(F.relu(self.fc7(x)))

    def prepare(self, video: Tensor) -> Tensor:
        """RGB `[B, 3, T, H, W]` in [-1, 1] -> what the network sees: float32 `[B, 3, 16, 112, 112]`.

        The first 16 frames, blue first, times 128, squashed to 112x112 bilinearly with corners aligned, plus 128, minus
        the mean clip.
        """
        pictures = video[:, :, :FRAMES].float().flip(1).transpose(1, 2).flatten(0, 1)
        pictures = F.interpolate(pictures * SCALE, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
        return pictures.unflatten(0, (-1, FRAMES)).transpose(1, 2) + (128.0 - self.mean)

    def features(self, video: Tensor) -> Tensor:
        """Logits, float32 `[B, 101]`, without TF32 or mixed precision."""
        check_clips(video, "C3D", FRAMES)
        with exact_float32(video.device):
            return self(self.prepare(video))

    def classify(self, features: Tensor) -> Tensor:
        """Probabilities of the classes `[B, 101]`, from features."""
        return features.float().softmax(1)

    def probabilities(self, video: Tensor) -> Tensor:
        """Probabilities of the classes `[B, 101]`; rows sum to 1."""
        return self.classify(self.features(video))

    @classmethod
    def from_file(cls, path: str | Path | None = None, mean_path: str | Path | None = None) -> C3D:
        """The network with published weights and mean clip, frozen.

        Args:
            path: `conv3d_deepnetA_ucf.npz`, instead of looking for it.
            mean_path: `mean2.npz`; default: beside `path`, else looked for like the weights.

        Raises:
            InputError: When a file is absent, damaged, or does not fit.
        """
        beside = Path(path).parent / PUBLISHED["c3d_mean"].filename if path is not None else None
        weights = find_weights("c3d_ucf101", path)
        mean = find_weights("c3d_mean", mean_path or (beside if beside and beside.is_file() else None))
        network = seeded(cls)
        load_strictly(network, read_weights(weights, network), weights)
        network.mean.copy_(read_mean(mean))
        # Neither file has a published hash, so the numbers carry the one that was found.
        network.version_hash = hashlib.sha256((file_sha256(weights) + file_sha256(mean)).encode()).hexdigest()[:12]
        return network.requires_grad_(False)


def read_weights(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """The archive's arrays `conv1a/W`, `conv1a/b`, … as a state dict `conv1a.weight`, `conv1a.bias`, …"""
    theirs = {name: name.replace(".weight", "/W").replace(".bias", "/b") for name, _ in network.named_parameters()}
    arrays = _read_npz(path, list(theirs.values()), allowed=_NOT_WEIGHTS)
    return {name: torch.from_numpy(arrays[key].astype(np.float32, copy=False)) for name, key in theirs.items()}


def read_mean(path: Path) -> Tensor:
    """The window of the mean clip that TGANv2 subtracts: float32 `[3, 16, 112, 112]`, blue first, 0..255."""
    mean = _read_npz(path, ["mean"])["mean"]
    if mean.shape != MEAN_SHAPE or not np.isfinite(mean).all():
        raise InputError(f"{path}: the mean clip must be finite and {list(MEAN_SHAPE)}, got {list(mean.shape)}")
    window = slice(MEAN_CORNER, MEAN_CORNER + SIZE)
    return torch.from_numpy(mean[:, :, window, window].astype(np.float32))


def _read_npz(path: Path, names: list[str], allowed: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Exactly the named arrays of numbers; nothing is unpickled."""
    # Opened here, for NumPy leaves the files open that it fails to read.
    with reading(path, "a NumPy archive"), open(path, "rb") as file:
        found = np.load(file, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz archive")
        wrong = sorted(set(names) ^ (set(found.files) - set(allowed)))
        if wrong:
            more = ", …" if len(wrong) > 3 else ""
            raise InputError(f"{path}: missing or unknown arrays: {', '.join(wrong[:3])}{more}")
        arrays = {name: found[name] for name in names}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise InputError(f"{path}: array {name} is of type {array.dtype}, not floats")
    return arrays
