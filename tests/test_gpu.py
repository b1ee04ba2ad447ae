"""The same results on a GPU as on the CPU, within stated bounds. Skipped where there is none."""

import pytest
import torch

from eval.features.c3d import C3D
from eval.features.i3d import I3D
from generator import Latte, LatteConfig, integrate
from runtime.processes import autocast, exact_float32
from tokenizer import PVVAE, PVVAEConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SMALL = PVVAEConfig(latent_channels=6, channels=(16, 16, 32), blocks=1, middle_blocks=1, patch=4)


@pytest.fixture
def exact_convolutions():
    """float32 products without TF32, so that bounds are those of float32."""
    with exact_float32(torch.device("cuda")):
        yield


def clip() -> torch.Tensor:
    return torch.rand(2, 3, 17, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_tokenizer_gives_the_cpus_result_and_chunks_equal_the_whole(exact_convolutions):
    torch.manual_seed(0)
    vae, video = PVVAE(SMALL).eval(), clip()
    with torch.no_grad():
        expected = vae.decode(vae.encode(video).mean)
        vae.cuda()
        latents = vae.encode(video.cuda()).mean
        whole, parts = vae.decode(latents), vae.decode(latents, chunk_groups=2)
    assert torch.allclose(whole.cpu(), expected, atol=1e-3)
    assert torch.allclose(whole, parts, atol=1e-4)


def test_a_bfloat16_training_step_reaches_every_parameter():
    vae = PVVAE(SMALL).cuda().to(memory_format=torch.channels_last_3d).train()
    with autocast(torch.device("cuda"), torch.bfloat16):
        output, posterior = vae(clip().cuda(), num_dropped=2)
    (output.square().mean() + 1e-6 * posterior.kl().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())


def test_the_generator_samples_the_cpus_latents(exact_convolutions):
    torch.manual_seed(0)
    model = Latte(
        LatteConfig(channels=4, groups=3, height=4, width=4, num_classes=3, hidden_size=32, depth=4, num_heads=4)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    noise, labels = torch.randn(3, 4, 3, 4, 4), torch.tensor([0, 1, 2])
    expected = integrate(model, noise, labels, steps=8, guidance_scale=2.0)
    found = integrate(model.cuda(), noise.cuda(), labels.cuda(), steps=8, guidance_scale=2.0)
    assert torch.allclose(found.cpu(), expected, atol=1e-3)


@pytest.mark.parametrize("make", [I3D, C3D])
def test_feature_networks_give_the_cpus_features(make):
    """With TF32 allowed outside: the networks turn it off themselves."""
    torch.manual_seed(0)
    network, video = make(), clip()
    with torch.no_grad():
        expected = network.features(video)
        found = network.cuda().features(video.cuda()).cpu()
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
