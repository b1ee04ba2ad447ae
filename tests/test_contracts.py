"""The names, shapes and flags that users' scripts rely on. A change here breaks somebody."""

import dataclasses
import importlib
import inspect

import numpy as np
import pytest
import torch

import eval
import generator
import latents_cache
import tokenizer
import videos
from eval import (
    I3D,
    Estimate,
    endpoint_error,
    estimate,
    frechet_distance,
    inception_score,
    kernel_distance,
    latent_temporal_distance,
    lpips,
    psnr,
    ssim,
    tracking_auc,
)

FLAGS = {
    "videos.check": "data root split",
    "tokenizer.train": "data root images images_root preset stage steps batch_size images_per_clip init_from "
    "save_every validate_every validation_clips num_frames size frame_stride image_sizes clip_sizes learning_rate "
    "warmup weight_decay gradient_clip ema_decay kl_weight lpips_weight temporal_weight gan_weight gan_start "
    "spatial_weight adaptive_gan discriminator_layers max_drop_ratio drop_schedule padding reverse parallel accumulate "
    "checkpoint_blocks compile optimizer",
    "tokenizer.encode": "tokenizer weights data root split num_frames size frame_stride windows flip batch_size out",
    "tokenizer.reconstruct": "tokenizer weights video out",
    "tokenizer.predict": "tokenizer video out observed after frames",
    "latents_cache.check": "full",
    "generator.train": "latents preset steps batch_size optimizer learning_rate save_every",
    "generator.sample": "run step samples steps guidance_scale guidance_interval labels batch_size out",
    "eval.fvd": "run step tokenizer weights root protocol features out samples guidance_interval labels",
    "eval.reconstruction": "tokenizer weights data samples",
    "eval.convergence": "runs samples tokenizer weights guidance_scale guidance_interval labels out",
    "eval.speed": "tokenizers weights batch_size num_frames size repeats train_steps generator rounds out",
    "eval.probe": "run runs step task data root noise seeds samples out",
    "eval.ablation": "plan out",
    "eval.compare": "tokenizers weights data root card reconstruction speed out",
    "eval.report": "run out",
    "eval.prediction": "tokenizers results data samples observed out",
    "eval.latents": "tokenizer weights latents data root split samples num_frames size clips out",
    "eval.card": "tokenizer weights data root split samples num_frames size observed features speed clips out",
    "eval.correlate": "results target out",
    "eval.decode": "run tokenizer weights count guidance_interval labels out",
    "runtime.check": "download",
    "eval.verify": "results",
    "eval.tables": "results format out",
}
COMMON = "runs_dir name seed device dtype dry_run"


def config_of(command: str) -> type:
    """The one flag dataclass that the command's module defines."""
    module = importlib.import_module(command)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and dataclasses.is_dataclass(value)
        and value.__module__ == command
        and value.__name__.endswith("Config")
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("command", FLAGS)
def test_commands_have_their_flags(command):
    config = config_of(command)
    names = {field.name for field in dataclasses.fields(config)}
    assert set(FLAGS[command].split()) | set(COMMON.split()) <= names
    assert config.__dataclass_params__.frozen and all(f.kw_only for f in dataclasses.fields(config))


def test_defaults_are_the_published_ones():
    train = {f.name: f.default for f in dataclasses.fields(config_of("generator.train"))}
    assert (train["preset"], train["steps"], train["batch_size"], train["learning_rate"]) == (
        "latte-xl",
        250_000,
        64,
        1e-4,
    )
    sample = {f.name: f.default for f in dataclasses.fields(config_of("generator.sample"))}
    assert (sample["samples"], sample["steps"], sample["guidance_scale"]) == (2048, 100, 1.0)
    assert {f.name: f.default for f in dataclasses.fields(config_of("eval.fvd"))}["samples"] == 2048
    recipe = {f.name: f.default for f in dataclasses.fields(config_of("tokenizer.train"))}
    assert (recipe["preset"], recipe["num_frames"], recipe["size"], recipe["learning_rate"]) == ("paper", 17, 256, 5e-5)
    assert (recipe["max_drop_ratio"], recipe["drop_schedule"], recipe["padding"]) == (1.0, "suffix", "learnable")
    assert (recipe["gan_start"], recipe["gan_weight"], recipe["adaptive_gan"]) == (5000, 0.05, False)
    assert (recipe["kl_weight"], recipe["lpips_weight"], recipe["temporal_weight"]) == (1e-6, 1.0, 1.0)
    common = {f.name: f.default for f in dataclasses.fields(config_of("eval.fvd"))}
    assert (common["runs_dir"], common["seed"], common["device"], common["dtype"]) == ("runs", 0, "auto", "auto")


def test_clip_spec_and_data_sets():
    clip = videos.ClipSpec()
    assert (clip.num_frames, clip.size, clip.frame_stride, clip.window) == (17, 256, 1, "random")
    names = list(inspect.signature(videos.open_dataset).parameters)
    assert names == ["name", "root", "split", "clip", "truth"]
    dataset = videos.open_dataset("moving_shapes", clip=videos.ClipSpec(17, 32), truth=True)
    item = dataset[0]
    assert {"video", "label", "name", "flow", "tracks", "visible"} == set(item)
    assert (
        item["video"].shape == (3, 17, 32, 32)
        and str(item["video"].dtype).endswith("uint8")
        and isinstance(item["name"], str)
    )
    assert (
        item["flow"].shape == (16, 2, 32, 32)
        and item["tracks"].shape[1:] == (17, 2)
        and item["visible"].shape[1:] == (17,)
    )
    assert isinstance(item["label"], int) and len(dataset) > 0


def test_reading_and_writing(tmp_path):
    video = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
    videos.write_video(tmp_path / "a.mp4", video, 8)
    assert videos.read_video(tmp_path / "a.mp4").shape == video.shape
    assert videos.read_video(tmp_path / "a.mp4", frames=[0, 2]).shape == (2, 32, 32, 3)


def test_quality_is_one_number_a_video_and_eval_re_exports_it():
    x, y = torch.rand(2, 2, 3, 4, 16, 16)
    for measure in (videos.psnr, videos.ssim):
        assert measure(x, y).shape == (2,)
    assert (psnr, ssim, lpips) == (videos.psnr, videos.ssim, videos.lpips)
    assert inspect.signature(videos.lpips).parameters["net"].default == "alex"


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(1)
    return tokenizer.PVVAE(
        tokenizer.PVVAEConfig(latent_channels=6, channels=(8, 8, 8, 8, 8), blocks=1, middle_blocks=1)
    ).eval()


def test_tokenizer(vae, tmp_path):
    assert isinstance(vae, torch.nn.Module) and isinstance(vae, tokenizer.VideoTokenizer)
    assert vae.spec == tokenizer.TokenizerSpec(name=vae.spec.name, temporal=4, spatial=16, channels=6)
    video = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    posterior = vae.encode(video, chunk_groups=2)
    assert isinstance(posterior, tokenizer.Posterior)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 6, 3, 2, 2) and posterior.mean.dtype == torch.float32
    assert posterior.sample(noise=torch.zeros_like(posterior.mean)).equal(posterior.mode())
    assert posterior.sample().shape == posterior.mean.shape and posterior.kl().shape == (2,)
    assert vae.decode(posterior.mean, chunk_groups=1).shape == video.shape
    assert vae.predict(video, 2).shape == (2, 3, 17, 32, 32)
    assert torch.allclose(vae.denormalize(vae.normalize(posterior.mean)), posterior.mean, atol=1e-6)
    assert isinstance(vae.encoder_hash, str) and vae.encoder_hash != vae.decoder_hash
    vae.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = tokenizer.PVVAE.from_pretrained(tmp_path)
    loaded = tokenizer.load(tmp_path, weights="random")
    assert again.encoder_hash == vae.encoder_hash != loaded.encoder_hash and loaded.spec == vae.spec


def test_tokenizer_presets():
    from tokenizer.presets import PRESETS

    paper = PRESETS["paper"].model
    assert isinstance(paper, tokenizer.PVVAEConfig) and dataclasses.is_dataclass(paper)
    assert (paper.spec.temporal, paper.spec.spatial, paper.spec.channels) == (
        4,
        16,
        64,
    ) and "demo" in tokenizer.presets.PRESETS


def test_latents_file(tmp_path):
    writer = latents_cache.create_latents(
        tmp_path / "a.h5", 3, shape=(2, 1, 1, 1), attributes={"tokenizer": "x", "num_classes": 2}
    )
    assert list(writer.missing()) == [0, 1, 2]
    for row in range(3):
        writer.write(row, np.full((2, 1, 1, 1), row), np.zeros((2, 1, 1, 1)), label=row % 2, name=f"clip {row}")
    writer.finish()
    reader = latents_cache.open_latents(tmp_path / "a.h5")
    batch = reader.batch([2, 0])
    assert (
        set(batch) == {"mean", "logvar", "label"}
        and batch["mean"].dtype == np.float16
        and batch["mean"].shape == (2, 2, 1, 1, 1)
    )
    assert batch["label"].tolist() == [0, 0] and len(reader) == 3 and reader.mean.shape == reader.std.shape == (2,)
    assert reader.attributes["tokenizer"] == "x" and reader.mean.tolist() == [1.0, 1.0]
    # sampled latents: Var(mean) + E[exp(logvar)]
    assert reader.std.tolist() == pytest.approx([(2 / 3 + 1) ** 0.5] * 2)
    import h5py

    with h5py.File(tmp_path / "a.h5") as file:
        kinds = {name: file[name].dtype for name in file}
        assert {"mean", "logvar", "label", "name", "crc32", "done", "latents_mean", "latents_std"} <= set(kinds)
        assert (kinds["mean"], kinds["label"], kinds["crc32"], kinds["done"]) == (
            np.float16,
            np.int32,
            np.uint32,
            np.uint8,
        )
        assert kinds["latents_mean"] == np.float64 and all(file[name].chunks is None for name in file)


def test_generator():
    config = generator.LatteConfig(
        channels=3, groups=2, height=2, width=2, num_classes=5, hidden_size=16, depth=4, num_heads=2
    )
    model = generator.Latte(config)
    x, t, y = torch.randn(2, 3, 2, 2, 2), torch.rand(2), torch.tensor([0, 5])
    assert model(x, t, y).shape == x.shape
    velocity, tokens = model(x, t, y, return_block=2)
    assert velocity.shape == x.shape and tokens.shape == (2, 2, 4, 16)
    assert generator.flow_loss(model, x, y, noise=torch.randn_like(x), t=t).shape == (2,)
    assert generator.integrate(model, x, y, steps=3, guidance_scale=2.0).shape == x.shape
    assert set(generator.presets.PRESETS) >= {"latte-xl", "latte-l", "latte-b", "latte-s", "demo"}
    signature = inspect.signature(generator.integrate)
    assert (signature.parameters["steps"].default, signature.parameters["guidance_scale"].default) == (100, 1.0)


def test_metrics():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((20, 4)), torch.randn(30, 4)
    assert isinstance(frechet_distance(a, b), float) and isinstance(kernel_distance(a, b), float)
    assert isinstance(inception_score(np.full((6, 3), 1 / 3), splits=1), float)
    found = estimate(frechet_distance, a, b)
    assert isinstance(found, Estimate) and [f.name for f in dataclasses.fields(found)] == [
        "value",
        "low",
        "high",
        "n",
        "method",
    ]
    assert found.low <= found.value <= found.high
    assert endpoint_error(np.zeros((2, 4, 4)), np.zeros((2, 4, 4))) == 0.0
    assert tracking_auc(np.zeros(4), np.ones(4, bool)) == 100.0
    assert latent_temporal_distance(torch.zeros(1, 2, 5, 1, 1), [1, 2]).shape == (2,)
    latents = torch.randn(3, 2, 5, 4, 4)
    directions, variances = eval.principal_directions(latents, 1)
    assert (directions.shape, variances.shape) == ((1, 2), (1,))
    assert eval.channel_eigenspectrum(latents).shape == (2,) and eval.temporal_spectrum(latents).shape == (3,)
    assert eval.spatial_spectrum(latents).ndim == 1
    assert isinstance(eval.velocity_irreducible_variance(latents, labels=None), float)
    assert inspect.signature(I3D.__init__).parameters["bn_eps"].default == 1e-3
