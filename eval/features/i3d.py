"""I3D, the Inception network inflated to 3D (Carreira and Zisserman 2017), as FVD uses it: 400 Kinetics logits, mean
over time.

Own construction of the published graph (TensorFlow Hub, `i3d-kinetics-400/1`, `RGB/inception_i3d/Mean`): SAME padding
(the odd zero at the end), batch norm with eps 1e-3 and no learned scale, and no dropout, which is off when judging.
Parameter names follow the layout common to the PyTorch ports.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.features.clips import check_clips, exact_float32
from runtime.seeds import seeded

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


class I3D(nn.Module):
    """`[B, 3, T >= 9, 224, 224]` in [-1, 1] -> logits `[B, 400]`, in evaluation mode from the start.

    Nine frames are the least that leave two for the last pooling; 17 leave three, so two steps are averaged.

    Args:
        bn_eps: 1e-3 is the original graph's; some ports use 1e-5 and give other numbers.

    Attributes:
        resize: How `features` brings clips to 224x224; protocols have ways of their own.
    """

    dim = 400

    def __init__(self, bn_eps: float = 1e-3):
        super().__init__()
        self.name, self.version_hash = "i3d", "untrained"
        self.resize = resize_for_i3d
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
        # The last convolution, with bias and nothing after it.
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(1024, 400, 1)))
        self.eval()

    def trunk(self, video: Tensor) -> Tensor:
        """Everything up to Mixed_5c, for any H and W: `[B, 1024, T/8, H/32, W/32]`, sizes rounded up."""
        for name, part in self.named_children():
            if name != "logits":
                video = part(video)
        return video

    def forward(self, video: Tensor) -> Tensor:
        check_clips(video, "I3D", MIN_FRAMES, (SIZE, SIZE))
        pooled = F.avg_pool3d(self.trunk(video), (2, 7, 7), stride=1)
        return self.logits(pooled).squeeze((3, 4)).mean(2)

    def features(self, video: Tensor) -> Tensor:
        """Logits, float32 `[B, 400]`, of clips of any size in [-1, 1], without TF32 or mixed precision."""
        check_clips(video, "I3D", MIN_FRAMES)
        with exact_float32(video.device):
            return self(self.resize(video))

    @classmethod
    def from_file(cls, path: str | Path | None = None, weights: str | None = None, bn_eps: float = 1e-3) -> I3D:
        """The network with published weights, frozen; without TF-Hub's weights `name` says so, too.

        Args:
            path: The weight file, instead of looking for it.
            weights: "i3d_torchscript" or "i3d_pretrained_400", two ports of the same weights; "i3d_rgb_imagenet", other
                ones, only when asked for by this name. Default: what `path` is, or the first of the two that is here.

        Raises:
            InputError: When the file is absent, is not the published one, or does not fit.
        """
        from eval.features.i3d_files import read_i3d

        network = seeded(lambda: cls(bn_eps))
        network.name, network.version_hash = read_i3d(network, path, weights)
        if bn_eps != 1e-3:
            network.version_hash += f"-eps{bn_eps:g}"
        return network.requires_grad_(False)


def resize_for_i3d(video: Tensor) -> Tensor:
    """`[B, 3, T, H, W]` -> float32 `[B, 3, T, 224, 224]`: each frame squashed, bilinear, without antialiasing.

    Half-pixel centres (`align_corners=False`), as in TATS. StyleGAN-V resizes inside its script, and where that file is
    there a test compares the two; TensorFlow's own `resize_bilinear` has no half pixel and gives slightly other
    pictures. Values keep their range: [-1, 1] is TensorFlow's 2x/255 - 1.
    """
    video = video.float()
    batch, _, frames, height, width = video.shape
    if (height, width) == (SIZE, SIZE):
        return video
    pictures = video.transpose(1, 2).flatten(0, 1)
    pictures = F.interpolate(pictures, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return pictures.unflatten(0, (batch, frames)).transpose(1, 2)
