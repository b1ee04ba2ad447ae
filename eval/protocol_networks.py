"""The feature network of a protocol: its weights, the eps of its batch norm, and its own resize."""

from __future__ import annotations

from collections.abc import Callable

from eval import protocols as words
from eval.features.i3d import I3D, SIZE, resize_for_i3d
from eval.features.i3d_files import NAMES as I3D_FILES
from eval.protocol_clips import crop_to
from eval.protocols import Protocol

RESIZES = {words.SQUASH: resize_for_i3d, words.CROP: lambda video: crop_to(video.float(), SIZE)}
# What each setting may be, where code here follows it; the judge of synthetic clips stands in for any of them.
FOLLOWED_BY_I3D = {
    "features": (words.I3D_LOGITS,),
    "weights": tuple(I3D_FILES),
    "resize": tuple(RESIZES),
    "input_range": (words.PLUS_MINUS_ONE,),
    "is_network": (words.TGAN2_C3D, words.TORCHSCRIPT_C3D, words.NONE),
    "is_frames": (16,),
}


class Resized:
    """A feature network behind a protocol's own resize."""

    def __init__(self, network: I3D, resize: Callable):
        self._network, self._resize = network, resize
        self.name, self.version_hash = network.name, network.version_hash

    def to(self, device) -> Resized:
        """As of a module."""
        self._network = self._network.to(device)
        return self

    def features(self, video):
        """Features `[B, d]` of clips in [-1, 1]."""
        return self._network.features(self._resize(video))


def load_network(protocol: Protocol, shapes: bool, device: str):
    """The feature network of a protocol with its weights, eps and resize; or the judge of synthetic clips."""
    if shapes:
        from eval.features import load_features

        return load_features("shapes", device=device)
    network = I3D.from_file(weights=protocol.weights, bn_eps=protocol.bn_eps).to(device)
    return Resized(network, RESIZES[protocol.resize])
