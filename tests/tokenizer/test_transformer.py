"""PV-VAE-T: size, chunks, causality, window, positions, images, gradients, files."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tokenizer import PVVAE, PVVAEConfig
from tokenizer.presets import PRESETS
from tokenizer.transformer import BlockCausalAttention, axial_rotary, axis_widths
from tokenizer.zoo import load
from videos import ClipSpec, open_dataset, to_float

SMALL = PVVAEConfig(architecture="transformer", latent_channels=6, patch=8, width=24, depth=2, heads=2, decoder_depth=3)
WINDOWED = dataclasses.replace(SMALL, window=2)


def built(config: PVVAEConfig = SMALL, seed: int = 0) -> PVVAE:
    torch.manual_seed(seed)
    return PVVAE(config).eval()


def clip(frames: int, height: int = 32, width: int = 24) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def chunkings(groups: int) -> list[list[int]]:
    """Every way to cut `groups` groups into chunks."""
    if groups == 0:
        return [[]]
    return [[first, *rest] for first in range(1, groups + 1) for rest in chunkings(groups - first)]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal within 1e-5 of the larger values, the bound of float32 sums in another order."""
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def storage_bytes(past: list) -> int:
    """Memory that a past keeps alive."""
    _, blocks = past
    return sum(part.untyped_storage().nbytes() for block in blocks for part in block)


def test_the_paper_preset_counts_1200_million_parameters_within_five_percent():
    preset = PRESETS["paper-transformer"]
    with torch.device("meta"):
        vae = PVVAE(preset.model)
    count = sum(parameter.numel() for parameter in vae.parameters())
    assert abs(count / 1.2e9 - 1) < 0.05
    assert (len(vae.encoder.blocks), len(vae.decoder.blocks)) == (12, 12)
    assert (preset.model.heads, preset.model.width // preset.model.heads) == (16, 128)
    assert (vae.spec.temporal, vae.spec.spatial, vae.spec.channels) == (4, 16, 64)
    assert preset.training == PRESETS["paper"].training and preset.stage_steps == PRESETS["paper"].stage_steps
    video = torch.empty(1, 3, 17, 256, 256, device="meta")
    assert vae.encode(video).mean.shape == (1, 64, 5, 16, 16)


@pytest.mark.parametrize("frames", [1, 5, 17])
@pytest.mark.parametrize("size", [(8, 8), (32, 24), (40, 64)])
def test_decoder_returns_as_many_frames_as_the_encoder_saw(frames, size):
    vae = built()
    posterior = vae.encode(clip(frames, *size))
    assert posterior.mean.shape == posterior.logvar.shape
    assert posterior.mean.shape == (1, 6, 1 + (frames - 1) // 4, size[0] // 8, size[1] // 8)
    assert vae.decode(posterior.mean).shape == (1, 3, frames, *size)


@pytest.mark.parametrize("config", [SMALL, WINDOWED, dataclasses.replace(SMALL, window=1)], ids=["all", "2", "1"])
def test_every_chunking_equals_the_whole(config):
    vae, video = built(config), clip(21)
    with torch.no_grad():
        latents, _ = vae.encoder(video)
        frames, _ = vae.decoder(latents[:, :6])
        for chunks in chunkings(6):
            encoder_past = decoder_past = None
            start, encoded, decoded = 0, [], []
            for groups in chunks:
                stop = start + groups
                part = video[:, :, max(0, 4 * start - 3) : 4 * stop - 3]
                part, encoder_past = vae.encoder(part, encoder_past)
                encoded.append(part)
                part, decoder_past = vae.decoder(latents[:, :6, start:stop], decoder_past)
                decoded.append(part)
                start = stop
            assert close(torch.cat(encoded, dim=2), latents), chunks
            assert close(torch.cat(decoded, dim=2), frames), chunks


def test_chunk_groups_reaches_the_network():
    vae, video = built(WINDOWED), clip(21)
    with torch.no_grad():
        whole = vae.encode(video)
        for chunk in range(1, 7):
            assert close(vae.encode(video, chunk_groups=chunk).mean, whole.mean)
            assert close(vae.decode(whole.mean, chunk_groups=chunk), vae.decode(whole.mean))


@pytest.mark.parametrize("config", [SMALL, WINDOWED], ids=["all", "2"])
@pytest.mark.parametrize("frame", [0, 1, 8, 20])
def test_a_changed_frame_leaves_earlier_groups_bit_identical(config, frame):
    vae, video = built(config), clip(21)
    before = vae.encode(video).mean
    changed = video.clone()
    changed[:, :, frame] *= -1
    after = vae.encode(changed).mean
    group = (frame + 3) // 4
    assert torch.equal(before[:, :, :group], after[:, :, :group])
    assert (before[:, :, group] - after[:, :, group]).abs().max() > 1e-3


@pytest.mark.parametrize("group", [0, 1, 5])
def test_changed_latents_leave_earlier_frames_bit_identical(group):
    vae, latents = built(), torch.randn(1, 6, 6, 4, 3)
    before = vae.decode(latents)
    latents[:, :, group] += 1.0
    after = vae.decode(latents)
    first = 0 if group == 0 else 4 * group - 3
    assert torch.equal(before[:, :, :first], after[:, :, :first])
    assert ((before[:, :, first:] - after[:, :, first:]).abs().amax((0, 1, 3, 4)) > 1e-4).all()


@pytest.mark.parametrize(("window", "reached"), [(0, [2, 3, 4, 5]), (1, [2]), (2, [2, 3]), (3, [2, 3, 4])])
def test_one_layer_reaches_exactly_the_groups_of_its_window(window, reached):
    vae, video = built(dataclasses.replace(SMALL, depth=1, window=window)), clip(21)
    changed = video.clone()
    changed[:, :, 5:9] *= -1  # group 2
    difference = (vae.encode(video).mean - vae.encode(changed).mean).abs().amax((0, 1, 3, 4))
    assert [group for group in range(6) if difference[group] > 0] == reached


def test_attention_equals_one_masked_attention_over_the_whole_clip():
    torch.manual_seed(0)
    groups, height, width = 5, 2, 3
    cells = height * width
    attention = BlockCausalAttention(24, 2, window=2)
    rotary = axial_rotary(0, (groups, height, width), 12, torch.device("cpu"))
    x = torch.randn(2, groups, cells, 24)
    query, key, value = attention.qkv(x).unflatten(-1, (3, 2, 12)).permute(3, 0, 4, 1, 2, 5).flatten(3, 4)
    sin, cos = rotary.chunk(2, dim=-1)

    def turned(part):
        pairs = part.unflatten(-1, (-1, 2))
        return part * cos + torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2) * sin

    number = torch.arange(groups).repeat_interleave(cells)
    age = number[:, None] - number
    expected = F.scaled_dot_product_attention(
        turned(attention.norm_query(query)), turned(attention.norm_key(key)), value, attn_mask=(age >= 0) & (age < 2)
    )
    expected = attention.out(expected.transpose(1, 2).flatten(2).unflatten(1, (groups, cells)))
    assert torch.allclose(attention(x, rotary)[0], expected, atol=1e-6)


def test_scores_depend_on_the_distance_of_positions_along_each_axis_alone():
    assert axis_widths(128) == (44, 42, 42) and sum(axis_widths(6)) == 6
    torch.manual_seed(0)
    query, key = torch.randn(2, 12, dtype=torch.float64)
    table = axial_rotary(3, (5, 6, 7), 12, torch.device("cpu")).double().unflatten(0, (5, 6, 7))

    def turned(vector, *position):
        sin, cos = table[position].chunk(2)
        pairs = vector.unflatten(0, (-1, 2))
        return vector * cos + torch.stack([-pairs[:, 1], pairs[:, 0]], dim=-1).flatten() * sin

    def score(a, b):
        return turned(query, *a) @ turned(key, *b)

    assert torch.isclose(score((0, 1, 2), (1, 3, 5)), score((3, 3, 3), (4, 5, 6)), atol=1e-5)
    reference = score((0, 0, 0), (1, 1, 1))
    assert all(abs(score((0, 0, 0), other) - reference) > 1e-3 for other in [(2, 1, 1), (1, 2, 1), (1, 1, 2)])


def test_an_image_encodes_and_decodes_like_the_first_frame_of_a_clip():
    vae, video = built(), clip(17)
    assert close(vae.encode(video[:, :, :1]).mean, vae.encode(video).mean[:, :, :1])
    latents = torch.randn(1, 6, 5, 4, 3)
    assert close(vae.decode(latents[:, :, :1]), vae.decode(latents)[:, :, :1])


def test_the_first_frame_is_the_last_of_its_group():
    """A clip that stands still for a group before it moves continues as if the still part were the first group."""
    vae = built(dataclasses.replace(SMALL, window=1))
    still = clip(1).expand(-1, -1, 5, -1, -1)
    latents = vae.encode(still).mean
    assert close(latents[:, :, 1], latents[:, :, 0])
    frames = vae.decode(latents)
    assert close(frames[:, :, 4], frames[:, :, 0])


def test_the_past_holds_the_window_alone():
    groups = 6
    for window in (1, 2, 3):
        vae = built(dataclasses.replace(SMALL, window=window))
        with torch.no_grad():
            _, past = vae.encoder(clip(1))
            sizes = [storage_bytes(past)]
            for _ in range(groups):
                _, past = vae.encoder(clip(8)[:, :, :4], past)
                sizes.append(storage_bytes(past))
            _, at_once = vae.encoder(clip(1 + 4 * groups))
        tokens, channels, both, layers, float32 = 12, 24, 2, 2, 4
        assert max(sizes) == (window - 1) * tokens * channels * both * layers * float32
        assert storage_bytes(at_once) == sizes[-1]


@pytest.mark.parametrize("dropped", [1, 4])
def test_every_parameter_learns_when_groups_are_dropped(dropped):
    vae = built().train()
    output, posterior = vae(clip(17), dropped=dropped)
    (output.square().mean() + posterior.kl().mean()).backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("frames", [1, 17])
def test_without_dropped_groups_every_parameter_but_the_padding_token_learns(frames):
    vae = built().train()
    output, posterior = vae(clip(frames))
    (output.square().mean() + posterior.kl().mean()).backward()
    still = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == ["padding.token"]


@pytest.mark.bf16
def test_bfloat16_weights_and_autocast_give_nearly_the_float32_result():
    vae, video = built(), clip(9)
    with torch.no_grad():
        expected = vae.encode(video).mean
        with torch.autocast("cpu", torch.bfloat16):
            mixed = vae.encode(video)
        assert mixed.mean.dtype == torch.float32 and (mixed.mean - expected).abs().max() < 0.1
        half = vae.bfloat16().encode(video.bfloat16()).mean
        assert (half - expected).abs().max() < 0.1
        assert vae.decode(half.bfloat16()).shape == video.shape


def test_blocks_compile_without_a_break():
    """Captured with the "eager" backend: what is tested is that a block is one graph, not the generated code."""
    vae, video = built(WINDOWED), clip(9)
    with torch.no_grad():
        expected = vae.encode(video).mean
        for block in vae.encoder.blocks:
            block.compile(backend="eager", fullgraph=True)
        assert close(vae.encode(video).mean, expected)
        assert close(vae.encode(video, chunk_groups=1).mean, expected)


def test_saved_weights_come_back_with_the_same_identity(tmp_path):
    vae = built(WINDOWED, seed=1)
    vae.save_pretrained(tmp_path)
    again = PVVAE.from_pretrained(tmp_path)
    assert again.config == vae.config and torch.equal(again.encode(clip(5)).mean, vae.encode(clip(5)).mean)
    assert (again.encoder_hash, again.decoder_hash) == (vae.encoder_hash, vae.decoder_hash)
    assert load(tmp_path).encoder_hash == vae.encoder_hash != load(tmp_path, weights="random").encoder_hash


def test_predicted_groups_need_nothing_but_the_observed_frames():
    vae = built()
    assert vae.predict(clip(9), 2).shape == (1, 3, 17, 32, 24)
    output, posterior = vae(clip(17), dropped=2, noise=torch.zeros(1, 6, 5, 4, 3))
    assert posterior.mean.shape[2] == 3
    assert close(output, vae.predict(clip(17)[:, :, :9], 2))


def test_a_tiny_network_overfits_one_clip():
    torch.manual_seed(0)
    vae = PVVAE(dataclasses.replace(SMALL, latent_channels=16, width=48)).train()
    item = open_dataset("moving_shapes", clip=ClipSpec(9, 32))[0]
    video = to_float(torch.as_tensor(item["video"])[None])
    optimizer = torch.optim.AdamW(vae.parameters(), lr=4e-3)
    losses = []
    for _ in range(80):
        output, _ = vae(video, noise=torch.zeros(1, 16, 3, 4, 4))
        loss = F.mse_loss(output, video)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    # Below a picture of each frame's mean colour, and below one that stands still: it has placed and moved the shapes.
    for average in ((3, 4), 2):
        assert losses[-1] < F.mse_loss(video.mean(average, keepdim=True).expand_as(video), video) / 2
