"""The published files of I3D's weights, each in its own layout, brought into ours.

`i3d_torchscript.pt` (StyleGAN-V) and `i3d_pretrained_400.pt` (VideoGPT, TATS) are two ports of TensorFlow Hub's
weights, the ones that FVD is defined by. `rgb_imagenet.pt` (piergiaj) fits the graph as well but was trained otherwise:
black against white clips are 219 apart where FVD says about 131.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from eval.features.torchscript import read_torch_file
from runtime.errors import InputError
from runtime.published_weights import PUBLISHED, fault_of, find_weights, locate
from runtime.run import file_sha256
from runtime.weights import load_strictly

TF_HUB = ("i3d_torchscript", "i3d_pretrained_400")
# Under which name the features go: only TF-Hub's weights make an FVD.
NAMES = {"i3d_torchscript": "i3d", "i3d_pretrained_400": "i3d", "i3d_rgb_imagenet": "i3d-rgb-imagenet"}
_BRANCHES = {
    "branch_0": "b0",
    "branch_1.0": "b1a",
    "branch_1.1": "b1b",
    "branch_2.0": "b2a",
    "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}


def read_i3d(network: nn.Module, path: str | Path | None = None, weights: str | None = None) -> tuple[str, str]:
    """Fill `network` from a published file; gives the name of its features and the first digits of the file's hash.

    Raises:
        InputError: When the file is absent, is not the published one, or does not fit the network.
    """
    if weights is not None and weights not in NAMES:
        raise InputError(f"I3D weights {weights!r} are not known; known: {', '.join(NAMES)}")
    weights = weights or _which(path)
    file = find_weights(weights, path)
    state = {name_in_our_layout(name): value for name, value in read_torch_file(file).items()}
    load_strictly(network, state, file)
    return NAMES[weights], file_sha256(file)[:12]


def _which(path: str | Path | None) -> str:
    """The published file that `path` is, or else the first that is here; never silently the one with other numbers."""
    if path is None:
        return next((name for name in TF_HUB if locate(name)), TF_HUB[0])
    if not Path(path).is_file():
        raise InputError(f"{path}: no such weight file")
    found = next((name for name in NAMES if fault_of(Path(path), PUBLISHED[name]) is None), TF_HUB[0])
    if found not in TF_HUB:
        raise InputError(
            f"{path}: these weights give other numbers than FVD's; features 'i3d-rgb-imagenet' asks for them by name"
        )
    return found


def name_in_our_layout(name: str) -> str:
    """A parameter's name in any of the files -> in ours, which is that of all but the TorchScript file."""
    for theirs, ours in _BRANCHES.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    name = name.replace(".batch3d.", ".bn.").replace("conv3d_0c_1x1.", "logits.")
    return name[0].upper() + name[1:] if name.startswith(("conv3d_", "mixed_")) else name
