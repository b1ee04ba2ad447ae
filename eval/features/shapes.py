"""A small 3D CNN that names shape and motion of `moving_shapes` clips: the judge of runs without published weights.

It is trained by `python -m benchmarks.train_judge`, on synthetic clips only. Its numbers carry their own names
(FD-shapes, accuracy-…): they are never FVD, and nothing is trained against it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.features.clips import check_clips
from runtime.run import file_sha256
from runtime.seeds import seeded
from runtime.weights import reading
from videos.moving_shapes import MOTIONS, SHAPES

WEIGHTS = Path(__file__).parent / "shapes.safetensors"
SIZE = 32
MIN_FRAMES = 9
WIDTHS = (48, 96)


def _normed(convolution: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    return convolution, nn.GroupNorm(8, convolution.out_channels), nn.SiLU()


class ShapesNet(nn.Module):
    """Clip `[B, 3, T >= 9, H, W]` in [-1, 1], resized to 32x32 -> features `[B, dim]`, probabilities `[B, 3 shapes * 4
    motions]`.

    A per-frame 2D trunk sees form, a temporal trunk over its pooled grid sees movement. Shape and motion have a head
    each; the probabilities of the 12 classes are the products of theirs.
    """

    name = "shapes"
    dim = 128

    def __init__(self) -> None:
        super().__init__()
        first, second = WIDTHS
        # 2x2 pixels enter as channels: a third of the time of full-resolution convolutions.
        self.frame = nn.Sequential(
            *_normed(nn.Conv2d(12 + 2, first, 3, padding=1)),
            *_normed(nn.Conv2d(first, second, 3, stride=2, padding=1)),
            *_normed(nn.Conv2d(second, second, 3, padding=1)),
        )
        self.movement = nn.Sequential(
            *_normed(nn.Conv3d(second, second, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))),
            *_normed(nn.Conv3d(second, second, 3, stride=(2, 1, 1), padding=1)),
            *_normed(nn.Conv3d(second, second, 3, stride=(2, 2, 2), padding=1)),
        )
        self.form_out = nn.Linear(second, 64)
        self.movement_out = nn.Linear(second * 4, 64)
        self.shape_head = nn.Linear(64, len(SHAPES))
        self.motion_head = nn.Linear(64, len(MOTIONS))
        self.version_hash = "untrained"

    def features(self, video: Tensor) -> Tensor:
        """float32 `[B, 128]`: what the heads see, 64 for form and 64 for movement."""
        check_clips(video, "the shapes network", MIN_FRAMES)
        batch, _, frames, height, width = video.shape
        pictures = video.float().transpose(1, 2).flatten(0, 1)
        if (height, width) != (SIZE, SIZE):
            pictures = F.interpolate(pictures, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        # Where a pixel is: pooling would otherwise forget it, and motion is change of place.
        ramp = torch.linspace(-1, 1, SIZE // 2, device=video.device)
        place = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij")).expand(len(pictures), 2, SIZE // 2, SIZE // 2)
        grid = self.frame(torch.cat([F.pixel_unshuffle(pictures, 2), place.to(pictures)], dim=1))  # [B*T, C, 8, 8]
        form = F.silu(self.form_out(grid.float().amax((2, 3)).unflatten(0, (batch, frames)).mean(1)))
        cube = grid.unflatten(0, (batch, frames)).transpose(1, 2)
        moved = self.movement(cube).float().mean(2)  # [B, C, 2, 2]
        return torch.cat([form, F.silu(self.movement_out(moved.flatten(1)))], dim=1)

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape `[B, 3]` and motion `[B, 4]`."""
        return self.shape_head(features[:, :64]), self.motion_head(features[:, 64:])

    def classify(self, features: Tensor) -> Tensor:
        """Probabilities of the classes `[B, 12]` from features; class = shape * 4 + motion."""
        shape, motion = self.heads(features)
        return (shape.float().softmax(1)[:, :, None] * motion.float().softmax(1)[:, None]).flatten(1)

    def probabilities(self, video: Tensor) -> Tensor:
        """`[B, 12]`, rows sum to 1."""
        return self.classify(self.features(video))

    @classmethod
    def from_file(cls, path: str | Path | None = None) -> ShapesNet:
        """The trained network (shipped, or from `path`), in evaluation mode and frozen."""
        from safetensors.torch import load_file

        path = Path(path or WEIGHTS)
        network = seeded(cls)
        with reading(path, "weights of the shapes network", "python -m benchmarks.train_judge trains them"):
            network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        network.version_hash = file_sha256(path)[:12]
        return network.eval().requires_grad_(False)
