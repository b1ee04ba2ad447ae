"""A GPU that is not there: tensors that say they are on "cuda:0", and are computed by the CPU.

What a GPU would refuse is refused: tensors of two devices in one call, a generator of the other device, NumPy. So a
forgotten `.to(device)`, and what is computed only on a GPU, are tested on every machine. Neither speed and memory nor
autocast, streams, compilers and several processes are: those need the device (`pytest -m gpu`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import torch
import torch._dynamo  # which PyTorch imports late, and which cannot be imported under the modes below
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
_asked = threading.local()  # whether what runs was to be on "meta"
BETWEEN_DEVICES = {aten.copy_.default, aten._to_copy.default}
# A GPU's tensor may be indexed by the CPU's.
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}


class OnGPU(Tensor):
    """A tensor "on the GPU"; `held` has its values. PyTorch itself takes it for one on "meta", whose gradients need no
    driver."""

    @staticmethod
    def __new__(cls, held: Tensor):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "layout": held.layout}
        return Tensor._make_wrapper_subclass(cls, held.size(), **layout, dtype=held.dtype, device="meta")

    def __init__(self, held: Tensor):
        self.held = held

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})

    def __tensor_flatten__(self):
        return ["held"], None

    def tolist(self):
        return self.held.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


def is_gpu(device) -> bool:
    """Whether an argument names the GPU."""
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


def leaves(values) -> Iterator:
    """What is in lists and tuples, however deep. (PyTorch's own trees take most of a test's time.)"""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from leaves(value)
        else:
            yield value


def changed(value, change):
    """The same lists and tuples, with what is in them changed."""
    return type(value)(changed(each, change) for each in value) if type(value) in (list, tuple) else change(value)


def computed(func, args: tuple, kwargs: dict):
    """An operator on what is held, with results where a GPU would have them; RuntimeError where it would refuse."""
    place = kwargs.get("device")
    if place is not None and torch.device(place).type == "meta":
        if getattr(_asked, "meta", False):  # by name, as for a skeleton of a network
            return func(*args, **kwargs)
        place = GPU  # beside a tensor on the GPU, as PyTorch knows it
    tensors = [each for each in leaves((*args, *kwargs.values())) if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, OnGPU)]
    if there and func not in BETWEEN_DEVICES:
        meeting = [args[0], *args[2:3]] if func in INDEXING else tensors
        if not all(isinstance(each, OnGPU) or not each.dim() for each in meeting if isinstance(each, Tensor)):
            found = ", ".join(f"{each.device} {list(each.shape)}" for each in tensors)
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {found}")
    if func is aten.is_pinned.default:
        return False
    held = {name: changed(each, _held) for name, each in kwargs.items()}
    if place is not None:
        held["device"] = CPU if is_gpu(place) else place
    if held.get("pin_memory"):
        held["pin_memory"] = False
    out = func(*changed(args, _held), **held)
    if func is aten._local_scalar_dense.default:
        return out
    given = {id(each.held): each for each in there}  # what is changed in place comes back as it was
    if place is not None:
        on_gpu = is_gpu(place)
    else:
        on_gpu = isinstance(args[0], OnGPU) if func in BETWEEN_DEVICES else bool(there)

    def placed(each):
        if not isinstance(each, Tensor):
            return each
        return given[id(each)] if id(each) in given else OnGPU(each) if on_gpu else each

    return changed(out, placed)


def _held(value):
    return value.held if isinstance(value, OnGPU) else value


class Operators(TorchDispatchMode):
    """Also of those operators that make a tensor from none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """What would ask the driver before there is an operator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") in ("meta", torch.device("meta")):
            _asked.meta = True
            try:
                return func(*args, **kwargs)
            finally:
                _asked.meta = False
        on_gpu = is_gpu(kwargs.get("device"))
        generator = kwargs.get("generator")
        if generator is not None:
            wanted = "cuda" if on_gpu or any(isinstance(each, OnGPU) for each in args) else "cpu"
            if generator.device.type != wanted:
                raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{generator.device}'")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnGPU):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(each) if isinstance(each, list) else each for each in index)
            args = (args[0], index, *args[2:])
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and on_gpu:
            del kwargs["device"]
            return func(*args, **kwargs).to(GPU)
        if func is Tensor.to:  # "cuda" without a number is for the driver to say
            args = tuple(GPU if is_gpu(each) else each for each in args)
        if on_gpu:
            kwargs["device"] = GPU
        return func(*args, **kwargs)


class Generator(torch.Generator):
    """One that says where it is."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, device="cpu")
        self.place = torch.device(device)
        return self

    def __init__(self, device="cpu"):
        pass

    device = property(lambda self: self.place)


class Stream:
    """A queue, or an event in it, that has always been done already."""

    device, device_index, stream_id, device_type, cuda_stream = GPU, 0, 0, 1, 0

    def __init__(self, *args, **kwargs):
        pass

    def is_capturing(self) -> bool:
        return False

    def record_event(self, event=None):
        return event or Stream()

    def query(self) -> bool:
        return True

    def nothing(self, *args) -> None:
        pass

    record = wait = synchronize = wait_stream = wait_event = nothing


def _nothing(*args, **kwargs) -> None:
    pass


OF_CUDA = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "_lazy_init": _nothing,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "is_current_stream_capturing": lambda: False,
    "get_device_name": lambda device=None: "Pretended",
    "get_device_capability": lambda device=None: (9, 0),
    "is_bf16_supported": lambda including_emulation=True: True,
    "mem_get_info": lambda device=None: (8 << 30, 16 << 30),
    "memory_allocated": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 0,
    "get_rng_state": lambda device=None: torch.get_rng_state(),
    "set_rng_state": _nothing,
    "manual_seed_all": _nothing,
    "stream": lambda stream: nullcontext(),
    "current_stream": lambda device=None: Stream(),
    "Stream": Stream,
    "Event": Stream,
    **dict.fromkeys(("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats"), _nothing),
}
OF_ACCELERATOR = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device_index": lambda: 0,
    "current_stream": lambda device=None: Stream(),
    "set_device_index": _nothing,
    "synchronize": _nothing,
}


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """While it lasts, "cuda:0" is there, also for threads that begin in it."""
    run = threading.Thread.run

    def run_too(self):
        with Calls(), Operators():
            run(self)

    def load(file, map_location=None, _load=torch.load, **kwargs):
        if not is_gpu(map_location):
            return _load(file, map_location=map_location, **kwargs)
        return tree_map_only(Tensor, lambda each: each.to(GPU), _load(file, map_location="cpu", **kwargs))

    with ExitStack() as stack:
        for place, names in ((torch.cuda, OF_CUDA), (torch.accelerator, OF_ACCELERATOR)):
            for name, value in names.items():
                stack.enter_context(patch.object(place, name, value))
        stack.enter_context(patch.object(torch, "Generator", Generator))
        stack.enter_context(patch.object(torch, "load", load))
        stack.enter_context(patch.object(threading.Thread, "run", run_too))
        stack.enter_context(patch.object(Tensor, "pin_memory", lambda self, *args: self))
        stack.enter_context(patch.object(Tensor, "record_stream", _nothing))
        stack.enter_context(patch.object(Tensor, "cuda", lambda self, *args, **kwargs: self.to(GPU)))
        stack.enter_context(Calls())
        stack.enter_context(Operators())
        yield GPU
