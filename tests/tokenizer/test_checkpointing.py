"""Recomputed activations: the same gradients, less memory."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from tokenizer import PVVAE, PVVAEConfig

CONFIGS = {
    "cnn": PVVAEConfig(latent_channels=4, channels=(8, 12, 16), blocks=2, middle_blocks=1, patch=2),
    "transformer": PVVAEConfig(
        architecture="transformer", latent_channels=4, patch=8, width=24, depth=3, heads=2, window=2
    ),
}


def step(architecture: str, recompute: bool, chunk_groups: int | None) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of one reconstruction, and the bytes kept for the backward pass."""
    torch.manual_seed(0)
    vae = PVVAE(CONFIGS[architecture]).train()
    for parameter in vae.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    vae.encoder.checkpoint_blocks = vae.decoder.checkpoint_blocks = recompute
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = vae.decode(vae.encode(video, chunk_groups).mean, chunk_groups)
    (output - video).square().mean().backward()
    return {name: parameter.grad for name, parameter in vae.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize("chunk_groups", [None, 1])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_recomputing_activations_changes_no_gradient_and_keeps_less(architecture, chunk_groups):
    kept, much = step(architecture, False, chunk_groups)
    recomputed, little = step(architecture, True, chunk_groups)
    assert kept.keys() == recomputed.keys()
    for name, gradient in kept.items():
        if name == "padding.token":  # nothing was dropped
            assert gradient is None and recomputed[name] is None
        else:
            assert gradient.abs().sum() > 0 and torch.allclose(gradient, recomputed[name], rtol=1e-5, atol=1e-8), name
    assert little < 0.7 * much


@pytest.mark.parametrize("architecture", CONFIGS)
def test_nothing_is_recomputed_outside_training(architecture, monkeypatch):
    import tokenizer.layers as layers

    def refuse(*_, **__):
        raise AssertionError("checkpoint was called")

    monkeypatch.setattr(layers, "checkpoint", refuse)
    vae = PVVAE(CONFIGS[architecture])
    vae.encoder.checkpoint_blocks = vae.decoder.checkpoint_blocks = True
    video = torch.zeros(1, 3, 5, 32, 32)
    vae.eval()(video)
    with torch.no_grad():
        vae.train()(video)
    with pytest.raises(AssertionError, match="checkpoint was called"):
        vae(video)
