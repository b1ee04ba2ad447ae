"""Muon: momentum whose steps along all directions of a weight matrix are equally long.

Source: K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the scale of a step, which makes AdamW's
learning rates fit, is that of arXiv 2502.16982. timm and PyTorch have Muons too; both multiply in bfloat16 alone, which
many CPUs only emulate, a hundred times slower than float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

MOMENTUM = 0.95
# Five steps of Newton and Schulz with these coefficients bring singular values from 0.01 … 1 to 0.7 … 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Root mean square of what AdamW adds to a weight, over its learning rate (arXiv 2502.16982, section 2.2).
ADAMW_RMS = 0.2


def orthogonalize(matrix: Tensor) -> Tensor:
    """U Vᵀ of a matrix U S Vᵀ, about: singular values become 0.7 … 1.2.

    The iteration x ← (a + b xxᵀ + c (xxᵀ)²) x only ever multiplies x from the left with polynomials of xxᵀ, so it runs
    on that small square, and x is multiplied once: a fifth of the work where x is wide, as of convolutions.

    Args:
        matrix: `[m, n]` float.

    Returns:
        Like `matrix`, computed in float32.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix).float()
    x = x / x.norm().clamp_min(1e-7)
    gram = x @ x.mT
    identity = torch.eye(len(gram), device=x.device)
    a, b, c = COEFFICIENTS

    def polynomial(gram: Tensor) -> Tensor:
        return torch.addmm(a * identity + b * gram, gram, gram, alpha=c)

    factor = product = polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = polynomial(gram)
        product = factor @ product
    x = product @ x
    return (x.mT if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices and convolutions, whose inputs and taps are taken as one axis.

    Parameters may be sharded (FSDP2): every process then gathers the momentum, and computes the whole step.

    Attributes:
        found_inf: As fused AdamW takes it from a gradient scaler: a scalar on the device, 1 where the gradients are not
            finite, so that the step is to change nothing.
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters, lr: float, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """Apply the gradients; Nesterov's momentum, decoupled weight decay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp(parameter.grad, 1.0 - MOMENTUM)
                update = _orthogonal_step(parameter.grad.lerp(momentum, MOMENTUM))
                value = parameter.mul(1.0 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                for old, new in ((state["momentum"], momentum), (parameter, value)):
                    old, new = (each.to_local() if isinstance(each, DTensor) else each for each in (old, new))
                    old.copy_(new if self.found_inf is None else torch.where(self.found_inf > 0, old, new))


def _orthogonal_step(update: Tensor) -> Tensor:
    """The step of a learning rate of 1, sharded as `update` is."""
    whole = update.full_tensor() if isinstance(update, DTensor) else update
    matrix = whole.flatten(1)
    step = (orthogonalize(matrix) * (ADAMW_RMS * max(matrix.shape) ** 0.5)).view(whole.shape)
    if not isinstance(update, DTensor):
        return step
    replicated = DTensor.from_local(step, update.device_mesh, [Replicate()] * update.device_mesh.ndim)
    return replicated.redistribute(placements=update.placements)


def build_optimizers(
    model: nn.Module, name: str, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's trained parameters: AdamW alone, or ("muon") Muon for the weights of linear and
    convolutional layers and AdamW for everything else: biases, norms, embeddings, tokens."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices: set[nn.Parameter] = set()
    if name == "muon":
        layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))]
        matrices = {layer.weight for layer in layers}
    others = [parameter for parameter in trained if parameter not in matrices]
    found: list[torch.optim.Optimizer] = []
    if others:
        found.append(torch.optim.AdamW(others, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True))
    own = [parameter for parameter in trained if parameter in matrices]
    if own:
        found.append(Muon(own, lr=learning_rate, weight_decay=weight_decay))
    return found
