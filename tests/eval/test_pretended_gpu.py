"""Everything that runs on a GPU, on one that is not there: see `pretended_gpu`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pretended_gpu import OnGPU, pretended_gpu

from eval.convergence import ConvergenceConfig, convergence
from eval.features.c3d import C3D
from eval.fvd import FVDConfig, fvd
from eval.latents import LatentsConfig, latents
from eval.prediction import PredictionConfig, predictions
from eval.probe import ProbeConfig, probe
from eval.reconstruction import ReconstructionConfig, reconstruction
from eval.report import ReportConfig, report
from eval.results.rows import read_results
from generator.sample import SampleConfig, sample
from latents_cache import open_latents
from tokenizer.adversarial import Adversary
from tokenizer.baselines.base import BaselineTokenizer
from tokenizer.baselines.registry import BASELINES
from tokenizer.discriminator import DiscriminatorConfig

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU: pytest -m gpu")
COMMON = {"device": "cuda", "dtype": "float32"}


@pytest.fixture(scope="module")
def there(make_chain, tmp_path_factory):
    """The chain, made on the GPU."""
    with pretended_gpu(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.measuring.stated_peak", lambda device, dtype: None)  # products that take a CPU minutes
        return make_chain(tmp_path_factory.mktemp("there") / "runs", **COMMON)


def test_what_a_gpu_refuses_is_refused():
    here = torch.ones(3)
    with pretended_gpu() as gpu:
        values = torch.arange(3.0, device="cuda")
        assert values.is_cuda and values.device == (values + 1).device == gpu != values.cpu().device
        for call in (
            lambda: values + here,
            lambda: torch.nn.functional.linear(values, here[None]),
            lambda: here[values.long()],
            lambda: values.index_put_((torch.tensor([0]),), here[:1]),
        ):
            with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
                call()
        with pytest.raises(TypeError, match="can't convert"):
            np.asarray(values)
        with pytest.raises(TypeError, match="can't convert"):
            values.numpy()
        for place, generator in (("cuda", torch.Generator()), ("cpu", torch.Generator("cuda"))):
            with pytest.raises(RuntimeError, match="device type for generator"):
                torch.randn(2, device=place, generator=generator)
        # And what it does is done.
        assert values[[2, 0]].tolist() == [2, 0] and (values + torch.tensor(1.0)).tolist() == [1, 2, 3]
        assert here.copy_(values).tolist() == [0, 1, 2] and torch.as_tensor([1.5], device="cuda").item() == 1.5
        weight = torch.ones(3, device="cuda", requires_grad=True)
        (weight * values).sum().backward()
        assert isinstance(weight.grad, OnGPU) and weight.grad.tolist() == [0, 1, 2]
        with torch.device("meta"):
            assert not isinstance(torch.empty(2), OnGPU)
    assert not torch.cuda.is_available()


def test_the_tokenizer_trains_and_encodes_as_on_the_cpu(chain, there):
    texts = [(each.tokenizer / "metrics.jsonl").read_text() for each in (there, chain)]
    logs = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert len(logs[0]) == len(logs[1]) == 4
    for found, expected in zip(*logs, strict=True):
        names = [name for name in expected if name in ("loss", "mse", "kl", "grad_norm") or name.startswith("val_")]
        assert len(names) > 3
        for name in names:
            assert found[name] == pytest.approx(expected[name], rel=1e-2, abs=1e-4), name
    with open_latents(there.latents) as found, open_latents(chain.latents) as expected:
        for name, values in expected.batch(range(40)).items():
            np.testing.assert_allclose(found.batch(range(40))[name], values, rtol=0, atol=0.02)


def test_it_is_measured_there(there, judge, tmp_path):
    runs = {"runs_dir": str(there.runs), **COMMON}
    run, vae = str(there.generator), str(there.tokenizer)
    with pretended_gpu():
        sample(SampleConfig(run=run, samples=4, steps=2, guidance_scale=2.0, **runs))
        _, rows = read_results(fvd(FVDConfig(run=run, samples=12, steps=2, guidance_scales=(1.0, 2.0), **runs)))
        convergence(ConvergenceConfig(runs=(run,), samples=8, steps=2, **runs))
        seen = reconstruction(ReconstructionConfig(tokenizer=vae, samples=8, **runs))
        page = latents(LatentsConfig(tokenizer=(vae,), samples=40, out=str(tmp_path / "latents.html"), **runs))
        predictions(PredictionConfig(tokenizers=(vae,), samples=8, out=str(tmp_path / "prediction.html"), **runs))
        probe(ProbeConfig(run=run, samples=4, train_clips=4, head_steps=2, seeds=(0,), noise=(10.0,), **runs))
        shown = report(ReportConfig(run=run, steps=2, shipped=False, out=str(tmp_path / "report.html"), **runs))
    assert all(np.isfinite(row.value) for row in rows)
    # What a tokenizer loses is a property of it alone.
    runs |= {"device": "cpu", "out": str(tmp_path / "here.json")}
    expected = reconstruction(ReconstructionConfig(tokenizer=vae, samples=8, **runs))
    values = [
        {(row.metric, row.subject): row.value for row in read_results(path)[1] if row.value is not None}
        for path in (seen, expected)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-2, abs=1e-2)
    assert page.is_file() and shown.is_file()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_give_the_cpus_results(name):
    torch.manual_seed(0)
    vae = BaselineTokenizer(BASELINES[name], BASELINES[name].tiny()).eval().requires_grad_(False)
    video = torch.rand(1, 3, 17, 2 * vae.spec.spatial, vae.spec.spatial) * 2 - 1
    expected = vae.encode(video).mean
    decoded = vae.decode(expected, chunk_groups=1)
    with pretended_gpu() as gpu:
        vae.to(gpu)
        for chunk in (None, 1):
            found = vae.encode(video.to(gpu), chunk_groups=chunk).mean
            again = vae.decode(vae.denormalize(vae.normalize(found)), chunk_groups=chunk)
            assert found.device == again.device == gpu
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)
            torch.testing.assert_close(again.cpu(), decoded, rtol=0, atol=1e-3)


def test_the_discriminator_takes_the_cpus_step():
    config, losses = DiscriminatorConfig(channels=8, max_channels=16, layers=2), []
    real, fake = (torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with pretended_gpu() as gpu:
        for place in (torch.device("cpu"), gpu):
            adversary = Adversary(config, seed=0, start=0, learning_rate=2e-3, device=place)
            losses.append(adversary.discriminator_step(real.to(place), fake.to(place)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_feature_network_gives_the_cpus_features():
    torch.manual_seed(0)
    network, video = C3D(), torch.rand(1, 3, 16, 32, 32) * 2 - 1
    expected = network.features(video)
    with pretended_gpu() as gpu:
        found = network.to(gpu).features(video.to(gpu))
        assert found.device == gpu
        torch.testing.assert_close(found.cpu(), expected)
