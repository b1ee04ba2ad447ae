"""The feature network of a protocol: its weights, the eps of its batch norm, and its own resize."""

from __future__ import annotations

from torch import Tensor

from eval.features.i3d import I3D, SIZE, resize_for_i3d
from eval.features.i3d_files import NAMES as I3D_FILES
from eval.protocols import presets as words
from eval.protocols.clips import crop_to
from eval.protocols.presets import Protocol


def crop_for_i3d(video: Tensor) -> Tensor:
    """`[B, 3, T, H, W]` -> float32 `[B, 3, T, 224, 224]`: as VideoGPT's data, by the shorter side."""
    pictures = crop_to(video.float().transpose(1, 2).flatten(0, 1), SIZE)
    return pictures.unflatten(0, (len(video), -1)).transpose(1, 2)


RESIZES = {words.SQUASH: resize_for_i3d, words.CROP: crop_for_i3d}
# What each setting may be, where code here follows it; the judge of synthetic clips stands in for any of them.
FOLLOWED_BY_I3D = {
    "features": (words.I3D_LOGITS,),
    "weights": tuple(I3D_FILES),
    "resize": tuple(RESIZES),
    "input_range": (words.PLUS_MINUS_ONE,),
    "is_network": (words.TGAN2_C3D, words.TORCHSCRIPT_C3D, words.NONE),
    "is_frames": (16,),
}


def load_network(protocol: Protocol, shapes: bool, device: str):
    """The feature network of a protocol with its weights, eps and resize; or the judge of synthetic clips."""
    if shapes:
        from eval.features import load_features

        return load_features("shapes", device=device)
    network = I3D.from_file(weights=protocol.weights, bn_eps=protocol.bn_eps)
    network.resize = RESIZES[protocol.resize]
    return network.to(device)
