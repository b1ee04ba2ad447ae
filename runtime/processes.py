"""Devices, compute types, and the processes of one launch (torchrun sets RANK and WORLD_SIZE)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.stopping import Stopped, stop_asked

# How long a process waits for the others, which may have more of the work, or slower disks; NCCL's ten minutes would
# end the whole launch. No longer than that, since not every launcher notices that one has died.
PATIENCE = timedelta(hours=3)


@dataclass(frozen=True)
class World:
    """This process among those of its launch.

    Attributes:
        launch: A text that the processes of this launch share and no other launch has; None for a process alone.
    """

    rank: int
    size: int
    device: torch.device
    launch: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def rows(self, batch_size: int, parts: int = 1) -> range:
        """The rows of a global batch that belong to this process; InputError unless the processes divide it, and the
        `parts` in which each computes its share."""
        if batch_size % (self.size * parts):
            by = f"{self.size} processes" + (f" times --accumulate {parts}" if parts > 1 else "")
            raise InputError(
                f"--batch-size {batch_size} does not divide over {by}; give a multiple of {self.size * parts}"
            )
        share = batch_size // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def blocks(self, count: int, block_size: int) -> Iterator[range]:
        """This process's blocks of `count` rows: blocks take turns, and are the same for any number of processes."""
        for start in range(self.rank * block_size, count, self.size * block_size):
            yield range(start, min(start + block_size, count))

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor, in its place on the device; one exchange."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def sum(self, values: Tensor) -> list[float]:
        """The sum over all processes of a vector of numbers, which the host waits for."""
        return self.add(values).tolist()

    def barrier(self) -> None:
        """Wait for the other processes, if there are any."""
        if self.size > 1:
            torch.distributed.barrier()

    def any(self, flag: object) -> bool:
        """Whether `flag` is true on some process; every process must ask."""
        return self.sum(torch.tensor([float(bool(flag))], device=self.device))[0] > 0

    def check_stop(self) -> None:
        """End the command here on all processes, if one of them was asked to stop: raises Stopped; every process must
        ask."""
        if self.any(stop_asked()):
            raise Stopped(stop_asked() or "another process")

    def first(self, job: Callable[[], object]) -> object:
        """Let the main process do `job` while the others wait; its result (None on the others), and its InputError on
        all of them."""
        result, error = None, None
        if self.is_main:
            try:
                result = job()
            except InputError as caught:
                error = str(caught)
        error = self.same(error)
        if error is not None:
            raise InputError(error)
        return result

    def agreed(self, job: Callable[[], object]) -> object:
        """`first`, with its result on all of them: for what may change between two looks at the disk."""
        return self.same(self.first(job))

    def same(self, value: object) -> object:
        """The main process's value, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, device=self.device)
        return box[0]


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Whether a with-block takes only kernels that give the same bits each time; on a CPU most do anyway."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # what is not written is not read here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def start_processes(device: str = "auto") -> World:
    """Join the launch that torchrun describes; alone, a world of one."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    resolved = resolve_device(device)
    if resolved.type == "cuda":
        if size > 1:
            # Where each process is shown one GPU, as by srun --gpus-per-task=1, it is the first for all of them.
            place = os.environ.get("LOCAL_RANK", "0") if torch.cuda.device_count() > 1 else "0"
            resolved = resolve_device(f"cuda:{place}")
        if resolved.index is not None:  # streams and events that name no device are the current one's
            torch.cuda.set_device(resolved)
    if size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if resolved.type == "cuda" else "gloo", timeout=PATIENCE)
    world = World(rank, size, resolved)
    return replace(world, launch=world.same(secrets.token_hex(8))) if size > 1 else world


def end_processes() -> None:
    """Leave the launch, if this process joined one; all of them do that when their work has ended well."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def resolve_device(device: str) -> torch.device:
    """The device of a `--device` flag; "auto" is the first GPU, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"--device {device!r} is not a device; give cpu, cuda, cuda:1 or auto") from error
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device!r} is not supported; give cpu or cuda")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices; give cpu or auto"
        )
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The compute type of a `--dtype` flag; "auto" is bfloat16 where the device multiplies it natively."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else native_bfloat16()
    return torch.bfloat16 if native else torch.float32


def native_bfloat16() -> bool:
    """Whether the CPU has bfloat16 dot products (AVX512_BF16 or AMX), and PyTorch and oneDNN may use them.

    Without them bfloat16 is emulated: right, but convolutions are a hundred times slower than in float32.
    `ATEN_CPU_CAPABILITY=avx2` beside `ONEDNN_MAX_CPU_ISA=AVX2` makes any machine such a one.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    # oneDNN calls bfloat16 supported on every AVX512, also where it emulates it.
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in ("AVX512_CORE", "AVX512_CORE_VNNI")
    return allowed and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bfloat16_products()


def _has_bfloat16_products() -> bool:
    try:
        with open("/proc/cpuinfo") as info:
            flags = next((line for line in info if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision in `dtype`; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)
