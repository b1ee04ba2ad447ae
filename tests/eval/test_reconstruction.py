"""The judge of a tokenizer, on tokenizers whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.extract import View, extract, read_items
from eval.features.store import FeatureSet, FeatureStore, load_feature_set
from eval.measurements import PSNR_CAP, Measurer, columns_of, lpips_networks
from eval.metrics.frechet import frechet_distance
from eval.metrics.intervals import estimate
from eval.quantities import measurement_rows
from eval.reconstruction import (
    ReconstructionConfig,
    differences,
    not_measured,
    observed_frames,
    reconstruction,
    reconstructions,
)
from eval.reconstruction import judge as judged
from eval.results.rows import read_results
from eval.tokenizer_clips import drawn, encoder_of, open_clips, predictor_of
from runtime.command import parse
from runtime.errors import InputError
from runtime.processes import start_processes
from tokenizer.spec import Posterior, TokenizerSpec
from tokenizer.zoo import load
from videos import ClipSpec, psnr, ssim, to_float

CPU = torch.device("cpu")
COMMON = {"device": "cpu", "dtype": "float32"}


class Known(torch.nn.Module):
    """A tokenizer whose latents are the video; `shift` is added to what it decodes, `predict` answers with `future`."""

    spec = TokenizerSpec(name="known", temporal=4, spatial=1, channels=3)
    encoder_hash = decoder_hash = "known"

    def __init__(self, shift: float = 0.0, future=None):
        super().__init__()
        self.shift, self.future = shift, future

    def encode(self, video):
        return Posterior(video)

    def decode(self, latents):
        return latents + self.shift

    def predict(self, observed, groups):
        last = observed[:, :, -1:].expand(-1, -1, 4 * groups, -1, -1)
        return torch.cat([observed, last if self.future is None else self.future], dim=2)


class Clips:
    """A fixed data set: a bright square that steps to the right on mid-grey noise."""

    def __init__(self, count: int = 4):
        rng = np.random.default_rng(0)
        self.videos = rng.integers(90, 110, (count, 3, 17, 16, 32), dtype=np.uint8)
        for frame in range(17):
            self.videos[:, :, frame, 4:8, frame : frame + 4] = 240

    def __len__(self):
        return len(self.videos)

    def item(self, index, seed):
        return {"video": self.videos[index], "label": 0, "name": str(index)}


class Means:
    """Stands for a feature network: the mean colour of a clip's first and last frame."""

    name, version_hash, dim = "i3d", "means", 6

    def features(self, video):
        return torch.cat([video[:, :, 0].mean((2, 3)), video[:, :, -1].mean((2, 3))], dim=1)


def kept_of(vae, predictor=None, count: int = 4, clips=None, batch_size: int = 16, **more):
    """The rows of some clips, as they would be kept."""
    clips = clips or Clips(count)
    settings = {"observed": 9, "lpips_nets": {}, "network": None, "device": CPU} | more
    measurer = Measurer(vae=vae, predictor=predictor or vae, **settings)
    items = [clips.item(i, 0) for i in range(len(clips))]
    encode = encoder_of(vae, CPU, torch.float32, batch_size)
    rows, _ = measurer.see(encode(torch.from_numpy(np.stack([item["video"] for item in items]))))
    labels = np.array([item["label"] for item in items])
    return FeatureSet(rows.numpy(), None, labels, key=measurer.key(ClipSpec(17, (16, 32))))


def rows_of(vae, predictor=None, count: int = 4, **more):
    rows = measurement_rows(kept_of(vae, predictor, count, **more))
    return {(row.metric, row.subject): row for row in rows}


def test_a_shift_by_a_known_amount_has_the_psnr_of_the_closed_form():
    rows = rows_of(Known(shift=2 * 5 / 255))  # [-1, 1] spans 255 steps: five steps of uint8
    assert rows["PSNR", "reconstructed"].value == pytest.approx(-20 * math.log10(5 / 255), rel=1e-6)  # rows are float32
    assert rows["change explained", "reconstructed"].value == pytest.approx(1.0)
    assert rows["PSNR", "reconstructed"].n == 4


def test_repeating_the_last_frame_scores_one_and_explains_no_change():
    rows = rows_of(Known(shift=0.1))
    assert rows["error / repeat", "predicted"].value == pytest.approx(1.0)
    assert rows["change explained", "predicted"].value == pytest.approx(0.0, abs=1e-12)


def test_a_perfect_prediction_scores_zero_and_explains_all_change():
    truth = to_float(torch.from_numpy(Clips().videos))
    rows = rows_of(Known(shift=0.1), Known(future=truth[:, :, 9:]))
    assert rows["error / repeat", "predicted"].value == pytest.approx(0.0, abs=1e-12)
    assert rows["change explained", "predicted"].value == pytest.approx(1.0)
    horizons = [metric for metric, subject in rows if metric.startswith("error / repeat, frame")]
    assert len(horizons) == 4


def test_what_was_not_measured_says_so(judge):
    nets, missing = lpips_networks(ClipSpec(17, 64), CPU)
    assert nets == {} and set(missing) == {"alex", "vgg"}
    rows = {row.metric: row for row in not_measured(missing, "not asked for; see elsewhere")}
    assert rows["LPIPS (alex)"].value is None and rows["rFVD"].note == "not measured: not asked for"
    assert rows["LPIPS (alex)"].note.startswith("not measured: alexnet")
    assert rows["LPIPS (vgg)"].note.startswith("not measured: vgg16")


def test_rounding_to_uint8_costs_little_and_is_printed_as_a_ceiling():
    rows = rows_of(Known(shift=0.1234))
    # the error of rounding lies within half a step: at least 54 dB
    assert rows["PSNR", "rounding"].value > 54 > rows["PSNR", "reconstructed"].value > rows["PSNR", "frozen"].value


def test_the_command_measures_a_run_and_writes_its_facts(chain, judge, capsys):
    out = reconstruction(ReconstructionConfig(runs_dir=str(chain.runs), samples=12, **COMMON))
    facts, rows = read_results(out)
    assert out == chain.tokenizer / "eval" / "reconstruction-moving_shapes-test-32px-n12.json"
    assert facts["observed_frames"] == 9 and facts["data"] == "moving_shapes" and facts["split"] == "test"
    assert {"PSNR", "SSIM", "change explained", "error / repeat", "rFD-shapes"} <= {row.metric for row in rows}
    assert all(row.low <= row.value <= row.high for row in rows if row.value is not None)
    assert any("Kinetics-400" in words for words in facts["differences"])
    assert "rFD-shapes" in capsys.readouterr().out


def test_a_folder_that_names_no_data_set_asks_for_one(chain, judge, tmp_path):
    load(chain.tokenizer).save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="--data is needed"):
        reconstruction(ReconstructionConfig(runs_dir=str(tmp_path), tokenizer=str(tmp_path / "vae"), **COMMON))


def test_an_unknown_tokenizer_is_named_and_not_its_data(tmp_path):
    with pytest.raises(InputError, match="'nosuch' is neither a folder nor a known name"):
        reconstruction(ReconstructionConfig(runs_dir=str(tmp_path), tokenizer="nosuch", **COMMON))


def test_a_size_that_does_not_fit_names_the_nearest_one(chain, judge):
    with pytest.raises(InputError, match="must be a multiple of 16; nearest: 32"):
        reconstruction(ReconstructionConfig(runs_dir=str(chain.runs), samples=2, size=36, **COMMON))


def test_rows_hold_what_the_public_functions_say():
    clips = Clips(3)
    found = columns_of(kept_of(Known(shift=0.3), clips=clips, batch_size=2))
    real = torch.from_numpy(clips.videos).double() / 255
    output = (to_float(torch.from_numpy(clips.videos)) + 0.3).clamp(-1, 1).double().add(1).mul(127.5).round() / 255
    assert found["psnr"] == pytest.approx(psnr(output, real).numpy(), rel=1e-6)
    assert found["ssim"] == pytest.approx(ssim(output, real).numpy(), rel=1e-6)


def test_equal_frames_count_as_a_hundred_decibels_and_not_as_infinity():
    clips = Clips(3)
    clips.videos[0] = clips.videos[0][:, :1]  # a clip that stands still
    rows = rows_of(Known(), clips=clips)
    assert rows["PSNR", "reconstructed"].value == PSNR_CAP
    assert PSNR_CAP / 3 < rows["PSNR", "frozen"].value < PSNR_CAP


def test_rfvd_is_paired_set_level_and_respects_classes():
    class Coloured(Clips):
        def item(self, index, seed):
            return super().item(index, seed) | {"label": index % 2}

    kept = kept_of(Known(shift=0.1), clips=Coloured(20), network=Means(), stratified=True)
    row = next(row for row in measurement_rows(kept) if row.metric == "rFVD" and row.subject == "reconstructed")
    found = columns_of(kept)
    expected = estimate(
        frechet_distance, found["features"], found["real_features"], paired=True, labels=np.arange(20) % 2
    )
    assert (row.value, row.low, row.high) == (expected.value, expected.low, expected.high)
    assert row.n == 20 and row.features == "i3d@means"
    apart = estimate(frechet_distance, found["features"], found["real_features"])
    assert row.high - row.low < apart.high - apart.low


def test_rounding_sets_a_floor_far_below_what_a_shift_costs():
    rows = rows_of(Known(shift=0.1234), network=Means())
    assert 0 <= rows["rFVD", "rounding"].value < 1e-3 * rows["rFVD", "reconstructed"].value
    assert 0.99 < rows["SSIM", "rounding"].value <= 1


def test_lpips_of_both_networks_is_measured_where_their_weights_are():
    nets = {"alex": lambda a, b: (a - b).square().mean((1, 2, 3), keepdim=True)}
    nets["vgg"] = lambda a, b: 2 * nets["alex"](a, b)
    rows = rows_of(Known(shift=0.1), lpips_nets=nets)
    alex, vgg = (rows[f"LPIPS ({net})", "reconstructed"].value for net in ("alex", "vgg"))
    assert alex > 0 and vgg == pytest.approx(2 * alex)


def test_a_tokenizer_that_does_not_predict_is_judged_without():
    class Silent(Known):
        predict = property()

    silent, clip = Silent(0.1), ClipSpec(17, 32)
    assert observed_frames(ReconstructionConfig(), silent, clip) is None
    with pytest.raises(InputError, match="--observed 5: tokenizer known does not predict"):
        observed_frames(ReconstructionConfig(observed=5), silent, clip)
    subjects = {subject for _, subject in rows_of(silent, observed=None)}
    assert subjects == {"reconstructed", "rounding", "frozen"}


def test_without_weights_of_the_video_stage_a_row_says_that_prediction_was_not_measured(chain, judge, tmp_path):
    load(chain.tokenizer).save_pretrained(tmp_path / "vae")
    flags = {"tokenizer": str(tmp_path / "vae"), "data": "moving_shapes", "runs_dir": str(tmp_path), **COMMON}
    config = ReconstructionConfig(samples=2, size=32, **flags)
    rows = {(row.metric, row.subject): row for row in read_results(reconstruction(config))[1]}
    assert rows["PSNR", "reconstructed"].value > 0
    missing = rows.pop(("error / repeat", "predicted"))
    assert missing.value is None and missing.note.startswith("not measured: the tokenizer has no weights to predict")
    assert not [metric for metric, subject in rows if subject == "predicted"]
    with pytest.raises(InputError, match="--observed 5: the tokenizer has no weights to predict with"):
        reconstruction(replace(config, observed=5))


class Files:
    """Sorted by class, as folders are."""

    def __init__(self, classes: int, each: int):
        self._labels = [label for label in range(classes) for _ in range(each)]

    def __len__(self):
        return len(self._labels)

    def labels(self):
        return self._labels


def test_other_weights_than_a_runs_own_are_another_tokenizer(chain):
    flags = ReconstructionConfig(runs_dir=str(chain.runs), **COMMON)
    own = open_clips(flags, str(chain.tokenizer), None, CPU)
    other = open_clips(flags, str(chain.tokenizer), "random", CPU)
    assert own.folder == chain.tokenizer / "eval" and other.folder.parent.parent == chain.runs
    assert "weights" in other.folder.parent.name and own.vae.decoder_hash != other.vae.decoder_hash
    # What the run has learned to predict says nothing of them.
    assert judged(flags, own).observed == 9 and judged(flags, other).observed is None
    assert {row.metric for row in judged(flags, other).missing} >= {"error / repeat"}
    assert predictor_of(str(chain.tokenizer), None, own.vae, CPU) is not None
    assert predictor_of(str(chain.tokenizer), "random", other.vae, CPU) is None  # nor do pages show it


def test_of_files_every_class_is_drawn_alike_and_of_synthetic_clips_the_first():
    files = Files(classes=10, each=20)
    items, stratified = drawn(files, "kinetics400", ReconstructionConfig(samples=30))
    assert stratified and len(set(items)) == 30 and items == sorted(items)
    assert [sum(files.labels()[i] == c for i in items) for c in range(10)] == [3] * 10
    assert items == drawn(files, "kinetics400", ReconstructionConfig(samples=30))[0]
    assert items != drawn(files, "kinetics400", ReconstructionConfig(samples=30, seed=1))[0]
    assert drawn(Files(1, 50), "videos", ReconstructionConfig(samples=30))[1] is False
    assert drawn(files, "moving_shapes", ReconstructionConfig(samples=30)) == (list(range(30)), False)


def test_several_sizes_are_several_files_and_kept_rows_are_not_made_again(chain, judge, monkeypatch):
    flags = {"runs_dir": str(chain.runs), "samples": 5, "features": "shapes", **COMMON}
    small, large = reconstructions(ReconstructionConfig(sizes=(16, 32), **flags))
    (facts, rows), (_, rows_large) = read_results(small), read_results(large)
    assert (facts["size"], facts["num_frames"], facts["samples"]) == (16, 17, 5) and rows != rows_large
    monkeypatch.setattr(Measurer, "measure", lambda *_: pytest.fail("measured again"))
    reconstructions(ReconstructionConfig(sizes=(16, 32), **flags))
    assert read_results(small)[1] == rows
    (source,) = {source for row in rows for source in row.sources}
    kept = load_feature_set(small.parent / source)
    assert len(kept.features) == 5 and kept.key["decoder"]
    assert [row.value for row in measurement_rows(kept)] == [row.value for row in rows if row.value is not None]


@pytest.mark.parametrize(
    "line, words",
    [
        ("--size 16 --sizes 16,32", "one of them will do"),
        ("--sizes 16,16", "a size is named twice"),
        ("--sizes 16,32 --out a.json", "one file cannot hold several"),
        ("--sizes 4", "too small"),
    ],
)
def test_sizes_that_contradict_are_refused(line, words):
    with pytest.raises(InputError, match=words):
        parse(line.split(), ReconstructionConfig)


def test_the_papers_protocol_differs_in_nothing():
    clip = ClipSpec(17, 512, window="first")
    assert differences("kinetics400", "test", clip, 2048, Means()) == []
    words = differences("ucf101", "test", ClipSpec(9, 128, 2), 100, None)
    assert len(words) == 4 and "Kinetics-400" in words[0]


def test_every_column_comes_back_from_the_file_under_its_own_name(tmp_path):
    nets = {net: lambda a, b: (a - b).abs().mean((1, 2, 3), keepdim=True) for net in ("vgg", "alex")}
    clips = Clips(4)
    settings = {"observed": 9, "lpips_nets": nets, "network": Means(), "device": CPU}
    measurer = Measurer(vae=Known(0.1), predictor=Known(0.2), **settings)
    key = measurer.key(ClipSpec(17, (16, 32)))
    encode = encoder_of(measurer.vae, CPU, torch.float32, 16)
    views = {"": View(store=FeatureStore(tmp_path, "a", key), see=measurer.see, change=encode)}
    read = read_items(clips, range(4), 0)
    kept = extract(views, list("abcd"), read, world=start_processes("cpu"), label="")[""]
    ((clip, posterior),) = encode(torch.from_numpy(clips.videos)).parts
    measured, found = measurer.measure(clip, posterior), columns_of(kept)
    assert set(found) == set(measured) == set(key["layout"]) and len(found) == 20
    for name, values in measured.items():
        assert found[name] == pytest.approx(values.reshape(found[name].shape).numpy(), rel=1e-6), name
    assert {row.sources for row in measurement_rows(kept)} == {(str(kept.path),)}


def test_rows_of_before_a_column_was_added_are_read_without_it():
    kept = kept_of(Known(shift=0.1), network=Means())
    columns = {name: values for name, values in columns_of(kept).items() if name != "grey"}
    rows = np.concatenate([values.reshape(len(values), -1) for values in columns.values()], axis=1).astype(np.float32)
    layout = {name: count for name, count in sorted(kept.key["layout"].items()) if name != "grey"}
    older = replace(kept, features=rows, key=kept.key | {"layout": layout})
    assert all(np.array_equal(values, columns[name]) for name, values in columns_of(older).items())
    now, then = ({(row.metric, row.subject): row.value for row in measurement_rows(each)} for each in (kept, older))
    assert then == {name: value for name, value in now.items() if name != ("error / repeat", "grey")} != now


@pytest.mark.parametrize(
    "change",
    [
        {"layout": None},
        {"layout": {}},
        {"layout": {"psnr": 1}},
        {"num_frames": 5},
        {"observed": 30},
        {"observed": "9"},
        {"network": "vgg"},
        {"stratified": 1},
    ],
)
def test_rows_whose_key_does_not_fit_are_refused(change):
    kept = kept_of(Known(shift=0.1), network=Means())
    assert measurement_rows(kept)
    with pytest.raises(InputError):
        measurement_rows(replace(kept, key=kept.key | change))
    with pytest.raises(InputError, match="no measurements of a tokenizer"):
        measurement_rows(replace(kept, key={"seed": 0}))
