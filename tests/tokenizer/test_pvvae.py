"""The PV-VAE network: shapes, causality, chunking, images, gradients, identity, files."""

import dataclasses
import json

import pytest
import torch

from benchmarks.paper_memory import as_on_a_gpu
from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig
from tokenizer.presets import PRESETS
from tokenizer.spec import LOGVAR_RANGE
from tokenizer.stages import freeze_for

SMALL = PVVAEConfig(latent_channels=6, channels=(8, 12, 16, 16, 16), blocks=1, middle_blocks=2)


def randomised(config: PVVAEConfig = SMALL, seed: int = 0) -> PVVAE:
    """A network whose past taps are not zero, so that tests of time can fail."""
    torch.manual_seed(seed)
    vae = PVVAE(config)
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.ndim == 5:
                parameter.copy_(torch.randn_like(parameter) * (2.0 / parameter[0].numel()) ** 0.5)
    return vae.eval()


def clip(frames: int, size: int = 32, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@pytest.mark.bf16
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_encoder_and_decoder_may_each_have_a_dtype_of_its_own(norm):
    vae, video = randomised(dataclasses.replace(SMALL, norm=norm)), clip(9)
    with torch.no_grad():
        whole = vae.decode(vae.encode(video).mode())
        for half, other in ((vae.encoder, vae.decoder), (vae.decoder, vae.encoder)):
            half.bfloat16(), other.float()
            posterior = vae.encode(video)
            output = vae.decode(posterior.mode())
            assert posterior.mean.dtype == output.dtype == torch.float32
            assert (output - whole).abs().mean() < 0.1 * whole.abs().mean()


def test_paper_preset_counts_661_million_parameters_within_one_percent():
    with torch.device("meta"):
        vae = PVVAE(PRESETS["paper"].model)
    count = sum(parameter.numel() for parameter in vae.parameters())
    assert abs(count / 661e6 - 1) < 0.01
    assert dataclasses.asdict(vae.spec) == {"name": "pvvae-t4s16c64", "temporal": 4, "spatial": 16, "channels": 64}


@pytest.mark.parametrize("frames", [1, 5, 17, 33])
@pytest.mark.parametrize("patch", [1, 2])
def test_decoder_returns_as_many_frames_as_the_encoder_saw(frames, patch):
    config = dataclasses.replace(SMALL, channels=SMALL.channels[: 5 if patch == 1 else 4], patch=patch)
    vae = PVVAE(config)
    posterior = vae.encode(clip(frames))
    assert posterior.mean.shape == posterior.logvar.shape == (1, 6, 1 + (frames - 1) // 4, 2, 2)
    assert vae.decode(posterior.mean).shape == (1, 3, frames, 32, 32)


def test_log_variances_are_held_within_their_range():
    vae = PVVAE(SMALL).requires_grad_(False)
    for bias, bound in zip((-1e3, 1e3), LOGVAR_RANGE, strict=True):
        vae.encoder.conv_out.bias[6:] = bias
        assert (vae.encode(clip(5)).logvar == bound).all()


def test_an_encoder_that_is_not_trained_runs_as_for_inference():
    vae, seen = PVVAE(SMALL).train(), []
    vae.encoder.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    for stage in ("video", "decoder"):
        freeze_for(stage, vae)
        vae(clip(5))
    assert seen == [True, False]


def test_future_frames_do_not_change_past_latents():
    vae, video = randomised(), clip(17)
    before = vae.encode(video).mean
    changed = video.clone()
    changed[:, :, 9:] = -changed[:, :, 9:]
    after = vae.encode(changed).mean
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert (before[:, :, 3] - after[:, :, 3]).abs().max() > 1e-3


def test_future_latents_do_not_change_past_frames():
    vae = randomised()
    latents = torch.randn(1, 6, 5, 2, 2)
    before = vae.decode(latents)
    latents[:, :, 3:] += 1.0
    after = vae.decode(latents)
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert (before[:, :, 9:] - after[:, :, 9:]).abs().max() > 1e-3


def test_an_image_encodes_and_decodes_like_the_first_frame_of_a_clip():
    vae, video = randomised(), clip(17)
    image = vae.encode(video[:, :, :1]).mean
    assert torch.allclose(image, vae.encode(video).mean[:, :, :1], atol=1e-5)
    latents = torch.randn(1, 6, 5, 2, 2)
    assert torch.allclose(vae.decode(latents[:, :, :1]), vae.decode(latents)[:, :, :1], atol=1e-5)


def test_a_static_clip_reconstructs_like_its_image_before_any_video_training():
    torch.manual_seed(0)
    vae = PVVAE(SMALL).eval()
    video = clip(1).expand(-1, -1, 17, -1, -1)
    image = vae.decode(vae.encode(video[:, :, :1]).mean)
    output = vae.decode(vae.encode(video).mean)
    assert torch.allclose(output, image.expand_as(output), atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 9])
def test_chunked_equals_whole(chunk):
    vae, video = randomised(), clip(17)
    with torch.no_grad():
        whole = vae.encode(video)
        parts = vae.encode(video, chunk_groups=chunk)
        assert torch.allclose(whole.mean, parts.mean, atol=1e-5, rtol=1e-5)
        assert torch.allclose(whole.logvar, parts.logvar, atol=1e-5, rtol=1e-5)
        assert torch.allclose(vae.decode(whole.mean), vae.decode(whole.mean, chunk_groups=chunk), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("dropped", [1, 4])
def test_every_parameter_learns_when_groups_are_dropped(norm, dropped):
    vae = randomised(dataclasses.replace(SMALL, norm=norm)).train()
    output, posterior = vae(clip(17), dropped=dropped)
    (output.square().mean() + posterior.kl().mean()).backward()
    still = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_dropping_hides_the_frames_from_the_encoder_and_still_decodes_all():
    vae, video = randomised(), clip(17)
    noise = torch.zeros(1, 6, 5, 2, 2)
    output, posterior = vae(video, dropped=2, noise=noise)
    changed = video.clone()
    changed[:, :, 9:] = 0.0
    again, _ = vae(changed, dropped=2, noise=noise)
    assert output.shape == video.shape and posterior.mean.shape[2] == 3
    assert torch.equal(output, again)
    assert torch.allclose(output, vae.predict(video[:, :, :9], 2))


def test_predict_with_no_groups_is_reconstruction():
    vae, video = randomised(), clip(9)
    assert torch.equal(vae.predict(video, 0), vae.decode(vae.encode(video).mode()))


def test_normalize_and_denormalize_are_inverse_and_outside_the_identity():
    vae = randomised()
    before = vae.encoder_hash, vae.decoder_hash
    vae.set_latent_statistics(torch.arange(6.0), torch.arange(1.0, 7.0))
    latents = torch.randn(2, 6, 3, 2, 2)
    assert torch.allclose(vae.denormalize(vae.normalize(latents)), latents, atol=1e-6)
    assert torch.allclose(vae.normalize(torch.arange(6.0).view(1, 6, 1, 1, 1)), torch.zeros(1))
    assert (vae.encoder_hash, vae.decoder_hash) == before


def test_hashes_tell_encoder_and_decoder_apart():
    vae = randomised()
    encoder, decoder = vae.encoder_hash, vae.decoder_hash
    with torch.no_grad():
        vae.decoder.conv_out.bias += 1
    assert vae.encoder_hash == encoder and vae.decoder_hash != decoder
    with torch.no_grad():
        vae.encoder.conv_out.bias += 1
    assert vae.encoder_hash != encoder


def test_kl_sums_nats_over_all_latent_elements():
    from tokenizer import Posterior

    posterior = Posterior(torch.full((2, 3, 1, 2, 2), 2.0), torch.zeros(2, 3, 1, 2, 2))
    assert torch.allclose(posterior.kl(), torch.tensor([24.0, 24.0]))  # 12 elements of mean²/2 = 2 nats
    assert torch.equal(posterior.sample(torch.ones(2, 3, 1, 2, 2)), torch.full((2, 3, 1, 2, 2), 3.0))


def test_saved_weights_come_back_with_the_same_identity(tmp_path):
    vae = randomised()
    vae.set_latent_statistics(torch.arange(6.0), torch.arange(1.0, 7.0))
    vae.save_pretrained(tmp_path)
    again = PVVAE.from_pretrained(tmp_path)
    assert (again.encoder_hash, again.decoder_hash) == (vae.encoder_hash, vae.decoder_hash)
    assert torch.equal(again.latents_std, vae.latents_std) and again.config == vae.config
    assert torch.equal(again.encode(clip(5)).mean, vae.encode(clip(5)).mean)


def test_weights_of_another_config_are_refused(tmp_path):
    randomised().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": 7}))
    with pytest.raises(InputError, match="do not fit the network"):
        PVVAE.from_pretrained(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    randomised().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not readable as safetensors"):
        PVVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.zeros(1, 3, 16, 32, 32), "nearest are 13 and 17"),
        (torch.zeros(1, 3, 5, 40, 32), "multiple of 16; nearest: 32"),
        (torch.zeros(1, 3, 5, 32, 8), "multiple of 16; nearest: 16"),
        (torch.zeros(1, 4, 5, 32, 32), "a video is"),
        (torch.zeros(3, 5, 32, 32), "a video is"),
        (torch.zeros(1, 3, 5, 32, 32, dtype=torch.uint8), "to_float converts uint8"),
    ],
)
def test_a_video_that_does_not_fit_is_refused_with_the_nearest_that_does(video, message):
    with pytest.raises(InputError, match=message):
        PVVAE(SMALL).encode(video)


def test_wrong_latents_and_counts_are_refused():
    vae = PVVAE(SMALL)
    for call, words in (
        (lambda: vae.decode(torch.zeros(1, 5, 2, 2, 2)), r"latents \[B, 6, G, h, w\], got \[1, 5, 2, 2, 2\]"),
        (lambda: vae.encode(clip(5), chunk_groups=0), "chunk_groups must be at least 1"),
        (lambda: vae.predict(clip(5), -1), "groups to predict must be at least 0"),
        (lambda: vae(clip(5), dropped=2), r"must lie in \[0, 1\] for a clip of 2"),
        (lambda: PVVAEConfig(architecture="mlp"), "known: cnn, transformer"),
        (lambda: PVVAEConfig(padding="zeros"), "known: learnable, gaussian, conditional"),
        (lambda: PVVAEConfig.from_dict({"colour": 1}), "unknown fields: colour"),
    ):
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_the_ways_that_gpus_take_give_what_those_of_cpus_do(norm):
    """Of two clips, with gradients and without, also in chunks; the kernels are the CPU's."""
    vae, video = randomised(dataclasses.replace(SMALL, norm=norm)), clip(9, batch=2)

    def found() -> list[torch.Tensor]:
        vae.zero_grad()
        latents = vae.encode(video).mode()
        made = vae.decode(latents)
        made.square().mean().backward()
        learnt = [parameter.grad for parameter in vae.parameters() if parameter.grad is not None]
        with torch.no_grad():
            without = vae.encode(video).mode()
            values = [latents, made, without, vae.decode(without), vae.predict(video[:, :, :5], groups=1)]
        return [value.detach().clone() for value in (*values, *learnt)]

    expected = found()
    with as_on_a_gpu():
        for ours, theirs in zip(found(), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())
