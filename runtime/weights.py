"""Read and write model weights as safetensors, strictly: what does not fit is refused from the file's header."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.files import replacing
from runtime.seeds import seeded

FLOATS = ("F64", "F32", "F16", "BF16")
# What cut-off or changed bytes end in: headers, zip archives, pickles, and tensors that do not fit their bytes.
_DAMAGED = (
    SafetensorError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    OverflowError,
    MemoryError,
    AssertionError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_SAFETENSORS = ("safetensors", "fetch or write it again")


@contextmanager
def reading(path: str | Path, kind: str = "weights", advice: str = "fetch it again") -> Iterator[None]:
    """For with-blocks that read a file which may be absent or damaged, as some `kind` of file; InputError then."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such weight file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what damaged pickles say of themselves
            yield
    except (InputError, torch.OutOfMemoryError, torch.AcceleratorError):  # the last two are no fault of the file
        raise
    except _DAMAGED as error:
        # What torch says of a pickle that wants more begins with advice to run it.
        words = str(error).split("WeightsUnpickler error: ")[-1].strip() or type(error).__name__
        asked = re.search(r"GLOBAL ([\w.]+)", words)
        why = f"it asks for {asked[1]}, which no weights need" if asked else words
        # As a checkpoint with its trainer's settings does, which is no damage.
        advice += ", or one that holds its state dict alone" if asked else ""
        raise InputError(f"{path}: not readable as {kind} ({why.splitlines()[0]}); {advice}") from error


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous CPU copies of `tensors` to `path`, replaced at once.

    Args:
        metadata: For the header. safetensors orders it at random: more than one entry, and equal weights would no
            longer be equal files.
    """
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path, "weights") as partial:
        save_file(copies, partial, metadata=None if metadata is None else dict(metadata))


def read_weights(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file; InputError when it is absent, truncated or not one."""
    with reading(path, *_SAFETENSORS):
        return load_file(path, device=str(device))


def read_metadata(path: Path) -> dict[str, str]:
    """What `write_weights` put into the header of a file that `read_weights` accepts."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def load_model(
    build: Callable[[], nn.Module],
    *paths: Path,
    optional: Sequence[str] = (),
    rename: Callable[[str], str] | None = None,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Build a model and load its weights, which must be exactly those that it has.

    The model is first built without memory and held against the file's header, so that a config of absurd sizes costs
    nothing.

    Args:
        build: Makes the model.
        paths: The safetensors file, or those that the weights are spread over.
        optional: Names that the file may hold beside the model's.
        rename: Takes a name of the file to the model's; None: they are the same.

    Returns:
        The model, and the optional tensors that were there.

    Raises:
        InputError: If the file is no safetensors file, or holds other names, shapes or no finite floats.
    """
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    rename = rename or str
    headers = [_header(path) for path in paths]
    found = {rename(name): shape for each in headers for name, shape in each.items() if name not in optional}
    source = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    _refuse_unfit(wanted, found, source)
    tensors = {rename(name): value for path in paths for name, value in read_weights(path).items()}
    extra = {name: tensors.pop(name) for name in optional if name in tensors}
    model = seeded(build)
    load_strictly(model, tensors, source)
    return model, extra


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Load `tensors` (any float dtype) into `model`; InputError naming the first differences."""
    check_weights(model.state_dict(), tensors, source)
    model.load_state_dict(dict(tensors), strict=False)


def check_weights(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: object) -> None:
    """InputError, naming `source`, unless `tensors` have the names and shapes of `own`, and are finite floats where
    those are floats.

    Counters of batch norm (`num_batches_tracked`) may be absent; nothing in evaluation depends on them.
    """
    needed = {name: value for name, value in own.items() if name in tensors or not name.endswith("num_batches_tracked")}
    shapes, found = ({name: tuple(value.shape) for name, value in each.items()} for each in (needed, tensors))
    _refuse_unfit(shapes, found, source)
    for name, value in tensors.items():
        if value.is_floating_point() != own[name].is_floating_point() or not _is_finite(value):
            raise InputError(f"{source}: {name} holds values that are no finite floats; the file is damaged")


def _is_finite(value: Tensor) -> bool:
    # The sum is an order of magnitude cheaper than a test of each, and only a finite one settles it.
    return bool(torch.isfinite(value.sum(dtype=torch.float64)) or torch.isfinite(value).all())


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without reading the tensors."""
    with reading(path, *_SAFETENSORS), safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - a file, not a dict
        for name, part in slices.items():
            if part.get_dtype() not in FLOATS:
                raise InputError(f"{path}: {name} is {part.get_dtype()}; weights are floats")
        return {name: tuple(part.get_shape()) for name, part in slices.items()}


def _refuse_unfit(wanted: Mapping[str, tuple], found: Mapping[str, tuple], source: object) -> None:
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in wanted]
    wrong += [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"{source}: the weights do not fit the network: {'; '.join(wrong[:3])}{more}")
