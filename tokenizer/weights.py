"""Read and write model weights as safetensors, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.files import replacing


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous CPU copies of `tensors` to `path`, replaced at once.

    Args:
        metadata: For the header. safetensors orders it at random: more than one entry, and equal weights would no
            longer be equal files.
    """
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path, "results") as partial:
        save_file(copies, partial, metadata=None if metadata is None else dict(metadata))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; InputError when it is absent, truncated or not one."""
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); fetch or write it again") from error


def read_metadata(path: Path) -> dict[str, str]:
    """What `write_weights` put into the header of a file that `read_weights` accepts."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Load `tensors` (any float dtype) into `model`; InputError naming the first differences."""
    wanted = model.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in wanted]
    wrong += [
        f"{name} is {list(tensors[name].shape)}, not {list(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"{source}: the weights do not fit the config: {'; '.join(wrong[:3])}{more}")
    model.load_state_dict(dict(tensors))
