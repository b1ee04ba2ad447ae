"""The convolutional network: its cost beside Wan2.2's, and that images alone teach it nothing about time."""

import pytest
import torch

from benchmarks.tokenizer import build, multiply_adds
from tokenizer import PVVAE, PVVAEConfig
from tokenizer.layers import CausalConv3d, Upsample

# Of diffusers' AutoencoderKLWan with Wan2.2's config, encoding and decoding one clip of 17x256x256.
WAN22_MULTIPLY_ADDS = 12.374e12


def both(model: str) -> float:
    """Multiply-adds of encoding and decoding one clip of 17x256x256."""
    counts = multiply_adds(model, 17, 256)
    return counts["encode"] + counts["decode"]


def test_the_paper_preset_takes_about_half_the_multiply_adds_of_wan22():
    """Its encoder 1.10 times as many, its decoder 0.40."""
    counts = multiply_adds("paper", 17, 256)
    assert counts["encode"] == pytest.approx(2.18e12, rel=0.005)
    assert counts["decode"] == pytest.approx(4.20e12, rel=0.005)
    assert 0.5 < both("paper") / WAN22_MULTIPLY_ADDS < 0.53


def test_wan22_takes_as_many_multiply_adds_as_stated():
    pytest.importorskip("diffusers")
    parameters = build("wan2.2", torch.device("meta")).module.parameters()
    assert abs(sum(parameter.numel() for parameter in parameters) / 704.7e6 - 1) < 0.001
    assert abs(both("wan2.2") / WAN22_MULTIPLY_ADDS - 1) < 0.01


def small(norm: str = "rms") -> PVVAE:
    torch.manual_seed(0)
    return PVVAE(PVVAEConfig(latent_channels=6, channels=(8, 12, 16), blocks=1, middle_blocks=1, patch=2, norm=norm))


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 1, 32, 32, generator=torch.Generator().manual_seed(count)) * 2 - 1


def test_taps_on_the_past_start_at_zero_and_doubling_time_as_repetition():
    vae = small()
    convolutions = [module for module in vae.modules() if isinstance(module, CausalConv3d)]
    assert sum(module.kernel_size[0] > 1 for module in convolutions) > 10
    assert all(not module.weight[:, :, :-1].any() for module in convolutions)
    doublings = [module.time for module in vae.modules() if isinstance(module, Upsample) and module.time is not None]
    assert len(doublings) == 2
    for time in doublings:
        earlier, later = time.weight[:, :, -1, 0, 0].chunk(2)
        assert torch.equal(earlier, torch.eye(len(earlier))) and torch.equal(later, earlier) and not time.bias.any()


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_after_training_on_images_a_still_clip_decodes_like_its_image_in_every_frame(norm):
    vae, batch = small(norm).train(), images(4)
    for parameter in vae.decoder.clip_parameters():
        parameter.requires_grad_(False)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    before = vae.decode(vae.encode(batch).mean)
    for _ in range(5):
        output, _ = vae(batch, noise=torch.zeros(4, 6, 1, 4, 4))
        (output - batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        image = vae.decode(vae.encode(batch).mean)
        clip = vae.decode(vae.encode(batch.expand(-1, -1, 17, -1, -1)).mean)
    assert (image - before).abs().max() > 0.1
    assert torch.allclose(clip, image.expand_as(clip), atol=1e-4)
