"""I3D, the Inception network inflated to 3D (Carreira and Zisserman 2017), as FVD uses it: 400 Kinetics logits, mean
over time.

Own construction of the published graph: TensorFlow's SAME padding (extra zeros at the end), batch norm with eps 1e-3
and no learned scale in the original, no dropout when judging. Parameter names follow the layout common to the PyTorch
ports.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.published_weights import find_weights

MIN_FRAMES = 9
SIZE = 224
# Output channels of the branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; pool then 1x1.
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def same_padding(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros so that the output has ceil(n / stride) places, the odd one at the end (TensorFlow's SAME)."""
    pads: list[int] = []
    for n, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Unit(nn.Module):
    """Convolution with SAME padding, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, eps: float):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(same_padding(x, self.kernel, self.stride))))


class Pool(nn.Module):
    """Max pooling with SAME padding; zeros are right because the inputs come from a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(same_padding(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, widths: tuple[int, ...], eps: float):
        super().__init__()
        inputs, b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(inputs, b0, eps=eps)
        self.b1a, self.b1b = Unit(inputs, b1a, eps=eps), Unit(b1a, b1b, 3, eps=eps)
        self.b2a, self.b2b = Unit(inputs, b2a, eps=eps), Unit(b2a, b2b, 3, eps=eps)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, b3b, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class Logits(nn.Module):
    """The last 1x1x1 convolution, with bias and nothing after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, 400, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class I3D(nn.Module):
    """`[B, 3, T >= 9, 224, 224]` in [-1, 1] -> logits `[B, 400]`.

    Args:
        bn_eps: 1e-3 is the original graph's; some ports use 1e-5 and give other numbers.
    """

    name = "i3d"
    dim = 400

    def __init__(self, bn_eps: float = 1e-3):
        super().__init__()
        self.version_hash = "untrained"
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2, eps=bn_eps)
        self.MaxPool3d_2a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64, eps=bn_eps)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3, eps=bn_eps)
        self.MaxPool3d_3a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        for block in ("3b", "3c"):
            self.add_module(f"Mixed_{block}", Mixed(MIXED[block], bn_eps))
        self.MaxPool3d_4a_3x3 = Pool((3, 3, 3), (2, 2, 2))
        for block in ("4b", "4c", "4d", "4e", "4f"):
            self.add_module(f"Mixed_{block}", Mixed(MIXED[block], bn_eps))
        self.MaxPool3d_5a_2x2 = Pool((2, 2, 2), (2, 2, 2))
        for block in ("5b", "5c"):
            self.add_module(f"Mixed_{block}", Mixed(MIXED[block], bn_eps))
        self.logits = Logits()

    def forward(self, video: Tensor) -> Tensor:
        if (
            video.ndim != 5
            or video.shape[1] != 3
            or video.shape[2] < MIN_FRAMES
            or tuple(video.shape[3:]) != (SIZE, SIZE)
        ):
            raise InputError(f"I3D takes [B, 3, T >= {MIN_FRAMES}, {SIZE}, {SIZE}], got {list(video.shape)}")
        x = video
        for name, part in self.named_children():
            if name != "logits":
                x = part(x)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(x).squeeze((3, 4)).mean(2)

    def features(self, video: Tensor) -> Tensor:
        """Logits of clips of any size: each frame is squashed to 224x224, bilinear without antialiasing, as the ports
        do."""
        batch, _, frames, height, width = video.shape
        video = video.float()
        if (height, width) != (SIZE, SIZE):
            pictures = video.transpose(1, 2).flatten(0, 1)
            pictures = F.interpolate(pictures, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
            video = pictures.unflatten(0, (batch, frames)).transpose(1, 2)
        return self(video)

    @classmethod
    def from_file(cls, path: str | Path | None = None, bn_eps: float = 1e-3) -> I3D:
        """The published weights: `i3d_torchscript.pt` (its state dict is read, its code never run)."""
        file = find_weights("i3d_torchscript", path)
        state = torch.jit.load(str(file), map_location="cpu").state_dict()
        network = cls(bn_eps)
        missing, unknown = network.load_state_dict({published_name(k): v for k, v in state.items()}, strict=False)
        if unknown or any(not key.endswith("num_batches_tracked") for key in missing):
            raise InputError(f"{file}: not the expected layout of I3D (missing {missing[:2]}, unknown {unknown[:2]})")
        network.version_hash = "bec6519f66ea"
        return network.eval().requires_grad_(False)


_BRANCHES = {
    "branch_0": "b0",
    "branch_1.0": "b1a",
    "branch_1.1": "b1b",
    "branch_2.0": "b2a",
    "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}


def published_name(name: str) -> str:
    """A name of the TorchScript file's layout in ours."""
    for theirs, ours in _BRANCHES.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    name = name.replace(".batch3d.", ".bn.").replace("conv3d_0c_1x1.", "logits.")
    return name[0].upper() + name[1:] if name.startswith(("conv3d_", "mixed_")) else name
