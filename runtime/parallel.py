"""One model on several processes: a copy on each (DDP), or its parameters spread over them (FSDP2).

What is saved is the same in every case: whole tensors under the model's own names, so a checkpoint of one process, of
DDP and of FSDP2 load in each other.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from runtime.errors import InputError
from runtime.processes import World
from runtime.weights import check_weights

MODES = ("ddp", "fsdp")
VARIANTS = 128
LARGE = 100_000_000  # parameters from which compiling is soon made up for
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_GO_BACK = "remove that checkpoint to go on from the one before"


def distribute(
    model: nn.Module, world: World, mode: str = "ddp", gather_dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The module to call in place of `model` when training.

    Args:
        model: On `world.device`, with the same weights on every process. Under "fsdp" its parameters become sharded.
        mode: "ddp" or "fsdp"; alone, a process needs neither.
        gather_dtype: What sharded parameters of blocks are sent and computed with in; each process keeps its part of
            them, and adds up gradients, in float32. Whoever calls blocks uses autocast of the same type.

    Returns:
        `model` itself, or its DDP wrapper. Every trained parameter must take part in every step: a process that waits
        for the gradient of an unused one waits for ever.
    """
    if mode not in MODES:
        raise InputError(f"--parallel {mode!r} is not known; known: {', '.join(MODES)}")
    if world.size == 1:
        return model
    if mode == "fsdp":
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # channels-last weights cannot be sharded
        mesh = torch.distributed.init_device_mesh(world.device.type, (world.size,))
        policy = MixedPrecisionPolicy()
        if gather_dtype != torch.float32:
            policy = MixedPrecisionPolicy(gather_dtype, torch.float32, cast_forward_inputs=False)
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)
        for method in ("encode", "decode", "predict"):
            if hasattr(model, method):
                register_fsdp_forward_method(model, method)  # gather the parameters there as in `forward`
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The parts that are sharded, or compiled, one by one: what the model keeps in its innermost ModuleLists."""
    members = [member for each in model.modules() if isinstance(each, nn.ModuleList) for member in each]
    return [
        member
        for member in members
        if not any(isinstance(part, nn.ModuleList) for part in member.modules())
        and next(member.parameters(), None) is not None
    ]


def synchronising(network: nn.Module, on: bool) -> AbstractContextManager:
    """Whether the backward passes of a with-block average gradients over processes; off while accumulating."""
    if isinstance(network, DistributedDataParallel):
        return nullcontext() if on else network.no_sync()
    if hasattr(network, "set_requires_gradient_sync"):
        network.set_requires_gradient_sync(on)
    return nullcontext()


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the model block by block: quick to compile, and `encode` and `decode` profit as much as `forward`."""
    # Blocks of one class share their code, and PyTorch gives up compiling code that it has seen in 8 variants: widths,
    # resolutions and numbers of frames make more.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    for block in blocks_of(model):
        block.compile(backend=backend)


def compile_as_asked(model: nn.Module, choice: str, device: torch.device) -> bool:
    """`compile_blocks` as a flag `--compile` says, and whether it was called.

    Args:
        choice: "true", "false", or "auto": a large model on a GPU, where Inductor finds what it builds kernels with.
    """
    if choice == "auto":
        large = sum(parameter.numel() for parameter in model.parameters()) >= LARGE
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")  # of Triton's launchers
        wanted = large and device.type == "cuda" and importlib.util.find_spec("triton") and compiler
    else:
        wanted = choice == "true"
    if wanted:
        compile_blocks(model)
    return bool(wanted)


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. Every process must call it."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded."""
    return value.detach().to_local() if isinstance(value, DTensor) else value.detach()


@torch.no_grad()
def assign(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into `target`, which may be sharded."""
    value = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements).to_local()
        target = target.to_local()
    target.copy_(value)


def state_of(model: nn.Module, world: World, replaced: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The model's state dict with whole tensors on the CPU; every process must call it, and the main one gets it.

    Args:
        replaced: Tensors, perhaps sharded, that stand in for those of the same names.
    """
    found = {}
    for name, value in {**model.state_dict(), **(replaced or {})}.items():
        value = whole(value)
        if world.is_main:
            found[name] = value.cpu()
    return found


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Inverse of `state_of`, for a model that may be sharded; InputError, naming `source`, when the state is of another
    model or not finite."""
    own = model.state_dict()
    check_weights(own, state, source)
    for name, value in own.items():
        assign(value, state[name])


def optimizer_state_of(optimizer: torch.optim.Optimizer, model: nn.Module, world: World) -> dict:
    """The optimizer's state by parameter name, whole and on the CPU; every process must call it, the main one gets it.

    The learning rate and the like are not in it: the command gives them.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    found: dict[str, dict] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            values = {}
            for key, value in optimizer.state.get(parameter, {}).items():
                values[key] = whole(value).cpu() if isinstance(value, Tensor) else value
            if world.is_main and values:
                found[names[parameter]] = values
    return found


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, dict], source: object
) -> None:
    """Inverse of `optimizer_state_of`; InputError, naming `source`, when the state is of another model or optimizer, or
    not finite."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        keys = ("step", "exp_avg", "exp_avg_sq") if "betas" in group else ("momentum",)  # AdamW, Muon
        for parameter in group["params"]:
            name = names[parameter]
            kept = state.get(name) if isinstance(state, Mapping) else None
            if not isinstance(kept, Mapping):
                raise InputError(f"{source}: no optimizer state of {name}; {_GO_BACK}")
            for key in keys:
                value, shape = kept.get(key), torch.Size() if key == "step" else parameter.shape
                if not isinstance(value, Tensor) or value.shape != shape:
                    found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise InputError(
                        f"{source}: the optimizer's {key} of {name} is {found}, not {list(shape)}; {_GO_BACK}"
                    )
                is_plain = value.layout == torch.strided and value.dtype in _FLOATS and not value.is_meta
                if not (is_plain and value.isfinite().all()):
                    raise InputError(f"{source}: the optimizer's {key} of {name} is no finite numbers; {_GO_BACK}")
                optimizer.state[parameter][key] = _placed(value, parameter, key, group)


def _placed(value: Tensor, parameter: Tensor, key: str, group: dict) -> Tensor:
    """An entry of the optimizer's state where the optimizer keeps it: moments beside their parameter."""
    if key == "step":
        # The count of steps lives on the CPU, unless the fused kernel wants it on the device.
        return value.to(parameter.device if group.get("fused") else "cpu").clone()
    moment = torch.empty_like(parameter, requires_grad=False)
    assign(moment, value)
    return moment
