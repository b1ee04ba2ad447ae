"""Prediction: its numbers where the answer is known, the command on a whole chain, and figures 5a and 5b from files."""

import json
import re
import shutil
import textwrap

import numpy as np
import pytest
import torch

from eval.page.predictions import Predicted, accuracy_chart, joined, prediction_page, training_chart
from eval.prediction import PredictionConfig, predictions
from eval.results.rows import Row, write_results
from eval.verify import VERIFIED, checks_of
from runtime.checkpoint import list_checkpoints
from runtime.errors import InputError
from tokenizer.zoo import load, run_and_step, trained_on, video_folder

COMMON = {"device": "auto", "dtype": "float32"}
# Latents are the first frame and every fourth one after; what is predicted is known.
CLASSES = """
    import torch

    from tokenizer import Posterior, TokenizerSpec
    from tokenizer.spec import LatentStatistics
    from tokenizer.validation import blank_like


    class Silent(LatentStatistics):
        spec = TokenizerSpec(name="silent", temporal=4, spatial=1, channels=3)
        encoder_hash = decoder_hash = "silent"

        def __init__(self):
            super().__init__(3)
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def encode(self, video, chunk_groups=None):
            return Posterior(video[:, :, ::4])

        def decode(self, latents, chunk_groups=None):
            later = latents[:, :, 1:].repeat_interleave(4, dim=2)
            return torch.cat([latents[:, :, :1], later], dim=2)


    class Repeats(Silent):
        decoder_hash = "repeats"

        def predict(self, observed, groups, chunk_groups=None):
            return torch.cat([observed, observed[:, :, -1:].expand(-1, -1, 4 * groups, -1, -1)], dim=2)


    class Blank(Silent):
        decoder_hash = "blank"

        def predict(self, observed, groups, chunk_groups=None):
            later = blank_like(observed)[:, :, :1].expand(-1, -1, 4 * groups, -1, -1)
            return torch.cat([observed, later], dim=2)
"""


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """The name of an importable module with the tokenizers above."""
    (tmp_path / "prediction_classes.py").write_text(textwrap.dedent(CLASSES))
    monkeypatch.syspath_prepend(tmp_path)
    return "prediction_classes"


def test_every_tokenizer_that_can_predict_is_measured_on_the_same_clips_and_shown(chain, classes, tmp_path, capsys):
    names = (f"repeats={classes}:Repeats", f"blank={classes}:Blank", f"vae={chain.tokenizer}", f"{classes}:Silent")
    flags = {"samples": 8, "data": "moving_shapes", "size": 32, "clips": 3, "runs_dir": str(chain.runs), **COMMON}
    out = tmp_path / "page.html"
    found = predictions(PredictionConfig(tokenizers=names, out=str(out), **flags))
    printed = capsys.readouterr().out
    assert [one.label for one in found] == ["repeats", "blank", "vae"]
    assert f"{classes}:Silent does not predict: silent has nothing to predict with" in printed
    repeats, blank, vae = found
    # Repeating scores 1 at every frame ahead, and who predicts the flat picture scores what the flat picture does.
    assert [ahead for ahead, _ in repeats.by_frame("predicted")] == list(range(1, 9))
    assert all(row.value == pytest.approx(1.0) and row.n == 8 for _, row in repeats.by_frame("predicted"))
    assert [row.value for _, row in blank.by_frame("predicted")] == pytest.approx(
        [row.value for _, row in repeats.by_frame("blank")]
    )
    # Plain grey is another flat picture, and here a harder rival to beat.
    greys, blanks = ([row.value for _, row in repeats.by_frame(subject)] for subject in ("grey", "blank"))
    assert len(greys) == len(blanks) == 8 and sum(greys) < sum(blanks) and min(greys) > 0
    assert repeats.row("change explained", "predicted").value == pytest.approx(0.0, abs=1e-9)
    assert vae.row("error / repeat", "predicted").value > 0.2  # four steps teach nothing
    assert vae.facts["trained_steps"] == 4 and vae.facts["max_drop_ratio"] == 1.0 and "trained_steps" not in blank.facts
    text = out.read_text()
    assert text.count('data-observed="9"') == 9 and text.count('<figure class="picture">') == 6
    assert "repeats predicts frames" in text and "not told apart from it" in text and "does not predict" in text
    # The results files hold what can be computed again.
    files = sorted(chain.runs.glob("*/eval/prediction-moving_shapes-test-32px-n8.json"))
    assert len(files) == 3 and all(
        check.state == VERIFIED for check in checks_of(files[-1]) if "error" in check.what or "frame" in check.what
    )
    kept = sorted((chain.runs / "features").rglob("*.h5"))
    again = predictions(PredictionConfig(tokenizers=names[:3], out=str(out), **flags))
    assert sorted((chain.runs / "features").rglob("*.h5")) == kept and again[2].rows == vae.rows


def test_checkpoints_of_one_run_give_prediction_over_its_training(chain, tmp_path, capsys):
    vae = chain.tokenizer
    *_, (step, before), (last, newest) = list_checkpoints(vae)
    assert run_and_step(f"{vae}@{step}") == run_and_step(before) == (vae, step)
    assert load(f"{vae}@{step}").decoder_hash == load(before).decoder_hash != load(vae).decoder_hash
    assert trained_on(f"{vae}@{step}") == trained_on(before) == trained_on(vae)
    # The last step has been spent on the decoder: of the run, the weights that predict are those before it.
    assert video_folder(vae) == video_folder(f"{vae}@{step}") == before and video_folder(newest) is None
    twin = tmp_path / "twin"
    shutil.copytree(vae, twin, ignore=shutil.ignore_patterns("eval"))
    shutil.copytree(before, twin / "checkpoints" / "step_00000002", dirs_exist_ok=True)
    state = json.loads((before / "state.json").read_text())
    (twin / "checkpoints/step_00000002/state.json").write_text(json.dumps(state | {"step": 2}))
    flags = {"samples": 4, "clips": 1, "runs_dir": str(tmp_path), **COMMON}
    names = tuple(f"{twin}@{number}" for number in (2, step, last))
    found = predictions(PredictionConfig(tokenizers=names, out=str(tmp_path / "page.html"), **flags))
    assert f"twin@{last} does not predict: the tokenizer has no weights to predict with" in capsys.readouterr().out
    assert [(one.label, one.facts["trained_steps"], one.facts["run"]) for one in found] == [
        (f"twin@{number}", number, str(twin)) for number in (2, step)
    ]
    files = [twin / f"eval/step_{number:08d}/prediction-moving_shapes-test-32px-n4.json" for number in (2, step)]
    assert all(file.is_file() for file in files) and not list((twin / "eval").glob("*.json"))
    assert all(
        check.state == VERIFIED for check in checks_of(files[1]) if "tokenizer" in check.what or " of " in check.what
    )
    text = (tmp_path / "page.html").read_text()
    assert "Prediction over training" in text and f"<title>{twin}: 2, " in text
    with pytest.raises(InputError, match=f"has no checkpoint of step 77; it has .*{step}, {last}"):
        predictions(PredictionConfig(tokenizers=(f"{twin}@77",), out=str(tmp_path / "page.html"), **flags))


def test_who_alone_cannot_predict_is_refused(classes, tmp_path):
    flags = {"data": "moving_shapes", "size": 32, "runs_dir": str(tmp_path), **COMMON}
    with pytest.raises(InputError, match="none of them predicts"):
        predictions(PredictionConfig(tokenizers=(f"{classes}:Silent",), out=str(tmp_path / "page.html"), **flags))
    assert not (tmp_path / "page.html").exists()


# -- figure 5 ----------------------------------------------------------------------------------------------------------


def prediction(
    label: str, error: float, steps: int | None = None, ratio: float | None = None, data="ucf101"
) -> Predicted:
    facts = {"kind": "prediction", "encoder_hash": f"e-{label}", "data": data, "command": "c"}
    facts |= {"trained_steps": steps, "max_drop_ratio": ratio, "observed_frames": 9}
    row = {"metric": "error / repeat", "subject": "predicted", "value": error, "low": error - 0.1, "high": error + 0.1}
    return Predicted(label, facts, [Row(**row, n=8)])


def generator(label: str, distance: float, metric: str = "FVD", data: str = "ucf101") -> Predicted:
    row = Row(metric=metric, subject="generated", value=distance, low=distance - 5, high=distance + 5, n=8)
    return Predicted("run", {"kind": "fvd", "encoder_hash": f"e-{label}", "data": data}, [row])


def test_generators_stand_beside_the_prediction_in_whose_latents_they_draw():
    found = [prediction("a", 0.2), prediction("b", 0.5)]
    generators = [generator("b", 200.0), generator("a", 100.0), generator("a", 110.0), generator("c", 1.0),
                  generator("a", 3.0, "FD-shapes"), generator("a", 9.0, data="sky")]  # fmt: skip
    metric, pairs = joined(found, generators)
    assert metric == "FVD"
    assert [(one.label, row.value) for one, row in pairs] == [("b", 200.0), ("a", 100.0), ("a", 110.0)]
    chart = accuracy_chart(metric, pairs)
    assert re.findall(r"<title>(.*?)</title>", chart) == ["b: 0.5, 200", "a: 0.2, 100", "a: 0.2, 110"]
    assert "3 of 6 results of generators are left out" in prediction_page(found, generators, {})


def test_generators_whose_clips_were_drawn_in_another_way_are_not_in_one_figure():
    found = [prediction("a", 0.2), prediction("b", 0.5)]
    generators = []
    for label, distance, more in [
        ("a", 1.0, {"guidance_scales": [2.0, 1.0]}),
        ("a", 2.0, {"guidance_scales": [1.0, 2.0]}),
        ("b", 3.0, {"guidance_scales": [1.0]}),
        ("b", 4.0, {"guidance_scales": [1.0], "labels": "drawn"}),
        ("b", 5.0, {"steps": 50}),
        ("a", 6.0, {"samples": 512}),
        ("a", 7.0, {"guidance_interval": [0.1, 0.9]}),
    ]:
        made = generator(label, distance)
        made.facts.update({"steps": 100, "samples": 2048} | more)
        generators.append(made)
    assert [row.value for _, row in joined(found, generators)[1]] == [2.0, 3.0]
    assert "5 of 7 results of generators are left out" in prediction_page(found, generators, {})


def test_training_is_drawn_with_and_without_prediction_as_the_mean_of_seeds():
    found = [prediction("a", 0.2, 1000, 1.0), prediction("b", 0.3, 500, 0.5), prediction("c", 0.9, 1000, 0.0)]
    pairs = joined(
        [*found, prediction("d", 0.4)], [generator(n, d) for n, d in zip("abacd", (90, 120, 110, 150, 7), strict=True)]
    )[1]
    chart = training_chart("FVD", pairs)
    assert re.findall(r"<title>(.*?)</title>", chart) == [
        "with predictive reconstruction: 500, 120",
        "with predictive reconstruction: 1,000, 100",
        "without: 1,000, 150",
    ]


def test_figure_5_is_drawn_from_results_files_alone(tmp_path, capsys):
    for label, error, distance in (("with", 0.2, 100.0), ("without", 0.8, 150.0)):
        for one, name in ((prediction(label, error, 1000, 1.0), "p"), (generator(label, distance), "g")):
            facts = {key: value for key, value in one.facts.items() if key not in ("kind", "command")}
            path = tmp_path / "runs" / label / "eval" / f"{name}.json"
            write_results(path, kind=one.kind, rows=one.rows, **facts, **({"label": label} if name == "p" else {}))
    write_results(tmp_path / "runs" / "speed.json", kind="speed", rows=[])
    out = tmp_path / "page.html"
    found = predictions(PredictionConfig(results=(str(tmp_path / "runs"),), out=str(out), device="cpu"))
    assert [one.label for one in found] == ["with", "without"]
    text = out.read_text()
    assert "<title>with: 0.2, 100</title>" in text and "5b: FVD against training" in text
    with pytest.raises(InputError, match="results of speed; figure 5 is of prediction, fvd"):
        predictions(PredictionConfig(results=(str(tmp_path / "runs" / "speed.json"),), out=str(out)))


def test_the_page_of_predictions_is_sound_in_a_browser(browser, tmp_path):
    evil = "<script>alert(1)</script>" + "wide" * 60
    clip = torch.from_numpy(np.random.default_rng(0).random((3, 17, 32, 32), dtype=np.float32)) * 2 - 1
    one = prediction(evil, 0.2, 1000, 1.0)
    rows = [Row(metric=f"error / repeat, frame +{k}", subject=s, value=0.1 * k, low=0.05, high=1.0, n=8)
            for k in range(1, 9) for s in ("predicted", "blank")]  # fmt: skip
    one = Predicted(evil, one.facts, [*one.rows, *rows], [(clip, clip, clip)] * 6)
    path = tmp_path / "page.html"
    path.write_text(prediction_page([one], [generator(evil, 100.0)], {evil: evil}), "utf-8")
    browser.open(path, width=390)
    assert browser.complaints() == [] and browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.querySelectorAll('canvas').length") == 12
    assert browser.run("document.querySelectorAll('.chart').length") == 3
