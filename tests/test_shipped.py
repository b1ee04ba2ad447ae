"""The weights that ship: whole, small, of one encoder, and no worse than when they were measured."""

import json
from functools import partial

import numpy as np
import pytest
import torch

import tokenizer
from eval.decode import decoded_clips, tokenizer_for
from eval.features import load_features
from eval.metrics.frechet import frechet_distance
from eval.sets import extract, real_batches, reconstructed
from generator.loading import SHIPPED as GENERATORS
from generator.loading import load_generator
from generator.sample import SampleConfig, sample
from latents_cache import open_latents
from runtime.run import file_sha256
from tokenizer.validation import validate
from tokenizer.zoo import SHIPPED as TOKENIZERS
from videos import ClipSpec, open_dataset

NAME = "moving-shapes"
CPU = torch.device("cpu")


def measured(metric: str, subject: str) -> float:
    """What the manifest that ships with the weights says."""
    rows = json.loads((GENERATORS[NAME] / "manifest.json").read_text())["rows"]
    return next(row["value"] for row in rows if (row["metric"], row["subject"]) == (metric, subject))


def test_files_are_those_of_the_manifest_and_below_12_megabytes():
    manifest = json.loads((GENERATORS[NAME] / "manifest.json").read_text())
    files = {"tokenizer": TOKENIZERS[NAME], "generator": GENERATORS[NAME]}
    assert {
        f"{room}/model.safetensors": file_sha256(path / "model.safetensors") for room, path in files.items()
    } == manifest["sha256"]
    assert sum(path.stat().st_size for folder in files.values() for path in folder.iterdir()) < 12_000_000
    assert manifest["hours"] > 0 and all(command.startswith("python -m ") for command in manifest["commands"])


def test_generator_and_tokenizer_belong_together():
    generator = load_generator(NAME)
    vae = tokenizer.load(NAME)
    assert generator.latents["encoder_hash"] == vae.encoder_hash
    assert generator.latents["decoder_hash"] == vae.decoder_hash
    assert generator.latents["tokenizer"] == NAME and generator.config.num_classes == 12


def test_the_shipped_tokenizer_reconstructs_above_24_decibels():
    dataset = open_dataset("moving_shapes", split="test", clip=ClipSpec(17, 32))
    clips = [torch.stack([torch.as_tensor(dataset[i]["video"]) for i in range(48)])]
    values = validate(tokenizer.load(NAME), clips, CPU, torch.float32).values
    assert values["val_psnr"] > 24.0
    # 48 clips against the hundreds of the manifest
    assert values["val_psnr"] == pytest.approx(measured("PSNR", "reconstructed"), abs=0.6)


@pytest.mark.slow
def test_shipped_samples_are_far_from_noise_and_move_as_asked(tmp_path):
    """Bounds are loose: 96 clips and 25 Euler steps instead of the manifest's."""
    judge = load_features("shapes")
    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(17, 32))
    # To reconstructions: against real clips, this tokenizer's blur outweighs everything that the generator does.
    through = partial(reconstructed, vae=tokenizer.load(NAME), device="cpu")
    real = extract(judge, real_batches(dataset, range(96), 0), through, device="cpu")

    def generated(**rest):
        path = sample(
            SampleConfig(run=NAME, runs_dir=str(tmp_path), samples=96, steps=25, device="cpu", dtype="float32", **rest)
        )
        with open_latents(path) as reader:
            return extract(
                judge,
                decoded_clips(reader, tokenizer_for(reader, device="cpu"), 96, device="cpu", dtype="float32"),
                device="cpu",
            )

    found, noise = generated(), generated(untrained=True)
    assert frechet_distance(found.features, real.features) < 0.6 * frechet_distance(noise.features, real.features)
    motion = np.mean(found.probabilities.argmax(1) % 4 == found.labels % 4)
    assert motion > 0.35  # chance is 0.25; ten standard errors below what was measured would be no bound at all
