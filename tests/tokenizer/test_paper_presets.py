"""The paper's presets at full width: they build, and a training step reaches every parameter."""

import pytest
import torch

from tokenizer.presets import PRESETS
from tokenizer.pvvae import PVVAE
from videos import ClipSpec, open_dataset, to_float


@pytest.fixture
def half_precision():
    """Models are built in bfloat16, which halves their memory."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "paper-transformer"])
def test_forward_and_backward_at_17x64x64_give_every_parameter_a_finite_gradient(preset, half_precision):
    torch.manual_seed(0)
    vae = PVVAE(PRESETS[preset].model)
    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(num_frames=17, size=64))
    video = to_float(torch.as_tensor(dataset[0]["video"])[None]).bfloat16()
    noise = torch.randn(1, *vae.spec.latent_shape(*video.shape[2:]))
    output, posterior = vae(video, dropped=(3, 4), noise=noise)  # of five groups
    assert output.shape == video.shape and posterior.mean.shape == (1, 64, 3, 4, 4)
    ((output - video).square().mean() + 1e-6 * posterior.kl().mean()).backward()
    without = [name for name, parameter in vae.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in vae.parameters())
