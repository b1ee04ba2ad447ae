"""The weights that ship: whole, small, of one encoder, and no worse than when they were measured."""

import json

import pytest
import torch

import tokenizer
from eval.clip_sets import real_clips
from eval.decode import decoded_clips, fitting_tokenizer
from eval.features import load_features
from eval.metrics.frechet import frechet_distance
from eval.page.sections import shipped_words
from eval.quantities import ASPECTS
from generator.loading import SHIPPED as GENERATORS
from generator.loading import load_generator
from generator.sample import SampleConfig, sample
from latents_cache import open_latents
from runtime.run import file_sha256
from tokenizer.validation import validate
from tokenizer.zoo import SHIPPED as TOKENIZERS
from videos import ClipSpec, open_dataset, to_float

NAME = "moving-shapes"
CPU = torch.device("cpu")


def measured(metric: str, subject: str) -> float:
    """What the manifest that ships with the weights says."""
    rows = json.loads((GENERATORS[NAME] / "manifest.json").read_text())["rows"]
    return next(row["value"] for row in rows if (row["metric"], row["subject"]) == (metric, subject))


def test_files_are_those_of_the_manifest_and_at_most_24_megabytes():
    manifest = json.loads((GENERATORS[NAME] / "manifest.json").read_text())
    files = {"tokenizer": TOKENIZERS[NAME], "video": TOKENIZERS[NAME] / "video", "generator": GENERATORS[NAME]}
    assert {name: file_sha256(path / "model.safetensors") for name, path in files.items()} == manifest["sha256"]
    assert sum(path.stat().st_size for folder in files.values() for path in folder.iterdir()) <= 24_000_000
    for part in ("tokenizer", "generator"):
        assert manifest[part]["hours"] > 0 and manifest[part]["command"].startswith(f"python -m {part}.train ")


def test_the_page_finds_in_the_manifest_what_it_says_of_the_weights():
    title, commands = shipped_words(json.loads((GENERATORS[NAME] / "manifest.json").read_text()))
    assert title.startswith("Shipped, trained ") and len(commands) == 2


def test_both_stages_share_the_encoder_and_differ_in_the_decoder():
    last, video = tokenizer.load(NAME), tokenizer.load(NAME, stage="video")
    assert last.encoder_hash == video.encoder_hash and last.decoder_hash != video.decoder_hash


@pytest.mark.parametrize(
    "load",
    [
        lambda: tokenizer.load(NAME).encoder_hash,
        lambda: tokenizer.load(NAME, weights="random").encoder_hash,
        lambda: load_generator(NAME).model.embed.weight.dtype,
        lambda: load_features("shapes").form_out.weight.dtype,
    ],
)
def test_loading_depends_on_no_setting_and_changes_none(load):
    expected, state = load(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        assert load() == expected
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


def test_generator_and_tokenizer_belong_together():
    generator = load_generator(NAME)
    vae = tokenizer.load(NAME)
    assert generator.latents["encoder_hash"] == vae.encoder_hash
    assert generator.latents["decoder_hash"] == vae.decoder_hash
    assert generator.latents["tokenizer"] == NAME and generator.config.num_classes == 12


def test_the_shipped_tokenizer_reconstructs_shapes_and_predicts():
    dataset = open_dataset("moving_shapes", split="test", clip=ClipSpec(17, 32))
    clips = [torch.stack([torch.as_tensor(dataset[i]["video"]) for i in range(48)])]
    values = validate(tokenizer.load(NAME), clips, CPU, torch.float32).values
    # 48 clips against the hundreds of the manifest
    assert values["val_psnr"] == pytest.approx(measured("PSNR", "reconstructed"), abs=0.8)
    predicted = validate(tokenizer.load(NAME, stage="video"), clips, CPU, torch.float32).values
    assert predicted["val_predicted_over_repeat"] < 0.3
    labels = torch.tensor([dataset[i]["label"] for i in range(48)])
    vae, judge = tokenizer.load(NAME), load_features("shapes")
    with torch.no_grad():
        seen = judge.probabilities(vae.decode(vae.encode(to_float(clips[0])).mode()).clamp(-1, 1)).argmax(1)
    assert (seen // 4 == labels // 4).float().mean() > 0.85 and (seen % 4 == labels % 4).float().mean() > 0.9


@pytest.mark.slow
def test_shipped_samples_are_far_from_noise_and_look_and_move_as_asked(tmp_path):
    """Bounds are loose: 96 clips and 25 Euler steps instead of the manifest's."""
    judge = load_features("shapes")
    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(17, 32))

    def seen(batches):
        with torch.no_grad():
            features = torch.cat([judge.features(to_float(video)) for video, _ in batches])
            return features, judge.classify(features).argmax(1).numpy()

    real, _ = seen([real_clips(dataset, range(96), 0)])

    def generated(**rest):
        path = sample(
            SampleConfig(run=NAME, runs_dir=str(tmp_path), samples=96, steps=25, device="cpu", dtype="float32", **rest)
        )
        with open_latents(path) as reader:
            vae = fitting_tokenizer(reader.attributes, reader.path, device="cpu")
            return *seen(decoded_clips(reader, vae, 96, device="cpu", dtype="float32")), reader.labels

    (found, named, asked), (noise, _, _) = generated(guidance_scale=2.0), generated(untrained=True)
    assert frechet_distance(found, real) < 0.3 * frechet_distance(noise, real)
    for aspect, bound in (("shape", 0.6), ("motion", 0.7)):  # chance is 1/3 and 1/4
        assert (ASPECTS[aspect](named) == ASPECTS[aspect](asked)).mean() > bound
