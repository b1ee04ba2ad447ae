"""The judge of a generator: sets, names, controls, and what is kept."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.eval import Counted
from eval import features, inception_score
from eval.clip_sets import (
    Judge,
    Watcher,
    choose_features,
    frozen,
    load_classifier,
    open_training_clips,
    real_clips,
    sample_names,
    shuffled,
    stratified_halves,
)
from eval.difference import DifferenceConfig, difference
from eval.features.shapes import ShapesNet
from eval.features.store import FeatureSet
from eval.fvd import FVDConfig, fvd
from eval.protocols.follow import sampling_differences
from eval.quantities import distance_rows, judge_rows, no_infinity, score_rows
from eval.results.rows import read_results
from eval.verify import UNCHECKED, VERIFIED, checks_of
from generator.presets import PRESETS
from runtime.checkpoint import list_checkpoints
from runtime.command import parse
from runtime.errors import InputError
from runtime.processes import World
from runtime.records import read_json, write_json
from tokenizer.pvvae import PVVAE
from tokenizer.zoo import load, video_folder
from videos import ClipSpec
from videos.moving_shapes import MovingShapes
from videos.unreadable import UnreadableClip

COMMON = {"device": "cpu", "dtype": "float32", "steps": 2, "samples": 12}


def seen(features, labels, probabilities=None, network="shapes") -> FeatureSet:
    """A set as `network` would have seen it."""
    key = {"network": network, "weights": "test", "data": "moving_shapes"}
    return FeatureSet(features, probabilities, np.asarray(labels), key=key)


def run_fvd(chain, tmp_path, **flags):
    return read_results(fvd(FVDConfig(runs_dir=str(chain.runs), out=str(tmp_path / "fvd.json"), **{**COMMON, **flags})))


def test_every_number_has_interval_count_features_and_controls(chain, judge, tmp_path, capsys):
    facts, rows = run_fvd(chain, tmp_path, guidance_scales=(1.0, 2.0))
    distances = {row.subject: row for row in rows if row.metric == "FD-shapes"}
    controls = ["frozen", "real", "reconstructed", "shuffled", "untrained"]
    assert sorted(distances) == sorted(["generated", "generated (guidance 2)", *controls])
    through = {row.subject for row in rows if row.metric == "FD-shapes to reconstructions"}
    assert through == {"generated", "generated (guidance 2)", "reconstructed", "untrained"}
    measured = sorted(row.metric for row in rows if row.subject == "generated" and "to rec" not in row.metric)
    assert measured == ["FD-shapes", "IS-shapes", "KD-shapes", "accuracy-class", "accuracy-motion", "accuracy-shape"]
    assert all(row.low <= row.value <= row.high and row.n == 12 and row.features.startswith("shapes@") for row in rows)
    assert all(row.low >= 0 and row.high <= 1 for row in rows if row.metric.startswith("accuracy"))
    assert not any(row.metric in ("FVD", "KVD", "IS") for row in rows)
    assert any("no FVD" in words for words in facts["differences"])
    assert facts["guidance_scales"] == [1.0, 2.0] and facts["steps"] == 2 and facts["step"] == 4
    assert "FD-shapes" in capsys.readouterr().out


def test_too_few_clips_for_infinity_are_a_note_and_enough_are_a_row(chain, judge, tmp_path, capsys):
    facts, rows = run_fvd(chain, tmp_path, controls=False)
    assert facts["notes"] == [
        "not extrapolated to infinitely many clips: 128 features need 256 clips in each set, here 12"
    ]
    assert facts["notes"][0] in capsys.readouterr().out and not any("infinity" in row.metric for row in rows)
    rng = np.random.default_rng(0)
    sets = [seen(rng.normal(size=(400, 6)), np.arange(400) % 4) for _ in range(2)]
    plain, _, row = distance_rows(*sets, "generated", suffix=" to reconstructions", infinity=True)
    assert row.metric == "FD-shapes at infinity to reconstructions"
    assert no_infinity(*(kept.features for kept in sets)) == ""
    assert row.low < 0 < row.high and row.method.endswith("class-stratified in equal shares")  # the truth of equal sets
    assert row.value < plain.value


def test_intervals_leave_the_draw_of_classes_out():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    apart = 5.0 * labels[:, None] + rng.normal(size=(80, 2))
    moved = apart + np.array([3.0, 0.0]) + 0.1 * rng.normal(size=(80, 2))
    with_classes = distance_rows(seen(apart, labels), seen(moved, labels), "x")
    nowhere = np.full(80, -1)
    without = distance_rows(seen(apart, nowhere), seen(moved, nowhere), "x")
    for narrow, wide in zip(with_classes, without, strict=True):
        assert narrow.value == wide.value and narrow.high - narrow.low < 0.7 * (wide.high - wide.low)
        assert "class-stratified" in narrow.method and "class-stratified" not in wide.method


def test_a_second_call_takes_the_kept_features_and_says_the_same(chain, judge, tmp_path, monkeypatch):
    _, first = run_fvd(chain, tmp_path)
    monkeypatch.setattr("eval.features.shapes.ShapesNet.features", lambda *_: pytest.fail("computed again"))
    _, second = run_fvd(chain, tmp_path)
    assert first == second


def test_every_process_judges_what_the_main_one_chose(chain, tmp_path, monkeypatch):
    """Another process may see another newest run, or a checkpoint that was written meanwhile."""

    class Told(Exception):
        pass

    def judge(run, config, *, step, **rest):
        raise Told(run, step)

    monkeypatch.setattr("eval.clip_sets.Judge", judge)
    with pytest.raises(Told) as own:
        run_fvd(chain, tmp_path)
    assert own.value.args == (str(chain.generator), 4)
    monkeypatch.setattr(World, "same", lambda self, value: ("another", 2) if isinstance(value, tuple) else value)
    with pytest.raises(Told) as told:
        run_fvd(chain, tmp_path)
    assert told.value.args == ("another", 2)


def test_another_tokenizer_is_refused_before_anything_is_sampled(chain, judge, tmp_path, monkeypatch):
    from tokenizer.pvvae import PVVAE
    from tokenizer.zoo import load

    other = PVVAE(load(chain.tokenizer).config)
    other.save_pretrained(tmp_path / "other")
    monkeypatch.setattr("generator.sample.sample", lambda config: pytest.fail("sampled all the same"))
    with pytest.raises(InputError, match="decode with the tokenizer that encoded them"):
        run_fvd(chain, tmp_path, tokenizer=str(tmp_path / "other"))


def test_guidance_that_a_generator_cannot_have_is_refused_before_anything_is_seen(chain, tmp_path):
    run = shutil.copytree(chain.generator, tmp_path / "run")
    write_json(run / "config.json", read_json(run / "config.json") | {"class_dropout": 0.0})
    flags = {"runs_dir": str(tmp_path), "run": str(run), **COMMON, "guidance_scales": (1.0, 2.0)}
    with pytest.raises(InputError, match="--guidance-scale 2: .* was trained with --class-dropout 0"):
        fvd(FVDConfig(**flags))
    assert not (tmp_path / "features").exists()


def test_only_clips_that_were_encoded_are_references(chain, judge):
    found = Judge(str(chain.generator), FVDConfig(runs_dir=str(chain.runs), device="cpu"))
    assert sorted(found.reference_items + found.other_items) == list(range(40))


def test_one_sample_is_refused_on_the_command_line():
    with pytest.raises(InputError, match="--samples 1 is too small: the least is 2"):
        parse(["--samples", "1"], FVDConfig)


def test_auto_features_are_the_judges_on_synthetic_clips_only():
    assert choose_features("auto", "moving_shapes_textured") == "shapes"
    assert choose_features("auto", "ucf101") == "i3d"
    assert choose_features("shapes", "ucf101") == "shapes"


def test_absent_i3d_weights_name_the_file_and_the_way_without(chain, judge, tmp_path):
    with pytest.raises(InputError, match=r"i3d_torchscript.*--features shapes gives a distance under another name"):
        run_fvd(chain, tmp_path, features="i3d")


@pytest.fixture
def scored(monkeypatch):
    """IS is asked for on the chain's data set, too."""
    monkeypatch.setattr("eval.clip_sets.IS_DATA_SETS", ("moving_shapes",))


def test_c3d_gives_is_of_generated_real_and_reconstructed_clips(chain, judge, scored, guesser, tmp_path, monkeypatch):
    load = features.load_features
    monkeypatch.setattr(
        "eval.clip_sets.load_features", lambda name, **more: guesser if name == "c3d" else load(name, **more)
    )
    _, rows = run_fvd(chain, tmp_path, guidance_scales=(1.0, 2.0))
    scores = {row.subject: row for row in rows if row.metric == "IS"}
    assert set(scores) == {"generated", "generated (guidance 2)", "real", "reconstructed"}
    assert all(row.features == "c3d@guesses" and 1 <= row.value <= 2 and row.n == 12 for row in scores.values())
    assert scores["generated"].note == "guidance 1, first 16 frames"
    # Twelve clips make no ten splits, and the row says so.
    split = next(row for row in rows if row.metric == "IS (10 splits)")
    assert split.value is None and split.note == "not measured: 12 clips are too few for 10 splits"


def test_ten_splits_are_the_mean_of_ten_scores():
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.3), size=60)
    one, ten = score_rows(seen(np.zeros((60, 2)), np.zeros(60, dtype=int), p, network="c3d"), "generated")
    assert (one.metric, ten.metric) == ("IS", "IS (10 splits)")
    assert one.value == pytest.approx(inception_score(p)) and ten.value == pytest.approx(inception_score(p, splits=10))
    assert ten.value < one.value and one.low <= one.value <= one.high


def test_without_c3d_one_row_says_why_is_was_not_measured(chain, judge, scored, tmp_path, capsys):
    _, rows = run_fvd(chain, tmp_path, controls=False)
    (row,) = [row for row in rows if row.metric.startswith("IS") and row.metric != "IS-shapes"]
    assert row.value is None and row.note.startswith("not measured: conv3d_deepnetA_ucf.npz is not here")
    assert "IS " in capsys.readouterr().out


def test_is_is_asked_for_on_ucf101_alone_and_of_clips_that_are_long_enough():
    assert load_classifier({"data": "realestate10k", "clip": '{"num_frames": 17}'}, "cpu") == (None, "")
    network, reason = load_classifier({"data": "ucf101", "clip": '{"num_frames": 9}'}, "cpu")
    assert network is None and "16 frames" in reason


def test_a_set_of_equal_clips_is_refused_as_reference_and_noted_as_generated(
    chain, judge, guesser, tmp_path, monkeypatch
):
    still = seen(np.ones((8, 3), np.float32), np.full(8, -1))
    varied = seen(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), np.full(8, -1))
    rows = distance_rows(still, varied, "generated")
    assert all("the same features" in row.note and row.value > 0 for row in rows)
    assert not any("same" in row.note for row in distance_rows(varied, varied, "real"))
    judge = Judge(str(chain.generator), FVDConfig(runs_dir=str(tmp_path), device="cpu", samples=8))
    monkeypatch.setattr("eval.clip_sets.extract", lambda views, *_, **__: dict.fromkeys(views, still))
    with pytest.raises(InputError, match="real clips of moving_shapes have the same features"):
        judge.real(judge.reference_items, ["real"], {"features": Watcher(network=guesser)})


def test_halves_are_disjoint_seeded_and_stratified():
    labels = [i % 4 for i in range(80)]
    first, second = stratified_halves(labels, 20, seed=3)
    assert len(first) == len(second) == 20 and not set(first) & set(second)
    assert [sum(labels[i] == c for i in first) for c in range(4)] == [5] * 4
    assert (first, second) == stratified_halves(labels, 20, seed=3) != stratified_halves(labels, 20, seed=4)
    assert stratified_halves(labels, 8, seed=3)[0] == first[:8]


def test_controls_keep_the_pictures_and_change_the_motion():
    video = torch.randint(256, (2, 3, 5, 4, 4), dtype=torch.uint8)
    assert torch.equal(frozen(video)[:, :, 3], video[:, :, 0])
    mixed = shuffled(video, seed=1)
    assert torch.equal(mixed.sort(dim=2).values, video.sort(dim=2).values)
    assert torch.equal(mixed, shuffled(video, seed=1)) and not torch.equal(mixed, shuffled(video, seed=2))
    assert torch.equal(mixed[1:], shuffled(video[1:], seed=1))  # whatever batch a clip is in


def test_other_ways_to_sample_are_other_results(chain, judge, tmp_path):
    """Guidance for a part of the time and classes drawn at random change clips, and are named wherever they count."""
    flags = {"guidance_scales": (2.0,), "controls": False}
    plain, _ = run_fvd(chain, tmp_path, **flags)
    (tmp_path / "fvd.json").rename(tmp_path / "plain.json")
    facts, rows = run_fvd(chain, tmp_path, **flags, guidance_interval=(0.5, 1.0), labels="drawn")
    assert (facts["guidance_interval"], facts["labels"]) == ([0.5, 1.0], "drawn")
    assert not {"guidance_interval", "labels"} & plain.keys()
    words = {"guidance at times 0.5 to 1 alone, noise being 0", "classes of samples drawn at random instead of in turn"}
    assert words <= {*facts["differences"]} and not words & {*plain["differences"]}
    (samples,) = {Path(name).name for name in facts["samples_of"].values()}
    assert samples == "step_00000004_euler2_guidance2_interval0.5-1_labelsdrawn_seed0.h5"
    # Classes that were drawn are part of what an interval covers, and what was asked for is known all the same.
    shape = next(row for row in rows if row.metric == "accuracy-shape")
    assert "class-stratified" not in shape.method and shape.n == 12
    states = {check.what: check.state for check in checks_of(tmp_path / "fvd.json") if "generated" in check.what}
    assert {*states.values()} - {UNCHECKED} == {VERIFIED} and states["accuracy-shape, generated"] == VERIFIED
    with pytest.raises(InputError, match="not of the same clips"):
        difference(DifferenceConfig(a=str(tmp_path / "plain.json"), b=str(tmp_path / "fvd.json")))


def test_what_differs_from_the_papers_generator_is_said(chain, judge):
    """And nothing, of one that is as the paper's: its numbers stand below the published ones."""
    found = Judge(str(chain.generator), FVDConfig(runs_dir=str(chain.runs), device="cpu", guidance_scales=(4.0,)))
    words = sampling_differences(found)
    for part in ("blocks of width", "after 4 steps of training instead of 250,000", "guidance 4 instead of none"):
        assert any(part in line for line in words), part
    found.size, found.step, found.config = PRESETS["latte-xl"].model, 250_000, FVDConfig()
    found.dataset = SimpleNamespace(clip=ClipSpec(frame_stride=3))
    found.facts |= {"data": "ucf101", "split": "all"}
    assert sampling_differences(found) == []
    found.facts["split"] = "train"
    assert sampling_differences(found) == [
        "UCF101's split train at a frame stride of 3 instead of all videos at 3, our default"
    ]


def test_controls_of_fewer_clips_say_so(chain, judge, tmp_path):
    """Of 40 clips half are the reference: the other half is what real clips are compared by."""
    facts, rows = run_fvd(chain, tmp_path, samples=24, steps=1)
    counts = {row.subject: row.n for row in rows if row.metric == "FD-shapes"}
    assert counts["real"] < counts["generated"] == 24
    assert f"controls of real clips are {counts['real']}, generated clips 24: fewer" in facts["notes"][-1]


def test_results_made_in_another_way_have_another_name(chain, judge):
    """Neither overwrites the other."""
    flags = {"runs_dir": str(chain.runs), "controls": False, **COMMON, "samples": 4}
    video = next(step for step, folder in list_checkpoints(chain.tokenizer) if folder == video_folder(chain.tokenizer))
    before = f"{chain.tokenizer}@{video}"
    ways = [{"steps": 1}, {"steps": 1, "seed": 1}, {"steps": 100}, {"steps": 1, "guidance_scales": (2.0, 1.0)}]
    ways.append({"steps": 1, "tokenizer": before})
    names = [fvd(FVDConfig(**flags | way)).name.removeprefix("fvd-shapes-step00000004-n4") for way in ways]
    of_decoder = f"_euler1-{chain.tokenizer.name}-{video}-{load(before).decoder_hash[:8]}.json"
    assert names == ["_euler1.json", "_euler1_seed1.json", ".json", "_euler1_guidance2-1.json", of_decoder]


def test_accuracy_counts_shape_and_motion_apart():
    probabilities = np.eye(12)[[0, 1, 4, 5]]  # shape 0 0 1 1, motion 0 1 0 1
    rows = judge_rows(seen(np.zeros((4, 2)), np.zeros(4, dtype=int), probabilities), "generated")
    values = {row.metric: row.value for row in rows}
    assert values["accuracy-shape"] == values["accuracy-motion"] == 0.5
    assert values["accuracy-class"] == 0.25
    assert values["IS-shapes"] == pytest.approx(4.0)


@pytest.fixture
def counters():
    """Clips that are read, encoded, decoded, and seen by the judge."""
    targets = {
        "read": (MovingShapes, "item", lambda *_: 1),
        "encoded": (PVVAE, "encode"),
        "decoded": (PVVAE, "decode"),
        "seen": (ShapesNet, "features"),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(Counted(*target)) for name, target in targets.items()}


def test_each_clip_is_read_encoded_and_decoded_once(chain, judge, tmp_path, counters):
    flags = {"run": str(chain.generator), "out": str(tmp_path / "fvd.json"), **COMMON}
    fvd(FVDConfig(runs_dir=str(tmp_path), **flags))
    # Both halves are read; reconstructed; and beside these two sets those of generator and untrained one are decoded.
    assert {name: counter.clips for name, counter in counters.items()} == {
        "read": 2 * 12,
        "encoded": 2 * 12,
        "decoded": 4 * 12,
        "seen": 8 * 12,
    }
    fvd(FVDConfig(runs_dir=str(tmp_path), **flags | {"samples": 6}))
    more = {name: counter.clips for name, counter in counters.items()}
    assert (more["read"], more["encoded"]) == (24, 24)  # smaller draws are the first ones of larger
    fvd(FVDConfig(runs_dir=str(tmp_path), **flags | {"samples": 16, "controls": False}))
    # The block of clips that the new ones are in is made whole.
    assert counters["read"].clips == 24 + 16 and counters["encoded"].clips == 24


def test_without_controls_nothing_is_made_for_them(chain, judge, tmp_path, counters):
    flags = {"run": str(chain.generator), "out": str(tmp_path / "fvd.json"), **COMMON}
    fvd(FVDConfig(runs_dir=str(tmp_path), controls=False, **flags))
    assert [counter.clips for counter in counters.values()] == [12, 0, 12, 24]


def test_samples_are_told_apart_by_their_latents(chain):
    from latents_cache import open_latents

    with open_latents(chain.latents) as reader:
        names = sample_names(reader, 7)
        assert len(set(names)) == 7 and names == sample_names(reader, 40)[:7]
        assert names[3].startswith(f"3-{reader.labels[3]}-")


def test_clips_that_cannot_be_decoded_are_left_out_of_those_that_are_shown():
    class Torn:
        def item(self, place: int, seed: int) -> dict:
            if place % 2:
                raise UnreadableClip(Path("torn.avi"), "no frame")
            return {"video": np.full((3, 5, 8, 8), place, np.uint8), "label": place}

    clips, labels = real_clips(Torn(), range(9), 0, 3)
    assert labels == [0, 2, 4] == clips[:, 0, 0, 0, 0].tolist()
    with pytest.raises(InputError, match="none of these clips can be decoded"):
        real_clips(Torn(), [1, 3], 0)


def test_clips_that_an_earlier_version_drew_otherwise_are_not_taken_for_those_of_the_latents():
    clip = '{"num_frames": 5, "size": 32, "frame_stride": 1, "window": "first"}'
    facts = {"data": "moving_shapes", "split": "train", "clip": clip}
    now = {"data_fingerprint": open_training_clips(facts).fingerprint()}
    assert len(open_training_clips(facts | now)) == len(open_training_clips(facts))
    with pytest.raises(InputError, match="an earlier version, which drew other clips .fingerprint x, now"):
        open_training_clips(facts | {"data_fingerprint": "x"})
