"""Counting memory on tensors without content: the same bytes as real tensors keep."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import paper_memory
from benchmarks.counting import counting_live_bytes, saved_bytes
from benchmarks.paper_memory import GIB, generator_row, largest_batch, step_bytes
from tokenizer import PVVAE, PVVAEConfig, layers, winograd

CONFIGS = {
    "cnn": PVVAEConfig(latent_channels=4, channels=(8, 12, 16), blocks=1, middle_blocks=1),
    "transformer": PVVAEConfig(architecture="transformer", latent_channels=4, patch=16, width=24, depth=2, heads=2),
}


def kept(config: PVVAEConfig, size: int) -> int:
    vae, video = PVVAE(config).train(), torch.zeros(1, 3, 17, size, size)
    return saved_bytes(lambda: vae(video), [*vae.parameters(), video])


@pytest.mark.parametrize("architecture", CONFIGS)
def test_tensors_without_content_keep_as_many_bytes_as_real_ones(architecture):
    real = kept(CONFIGS[architecture], 64)
    with FakeTensorMode():
        assert kept(CONFIGS[architecture], 64) == real > 1e6


def test_what_the_cnn_keeps_grows_in_proportion_to_the_pixels():
    # Between sizes at which attention takes the same path; its scores, the square of the cells, are a small part.
    with FakeTensorMode():
        small, middle, large = (kept(CONFIGS["cnn"], size) for size in (64, 128, 256))
    assert (large - middle) / (middle - small) == pytest.approx(4, rel=0.02)


def test_bytes_live_from_the_operator_that_makes_them_to_the_last_reference():
    given = torch.zeros(256)
    with counting_live_bytes([given]) as live:
        a = given + 1
        b = a.view(16, 16)  # no memory of its own
        assert (live.now, live.peak) == (1024, 1024)
        c = torch.cat([given, a])
        del a
        assert live.now == 1024 + 2048
        del b
        assert (live.now, live.peak) == (2048, 3072)
        del c
    assert (live.now, live.peak) == (0, 3072)


def test_a_step_counts_what_its_stage_trains_and_recomputing_needs_less():
    shape, config = (1, 3, 5, 64, 64), CONFIGS["cnn"]
    with torch.device("meta"):
        vae = PVVAE(config)
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in vae.named_children()}
    video, saving = (step_bytes(config, "video", shape, recompute=recompute) for recompute in (False, True))
    decoder = step_bytes(config, "decoder", shape, recompute=False)
    assert video["parameters"] == video["trained"] == sum(size.values())
    assert decoder["parameters"] == video["parameters"] and decoder["trained"] == size["decoder"]
    assert saving["activations"] < video["activations"] and decoder["activations"] < video["activations"]
    assert {**video, "activations": 0} == {**saving, "activations": 0}


def test_layers_are_counted_as_on_a_gpu_where_norms_keep_their_input_alone(monkeypatch):
    shape, config = (1, 3, 5, 64, 64), CONFIGS["cnn"]
    counted = step_bytes(config, "video", shape, recompute=False)["activations"]
    assert layers.on_cpu(torch.zeros(1)) and winograd.pays(torch.zeros(1, 32, 11, 16, 16), torch.zeros(32, 32, 3), True)
    monkeypatch.setattr(paper_memory, "as_on_a_gpu", nullcontext)
    # The discriminators, equal in both, are most of so small a step.
    assert counted < 0.95 * step_bytes(config, "video", shape, recompute=False)["activations"]


@pytest.mark.parametrize(("room", "clips"), [(0.5, 0), (1, 1), (4.4, 4), (8, 8), (20, 12), (24, 13)])
def test_the_largest_batch_lies_on_the_line_between_counts(room, clips):
    assert largest_batch({1: GIB, 8: 8 * GIB, 12: 20 * GIB}, room * GIB) == clips


def test_the_largest_generator_trains_on_one_gpu_at_the_papers_batch():
    """64 clips: in 80 GiB without computing a matrix product twice, in 45 with blocks computed again."""
    cheap, blocks = (generator_row("latte-xl", 64, how)["total"] for how in ("cheap", "blocks"))
    assert 60 * GIB < cheap < 80 * GIB and 20 * GIB < blocks < 45 * GIB
