"""The same results on a GPU as on the CPU, within stated bounds. Skipped where there is none."""

import numpy as np
import pytest
import torch

from eval.features.c3d import C3D
from eval.features.clips import exact_float32
from eval.features.i3d import I3D
from generator import Latte, LatteConfig, flow_loss, integrate
from generator.step_numbers import Reading, step_sums, step_values
from runtime.processes import World, autocast
from runtime.trainer import Trainer
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


# Cells along a side of latents: of 4 attention is written out, of 8 it is a fused kernel, as of all presets of Latte.
SIDES = (4, 8)


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
        output, posterior = vae(clip().cuda(), dropped=2)
    (output.square().mean() + 1e-6 * posterior.kl().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())


def test_batches_made_beside_a_step_are_those_made_alone(tmp_path):
    from generator.batches import LatentBatches
    from latents_cache import create_latents, open_latents

    shape, values = (4, 2, 8, 8), np.random.default_rng(0)
    with create_latents(tmp_path / "a.h5", 64, shape, {"num_classes": 4}) as writer:
        for row in range(64):
            writer.write(row, *values.standard_normal((2, *shape)), label=row % 4)
        writer.finish()
    reader = open_latents(tmp_path / "a.h5")
    for draws in ("host", "device"):
        whole, half = (
            LatentBatches(reader, 16, rows=rows, seed=0, num_classes=4, device="cuda", draws=draws)
            for rows in (range(16), range(8, 16))
        )
        for step, batch in enumerate(whole.stream(0, 6)):
            busy = torch.randn(2000, 2000, device="cuda") @ torch.randn(2000, 2000, device="cuda")
            again, other = whole.at(step), half.at(step)
            torch.cuda.synchronize()
            assert busy.isfinite().all() and all(value.device.type == "cuda" for value in batch)
            assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
            assert all(torch.equal(a[8:], b) for a, b in zip(batch, other, strict=True))
        if draws == "host":
            alone = LatentBatches(reader, 16, rows=range(16), seed=0, num_classes=4).at(5)
            assert torch.equal(batch.noise.cpu(), alone.noise) and torch.equal(batch.t.cpu(), alone.t)


@pytest.mark.parametrize("side", SIDES)
def test_the_generator_samples_the_cpus_latents(side, exact_convolutions):
    torch.manual_seed(0)
    size = {"channels": 4, "groups": 3, "height": side, "width": side}
    model = Latte(LatteConfig(**size, num_classes=3, hidden_size=32, depth=4, num_heads=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    noise, labels = torch.randn(3, 4, 3, side, side), torch.tensor([0, 1, 2])
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


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("side", SIDES)
def test_a_training_step_waits_for_nothing(side, tmp_path):
    device, size = torch.device("cuda"), {"channels": 4, "groups": 3, "height": side, "width": side}
    model = Latte(LatteConfig(**size, hidden_size=32, depth=2, num_heads=4)).cuda()
    model.recompute = "cheap"
    trainer = Trainer(model, World(0, 1, device), learning_rate=1e-3, gradient_clip=1.0)
    latents, t = torch.randn(8, 4, 3, side, side, device=device), torch.rand(8, device=device)
    readings = []
    try:
        for step in range(3):
            if step:  # the first one builds the optimizer's state
                torch.cuda.set_sync_debug_mode("error")
            with autocast(device, torch.bfloat16):
                losses = flow_loss(trainer.network, latents, None, noise=torch.randn_like(latents), t=t)
            losses.mean().backward()
            sums = step_sums(losses.detach(), t, trainer.clip(), trainer.world, None)
            trainer.update(step, 1e-3, sums.isfinite().all(), tmp_path)
            readings.append(Reading(torch.cat([sums, trainer.skips])))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    values = [step_values(reading.get()[:-2])[0] for reading in readings]
    assert all(value["loss"] > 0 and value["grad_norm"] > 0 for value in values)
