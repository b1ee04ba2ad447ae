"""One set of clips through published protocols: every setting acts, and what cannot be followed is said."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from eval import frechet_distance
from eval.features.i3d import I3D
from eval.fvd import FVDConfig, fvd
from eval.metrics.published_roots import frechet_by_sqrtm, frechet_by_tfgan
from eval.protocols import presets as words
from eval.protocols.clips import plan_clips
from eval.protocols.distances import mean_distance
from eval.protocols.follow import FOLLOWED
from eval.protocols.networks import FOLLOWED_BY_I3D, load_network
from eval.protocols.presets import PAPER, PROTOCOLS, protocol_hash
from eval.results.rows import read_results
from eval.verify import VERIFIED, checks_of
from runtime.command import parse
from runtime.errors import InputError
from videos import ClipSpec

COMMON = {"device": "cpu", "dtype": "float32", "steps": 2, "samples": 12}
CLIP = ClipSpec(num_frames=17, size=256, frame_stride=3)


def run_fvd(chain, tmp_path, **flags):
    return read_results(fvd(FVDConfig(runs_dir=str(chain.runs), out=str(tmp_path / "fvd.json"), **{**COMMON, **flags})))


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)), rng.normal(size=(260, 12)) + 0.3


def test_all_shows_one_set_of_clips_under_every_protocol(chain, judge, tmp_path, capsys):
    facts, rows = run_fvd(chain, tmp_path, protocol=("all",))
    distances = {row.subject: row for row in rows if row.metric == "FD-shapes"}
    assert set(distances) == {f"generated, {name}" for name in PROTOCOLS}
    assert all(row.low <= row.value <= row.high for row in distances.values())
    assert {row.subject for row in rows if row.metric == "KD-shapes"} == {"generated, paper", "generated, tats"}
    # Four disjoint pairs of three clips.
    assert distances["generated, videogpt"].method.startswith("mean of 4 pairs of sets")
    assert facts["kind"] == "protocols" and set(facts["protocols"]) == set(PROTOCOLS)
    for name, said in facts["protocols"].items():
        assert said["ddof"] == PROTOCOLS[name].ddof
        lines = said["differences"]
        assert lines[1 : 1 + len(PROTOCOLS[name].differs_from(PAPER))] == PROTOCOLS[name].differs_from(PAPER)
        assert "no FVD" in lines[0] and any("2 Euler steps" in line for line in lines)
        assert any("clips of 32 pixels, not enlarged" in line for line in lines)
    assert "12 generated clips in a set (latte: 2,048)" in facts["protocols"]["latte"]["differences"]
    printed = capsys.readouterr().out
    assert "protocol tats, of songweige/TATS" in printed and "differs from the paper: eps of batch norm" in printed


def test_the_papers_number_is_the_one_that_eval_fvd_gives_by_default(chain, judge, tmp_path):
    _, alone = run_fvd(chain, tmp_path, controls=False)
    _, rows = run_fvd(chain, tmp_path, protocol=("paper", "latte"))
    expected = next(row for row in alone if row.metric == "FD-shapes")
    found = next(row for row in rows if row.subject == "generated, paper")
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_second_call_takes_the_kept_features(chain, judge, tmp_path, monkeypatch):
    _, first = run_fvd(chain, tmp_path, protocol=("latte", "tats"))
    monkeypatch.setattr("eval.features.shapes.ShapesNet.features", lambda *_: pytest.fail("computed again"))
    assert run_fvd(chain, tmp_path, protocol=("latte", "tats"))[1] == first


def test_without_weights_all_is_rows_that_say_so_and_a_name_is_refused(chain, judge, tmp_path, monkeypatch):
    monkeypatch.setattr("generator.sample.sample", lambda config: pytest.fail("sampled all the same"))
    _, rows = run_fvd(chain, tmp_path, protocol=("all",), features="i3d")
    assert len(rows) == len(PROTOCOLS) and all(row.value is None for row in rows)
    said = {row.subject.removeprefix("generated, "): row.note for row in rows}
    assert said["paper"].startswith("not measured: i3d_torchscript.pt is not here (51,235,320 bytes, sha256 bec6519f")
    assert "python -m runtime.check --download i3d_pretrained_400" in said["tats"]
    assert "VideoMAE" in said["cd-fvd-videomae"] and "not built here" in said["cd-fvd-videomae"]
    assert "python -m runtime.check --download i3d_pretrained_400" in said["cd-fvd"]
    with pytest.raises(InputError, match="protocol tats: i3d_pretrained_400.pt is not here") as error:
        run_fvd(chain, tmp_path, protocol=("tats",), features="i3d")
    assert "\n" not in str(error.value)


def test_protocols_are_checked_on_the_command_line():
    with pytest.raises(InputError, match="did you mean stylegan-v"):
        parse(["--protocol", "paper,styleganv"], FVDConfig)
    with pytest.raises(InputError, match="different names"):
        parse(["--protocol", "tats,tats"], FVDConfig)
    assert parse(["--protocol", "all"], FVDConfig).protocols == tuple(PROTOCOLS)
    assert parse([], FVDConfig).protocols == ("paper",)


def test_every_setting_of_every_protocol_is_followed_but_those_of_an_absent_network():
    unknown = {
        (protocol.name, name)
        for protocol in PROTOCOLS.values()
        for name, values in {**FOLLOWED, **FOLLOWED_BY_I3D}.items()
        if getattr(protocol, name) not in values
    }
    assert {name for name, _ in unknown} == {"cd-fvd-videomae"}
    # Each text setting is either checked there, or says something of the source and not of what to do.
    texts = {field.name for field in dataclasses.fields(PAPER) if isinstance(getattr(PAPER, field.name), str)}
    assert texts - {*FOLLOWED, *FOLLOWED_BY_I3D} == {"name", "source", "remark", "key_layout"}


def test_counts_frames_and_size_are_the_protocols_where_clips_allow():
    plan = plan_clips(PROTOCOLS["tats"], ClipSpec(num_frames=17, size=128), 2048)
    assert (plan.generated, plan.real, plan.frames, plan.size, plan.unmet) == (2048, 2048, 16, 128, ())
    plan = plan_clips(PROTOCOLS["videogpt"], ClipSpec(num_frames=17, size=128), 2048)
    assert (plan.generated, plan.repeats, plan.unmet) == (256, 4, ())
    assert plan_clips(PAPER, CLIP, 4096).generated == 2048 and plan_clips(PROTOCOLS["cd-fvd"], CLIP, 2048).real is None
    small = plan_clips(PAPER, ClipSpec(num_frames=13, size=(48, 64)), 100)
    assert (small.generated, small.real, small.frames, small.size) == (100, 100, 13, 48)
    assert len(small.unmet) == 4 and "13 frames (paper: 17)" in small.unmet
    with pytest.raises(InputError, match="too few for 4 sets"):
        plan_clips(PROTOCOLS["videogpt"], CLIP, 7)
    with pytest.raises(InputError, match="5 frames"):
        plan_clips(PAPER, ClipSpec(num_frames=5), 100)


@pytest.mark.parametrize("root", [frechet_by_sqrtm, frechet_by_tfgan])
def test_published_roots_agree_with_the_exact_one_as_far_as_they_count(features, root):
    tolerance = 1e-9 if root is frechet_by_sqrtm else 1e-4
    for ddof in (0, 1):
        assert root(*features, ddof) == pytest.approx(frechet_distance(*features, ddof=ddof), rel=tolerance)
    assert root(*features, 0) != root(*features, 1)


def test_the_float32_root_is_off_where_clips_are_fewer_than_features():
    a, b = np.random.default_rng(1).normal(size=(2, 20, 50))
    exact = frechet_distance(a, b)
    assert 1e-9 < abs(frechet_by_tfgan(a, b) / exact - 1) < 1e-2


def test_the_mean_of_pairs_has_the_interval_of_independent_pairs(features):
    a, b = (x[:200] for x in features)
    videogpt = dataclasses.replace(PROTOCOLS["videogpt"], root=words.NUCLEAR)
    found = mean_distance(videogpt, a, b, labels=None, labels_b=None)
    pairs = [frechet_distance(a[s : s + 50], b[s : s + 50]) for s in (0, 50, 100, 150)]
    assert found.value == pytest.approx(np.mean(pairs)) and found.n == 200
    one = mean_distance(dataclasses.replace(videogpt, repeats=1), a, b, labels=None, labels_b=None)
    assert found.value > one.value  # the bias of small sets, which the protocol has
    assert found.low < found.value < found.high


def test_eps_and_weights_of_the_protocol_reach_the_network(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = I3D()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_var.uniform_(0.001, 0.01)
    asked = []

    def find(name, path=None):
        asked.append(name)
        file = tmp_path / f"{name}.pt"
        torch.save(network.state_dict(), file)
        return file

    monkeypatch.setattr("eval.features.i3d_files.find_weights", find)
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        paper, tats = (load_network(PROTOCOLS[name], False, "cpu").features(video) for name in ("paper", "tats"))
    assert asked == ["i3d_torchscript", "i3d_pretrained_400"]
    assert paper.shape == tats.shape == (1, 400) and not torch.allclose(paper, tats, rtol=0.01)


def test_settings_are_written_as_json(chain, judge, tmp_path):
    fvd(FVDConfig(runs_dir=str(chain.runs), out=str(tmp_path / "p.json"), protocol=("tats",), **COMMON))
    record = json.loads((tmp_path / "p.json").read_text())
    assert (
        record["protocols"]["tats"]["bn_eps"] == 1e-5 and record["protocols"]["tats"]["generated_bytes"] == "truncating"
    )


class Eye:
    """Stands for I3D: mean colour at the start, middle and end, and what it was shown."""

    name, version_hash, seen = "i3d", "eye", set()

    def to(self, device):
        return self

    def features(self, video):
        Eye.seen.add(tuple(video.shape[1:]))
        return torch.cat([video[:, :, at].mean((2, 3)) for at in (0, video.shape[2] // 2, -1)], dim=1)


def test_with_weights_numbers_have_their_published_names(chain, judge, guesser, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.protocols.follow.load_network", lambda protocol, shapes, device: Eye())
    monkeypatch.setattr("eval.protocols.follow.load_classifier", lambda facts, device: (guesser, ""))
    monkeypatch.setattr("eval.protocols.follow.IS_DATA_SETS", ("moving_shapes",))
    facts, rows = run_fvd(chain, tmp_path, protocol=("paper", "stylegan-v", "tats"), features="i3d", samples=20)
    said = {(row.metric, row.subject.removeprefix("generated, ")): row for row in rows}
    assert set(said) == {
        ("FVD", "paper"),
        ("FVD at infinity", "paper"),
        ("KVD", "paper"),
        ("IS", "paper"),
        ("IS (10 splits)", "paper"),
        ("FVD", "stylegan-v"),
        ("IS", "stylegan-v"),
        ("FVD", "tats"),
        ("KVD", "tats"),
    }
    assert said["IS", "paper"].features == "c3d@guesses" and 1 <= said["IS", "paper"].value <= 2
    assert said["IS (10 splits)", "paper"].note == "not measured: 20 clips are too few for 10 splits"
    assert said["IS", "stylegan-v"].note.startswith("not measured: StyleGAN-V's port of C3D")
    assert Eye.seen == {(3, 17, 32, 32), (3, 16, 32, 32)}
    # What is kept is enough to have every number again, by the settings of its protocol.
    assert all(row.sources for row in rows if row.value is not None)
    assert (
        said["FVD", "tats"].protocol == f"tats@{protocol_hash(PROTOCOLS['tats'])}" and not said["FVD", "paper"].protocol
    )
    states = {check.what: check.state for check in checks_of(tmp_path / "fvd.json", weights=False)}
    assert {states[f"{row.metric}, {row.subject}"] for row in rows if row.value is not None} == {VERIFIED}
    assert not any("no FVD" in line for line in facts["protocols"]["paper"]["differences"])


def test_a_protocol_of_an_unknown_setting_is_refused_before_anything(chain, judge, tmp_path, monkeypatch):
    odd = dataclasses.replace(PROTOCOLS["tats"], real_storage="GIF files")
    monkeypatch.setitem(PROTOCOLS, "tats", odd)
    monkeypatch.setattr("generator.sample.sample", lambda config: pytest.fail("sampled all the same"))
    with pytest.raises(InputError, match="protocol tats: GIF files .*not built here"):
        run_fvd(chain, tmp_path, protocol=("tats",))
