"""Studies: files that are wrong are refused in one line; means over seeds, gates and differences are what they say."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from plans import STUDY_HEAD

from eval.ablation import AblationConfig, ablation, chosen
from eval.convergence import ConvergenceConfig, Lead, lead
from eval.latents import LatentsConfig
from eval.probe import ProbeConfig, out_of
from eval.results.published import TABLES
from eval.results.rows import Row
from eval.results.tables import Measured
from eval.study.file import read_study, words_of
from eval.study.hypotheses import AGAINST, FOR, OPEN
from eval.study.outcome import (
    Outcome,
    asked_for,
    cells_of,
    gate_words,
    learning_table,
    measured_table,
    over_seeds,
    published_tables,
    rows_of,
    verdicts_of,
)
from eval.study.page import distances_sections
from eval.study.plan import lines_of, plan_of
from generator.latte import forward_flops
from generator.presets import PRESETS
from runtime.command import parse
from runtime.errors import InputError
from videos import write_video

STUDIES = Path(__file__).parents[2] / "studies"
GOOD = f"""{STUDY_HEAD}[[arm]]
name = "A"
video = {{ max-drop-ratio = 0.0 }}
[[arm]]
name = "D"
start = "A"
decoder = {{}}
"""


CLAIM = '{name = "H", claim = "c", nearer = ["D", "A"]}'


OTHER_DATA = """
[[arm]]
name = "U"
data = "moving_shapes_unpredictable"
video = {}
"""


def study_of(tmp_path, text: str = GOOD):
    (tmp_path / "plan.toml").write_text(text)
    return read_study(tmp_path / "plan.toml")


@pytest.mark.parametrize("name", ["smoke", "small", "paper"])
def test_every_study_of_the_repository_has_valid_commands(name):
    study = read_study(STUDIES / f"{name}.toml")
    plan = plan_of(AblationConfig(plan=str(STUDIES / f"{name}.toml")), study)
    assert len(plan.arms) == len(study.arms) * len(study.seeds)
    pictures = {study.data_of(arm) for arm in study.arms}
    images = [stage for stage in plan.stages.values() if stage.kind == "images"]
    assert len(images) == len(pictures) * len(study.seeds)  # once for each seed and data set


def test_the_papers_plan_states_the_cost_of_its_generator_as_it_is():
    (stated,) = re.findall(r"of Latte-XL (\d+) on 64 clips", (STUDIES / "paper.toml").read_text())
    assert round(3 * 64 * forward_flops(PRESETS["latte-xl"].model) / 1e12) == int(
        stated
    )  # forward, and twice that back


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("data =", "date ="), "data is missing"),
        (("seeds = [0, 1]", "seeds = []"), "one or more different seeds"),
        (("seeds = [0, 1]", "seeds = [1, 1]"), "one or more different seeds"),
        (("seeds = [0, 1]", 'seeds = "0"'), "expected a list"),
        (("[tokenizer.images]", "[tokenizer.pictures]"), "[tokenizer.pictures] is not known"),
        (("[generator.train]", "[generator.sample]"), "[generator.sample] is not known"),
        (("[eval.fvd]\nsamples = 4", ""), "[eval.fvd] is missing"),
        (('name = "D"', 'name = "A"'), "another one is called so"),
        (('start = "A"', 'start = "B"'), "starts from 'B', which is no arm before it"),
        (("decoder = {}", ""), "no video, decoder or generator, so that it is 'A' itself"),
        (("decoder = {}", "decoder = 3"), "decoder is 3"),
        (("decoder = {}", 'decoder = {}\ncolour = "red"'), "unknown fields: colour"),
        (("decoder = {}", 'decoder = {}\nline = { components = "base" }'), "lines of components: baseline"),
        (("decoder = {}", 'decoder = {}\nline = { table4 = "x" }'), "tables: generation"),
        (("decoder = {}", 'decoder = {}\nagainst = "Z"'), "no arm 'Z' to compare with"),
        (("decoder = {}", 'decoder = {}\ndata = "moving_shapes_textured"'), "which has other data"),
        (('name = "A"', 'name = "../A"'), "cannot be a folder name"),
        (("seeds", "colour = 1\nseeds"), "colour is not known"),
        (("seeds", "seeds ="), "not readable as TOML"),
        (('data = "moving_shapes"', 'data = "moving_shape"'), "data 'moving_shape' is not known"),
        (('data = "moving_shapes"', 'data = "ucf101"'), "needs root"),
        (("[eval.fvd]", "[seconds]\nencoding = 1.0\n[eval.fvd]"), "seconds: encoding is not known"),
        (("[eval.fvd]", "[seconds]\nencode = nan\n[eval.fvd]"), "encode is nan"),
        (("[eval.fvd]", "[gate]\naccuracy-shape = nan\n[eval.fvd]"), "accuracy-shape is nan"),
        (
            ("seeds", 'hypothesis = [{name = "H", claim = "c", nearer = ["D", "Z"]}]\nseeds'),
            "hypothesis H: there is no arm 'Z'",
        ),
        (
            ("seeds", 'hypothesis = [{name = "H", claim = "c", faster = ["D", "A"]}]\nseeds'),
            "hypothesis H: eval.convergence is not asked for of 'D'",
        ),
        (
            (GOOD, f"hypothesis = [{CLAIM}]\n{GOOD}{OTHER_DATA}".replace('["D"', '["U"')),
            "hypothesis H: U, A have different data",
        ),
        (
            (GOOD, f'{GOOD}{OTHER_DATA}against = "A"'),
            "arm U: it is compared with 'A', which has other data",
        ),
        (
            ("seeds", f"hypothesis = [{', '.join([CLAIM] * 2)}]\nseeds"),
            "two hypotheses have the same name",
        ),
        (("seeds", 'first = "D"\nseeds'), "arm A: it is compared with 'D', which has to come before it"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line(change, words, tmp_path):
    with pytest.raises(InputError) as caught:
        study_of(tmp_path, GOOD.replace(*change))
    assert words in str(caught.value) and "\n" not in str(caught.value) and "plan.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("samples = 4", "smaples = 4"), "arm A, stage fvd: unknown flag --smaples; did you mean --samples?"),
        (("max-drop-ratio = 0.0", "max-drop-ratio = 2"), "arm A, stage video: --max-drop-ratio 2.0 is too large"),
        (("steps = 2", 'steps = "many"'), "arm A, stage images: --steps 'many': expected a whole number"),
        (("samples = 4", "samples = 4\ndry-run = true"), "arm A, stage fvd: --dry-run is no flag of a study's file"),
        (("[eval.fvd]", "[eval.convergence]\nsamples = inf\n[eval.fvd]"), "stage convergence: --samples 'inf'"),
        (("[eval.fvd]", "[eval.convergence]\nfeatures = 3\n[eval.fvd]"), "stage convergence: --features '3'"),
        (("[eval.fvd]", "[eval.probe]\ntask = 3\n[eval.fvd]"), "stage probe: --task '3' is not one of flow"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_started(change, words, tmp_path):
    study = study_of(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(InputError) as caught:
        plan_of(AblationConfig(plan="plan.toml"), study)
    assert words in str(caught.value)


def test_flags_of_a_file_are_words_of_a_command_line():
    flags = {"steps": 3, "flip": True, "controls": False, "betas": [0.9, 0.99], "frame_stride": 2}
    words = ["--steps", "3", "--flip", "--no-controls", "--betas", "0.9,0.99", "--frame-stride", "2"]
    assert words_of(flags) == words


def test_an_arm_of_another_decoder_shares_latents_and_generator(tmp_path):
    study = study_of(tmp_path)
    lines = {(line.arm.name, line.seed): line for line in lines_of(AblationConfig(plan="p", name="x"), study)}
    a, d = lines["A", 1], lines["D", 1]
    assert a.generator == d.generator and a.tokenizer != d.tokenizer
    assert d.stages["generator-A-s1"] == a.stages["generator-A-s1"] and "generator-D-s1" not in d.stages
    assert "--tokenizer" in d.stages["fvd-D-s1"].argv and "--tokenizer" not in a.stages["fvd-A-s1"].argv
    assert set(d.stages["fvd-D-s1"].needs) == {"generator-A-s1", "decoder-D-s1"}


def test_an_arm_of_another_generator_shares_tokenizer_and_latents(tmp_path):
    measured = (
        "[eval.reconstruction]\nsamples = 4\n[eval.latents]\nsamples = 4\n[eval.probe]\ntask = 'flow'\n[eval.fvd]"
    )
    more = (
        '[[arm]]\nname = "L"\nstart = "D"\ngenerator = { steps = 5 }\n[[arm]]\nname = "M"\nstart = "L"\ndecoder = {}\n'
    )
    study = study_of(tmp_path, GOOD.replace("[eval.fvd]", measured) + more)
    config = AblationConfig(plan="p", name="x")
    plan_of(config, study)
    a, d, longer, m = (line for line in lines_of(config, study) if line.seed == 1)
    assert longer.tokenizer == d.tokenizer and longer.generator != a.generator == d.generator
    assert "encode-L-s1" not in longer.stages and longer.stages["encode-A-s1"] == a.stages["encode-A-s1"]
    assert longer.stages["generator-L-s1"].work == 5 != a.stages["generator-A-s1"].work
    assert "--steps 5" in longer.stages["generator-L-s1"].command
    # Its generator learned A's latents, and D's decoder shows them.
    assert str(d.tokenizer) in longer.stages["fvd-L-s1"].argv
    # What is of the tokenizer is measured once; probes ask a generator.
    assert longer.stages["reconstruction-D-s1"] == d.stages["reconstruction-D-s1"]
    assert {"latents-A-s1", "probe-A-s1"} <= a.stages.keys() and "probe-L-s1" in longer.stages
    assert not {"latents-L-s1", "reconstruction-L-s1"} & longer.stages.keys()
    assert {name for name in longer.stages if name.startswith("difference")} == {
        "difference-fvd-L-s1", "difference-reconstruction-L-s1", "difference-probe-flow-L-s1"
    }  # fmt: skip
    # Another decoder after it has its generator.
    assert m.generator == longer.generator and m.tokenizer not in {d.tokenizer, a.tokenizer}
    assert "reconstruction-M-s1" in m.stages and not {"generator-M-s1", "probe-M-s1"} & m.stages.keys()


def test_two_generators_of_one_tokenizer_differ_in_nothing_that_it_reconstructs(tmp_path):
    measured = "[eval.reconstruction]\nsamples = 4\n[eval.fvd]"
    more = '[[arm]]\nname = "L"\nstart = "A"\ngenerator = {}\n'
    study = study_of(tmp_path, GOOD.replace("[eval.fvd]", measured) + more)
    longer = next(line for line in lines_of(AblationConfig(plan="p", name="x"), study) if line.arm.name == "L")
    assert "--tokenizer" not in longer.stages["fvd-L-s0"].argv
    assert "difference-fvd-L-s0" in longer.stages and "difference-reconstruction-L-s0" not in longer.stages


def test_chosen_arms_come_with_those_that_they_need(tmp_path):
    more = '[[arm]]\nname = "B"\nvideo = {}\n[[arm]]\nname = "U"\ndata = "moving_shapes_unpredictable"\nvideo = {}\n'
    study = study_of(tmp_path, GOOD + more)
    few = chosen(AblationConfig(plan="p", arms=("D",), seeds=(1,)), study)
    assert [arm.name for arm in few.arms] == ["A", "D"] and few.seeds == (1,)
    assert [arm.name for arm in chosen(AblationConfig(plan="p", arms=("U",)), study).arms] == ["U"]
    for flags, words in (({"arms": ("Z",)}, "--arms Z is not in p"), ({"seeds": (7,)}, "--seeds 7 is not in p")):
        with pytest.raises(InputError, match=words):
            chosen(AblationConfig(plan="p", **flags), study)


def row(value: float, metric: str = "FD-shapes", subject: str = "generated") -> Row:
    return Row(metric=metric, subject=subject, value=value, low=value - 1, high=value + 1, n=10)


def test_a_mean_over_seeds_has_students_interval_and_one_seed_its_own():
    cell = over_seeds([row(1.0), row(2.0), row(3.0)])
    half = 4.302652729911275 / math.sqrt(3)  # Student's t at 2 degrees of freedom, standard deviation 1
    assert (cell.value, cell.n) == (2.0, 30)
    assert (cell.low, cell.high) == pytest.approx((2 - half, 2 + half))
    alone = over_seeds([row(5.0)])
    assert (alone.value, alone.low, alone.high, alone.n) == (5.0, 4.0, 6.0, 10)


def test_arms_that_show_blur_do_not_count_and_what_was_not_run_is_empty(tmp_path):
    study = study_of(tmp_path, GOOD.replace("[[arm]]", '[gate]\n"change explained" = 0.8\n[[arm]]', 1))
    explained = ("change explained", "reconstructed")
    rows = {"A": {0: {explained: row(0.7, *explained)}, 1: {explained: row(0.85, *explained)}}, "D": {0: {}, 1: {}}}
    failed = {name: words for name, seen in rows.items() if (words := gate_words(study, seen))}
    assert [*failed] == ["A"] and "0.775, below 0.8" in failed["A"]
    table = measured_table(study, rows, failed)
    assert [line.name for line in table.lines] == ["A", "D"] and table.lines[1].cells == {}
    assert any("does not count" in note for note in table.lines[0].notes) and table.lines[1].notes == ()


def test_an_arm_whose_gate_was_not_measured_does_not_count(tmp_path):
    study = study_of(tmp_path, GOOD.replace("[[arm]]", "[gate]\naccuracy-shape = 0.8\n[[arm]]", 1))
    shape = ("accuracy-shape", "reconstructed")
    assert gate_words(study, {0: {("FD-shapes", "generated"): row(3.0)}, 1: {}}).endswith("was not measured yet")
    assert "nan, below" in gate_words(study, {0: {shape: row(math.nan, *shape)}})
    decibels = ("PSNR", "reconstructed")
    assert gate_words(study, {0: {decibels: row(30.0, *decibels)}}) == ""  # a distance is still to come
    assert gate_words(study, {0: {}, 1: {}}) == "" == gate_words(study, {0: {shape: row(0.9, *shape)}})


def test_a_comparison_says_which_side_does_not_count_and_how_many_seeds_it_is_of(tmp_path):
    study = study_of(tmp_path)
    points = [{"step": 10 * i, "value": 100 / i, "low": 90 / i, "high": 110 / i} for i in (1, 2, 3)]
    curves = {"A": {0: {"curve": points}, 1: {"curve": points}}, "D": {0: {"curve": points}}}
    (line,) = learning_table(study, curves, {"A": "blur"}).lines
    assert {"does not count: A, blur", "1 of 2 seeds", "one seed: the interval covers clips alone"} <= {*line.notes}


def test_a_distance_of_other_features_never_stands_in_a_published_column(tmp_path):
    study = study_of(tmp_path, GOOD.replace("decoder = {}", 'decoder = {}\nline = { dropping = "100 %" }'))

    def made(data: str):
        found = Measured("", "", {"kind": "fvd", "data": data}, [row(3.0), row(4.0, "FVD")])
        measured = {"A": {}, "D": {0: [found]}}
        return published_tables(study, "dropping", measured, {"A": {}, "D": {0: rows_of([found])}}, {})

    published, here = made("moving_shapes")
    assert published.lines[-1].name == "100 %: D" and published.lines[-1].cells == {}  # not of UCF101
    assert here.lines[0].cells["FD-shapes"].value == 3.0
    (alone,) = made("ucf101")
    assert alone.lines[-1].cells["UCF101 FVD"].value == 4.0 and "FD-shapes" not in json.dumps([*alone.lines[-1].cells])


def test_probes_of_the_papers_data_stand_in_table_3_as_means_over_seeds(tmp_path):
    line = 'line = { probes = "with predictive reconstruction" }'
    study = study_of(tmp_path, GOOD.replace('name = "A"', f'name = "A"\n{line}'))
    subject, values = "generator, 10 % noise", {0: (5.0, 70.0), 1: (6.0, 72.0)}
    files = (("sintel", "EPE"), ("tapvid_davis", "tracking AUC"), ("moving_shapes", "next-frame MSE"))
    measured = {"A": {}}
    for seed, numbers in values.items():
        found = [
            (data, row(number, metric, subject)) for (data, metric), number in zip(files, (*numbers, 1.0), strict=True)
        ]
        measured["A"][seed] = [Measured("", "", {"kind": "probe", "data": data}, [one]) for data, one in found]
    (table,) = published_tables(study, "probes", measured, {"A": {0: {}, 1: {}}}, {})
    assert [one.name for one in table.lines[:2]] == [
        "without predictive reconstruction",
        "with predictive reconstruction",
    ]
    ours = table.lines[2].cells
    assert table.lines[2].name == "with predictive reconstruction: A" and {*ours} == {"flow EPE", "tracking AUC %"}
    assert (ours["flow EPE"].value, ours["tracking AUC %"].value) == (5.5, 71.0)
    assert ours["flow EPE"].high - 5.5 == pytest.approx(12.706204736432095 * 0.5)  # Student's t at 1 degree of freedom


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[eval.probe]\narms = ["Z"]', "eval.probe: there is no arm 'Z'"),
        ('[eval.latents]\narms = "A"', "eval.latents: arms is 'A', expected a list"),
    ],
)
def test_arms_of_one_measurement_are_checked(text, words, tmp_path):
    with pytest.raises(InputError, match=re.escape(words)):
        study_of(tmp_path, GOOD.replace("[eval.fvd]", f"{text}\n[eval.fvd]"))


@pytest.mark.parametrize("task", ['"flow, tracking"', '"(flow,tracking)"', '["flow", "tracking"]'])
def test_results_of_probes_are_where_the_command_writes_them_however_tasks_are_written(task, tmp_path):
    study = study_of(tmp_path, GOOD.replace("[eval.fvd]", f"[eval.probe]\ntask = {task}\n[eval.fvd]"))
    stage = plan_of(AblationConfig(plan="plan.toml"), study).stages["probe-A-s0"]
    config = parse(stage.argv[1:], ProbeConfig)
    assert [*stage.results] == [out_of(config.out, name, config.task) for name in config.task]


def curve(*values: float) -> dict:
    """What eval.convergence found at steps 10, 20, …"""
    return {"curve": [{"step": 10 * i, "value": v, "low": v, "high": v} for i, v in enumerate(values, 1)]}


def test_curves_are_the_studys_own_and_not_the_newest_of_a_run(tmp_path):
    study = study_of(tmp_path, GOOD.replace("[eval.fvd]", "[eval.convergence]\nsamples = 4\n[eval.fvd]"))
    plan = plan_of(AblationConfig(plan="plan.toml", name="x"), study)
    stages = [stage for stage in plan.stages.values() if stage.kind == "convergence"]
    assert {stage.results[0] for stage in stages} == {
        Path(f"runs/x/results/convergence-{arm}-s{seed}.json") for arm in "AD" for seed in (0, 1)
    }
    assert all(parse(stage.argv[1:], ConvergenceConfig).out == str(stage.results[0]) for stage in stages)


def test_a_generator_that_is_slower_in_every_seed_counts_against_the_claim(tmp_path):
    claim = '[[hypothesis]]\nname = "H"\nclaim = "c"\nfaster = ["D", "A"]\n[eval.convergence]\nsamples = 4\n'
    study = study_of(tmp_path, f"{GOOD}\n{claim}")
    slow, slower = curve(80, 40, 20), curve(88, 44, 22.1)
    fast, faster = curve(40, 20, 10), curve(44, 22, 11)
    behind = verdicts_of(study, {}, {"A": {0: fast, 1: faster}, "D": {0: slow, 1: slower}}, {})["H"][1]
    assert behind.word == AGAINST and behind.number.startswith("-")
    ours, theirs = lead(slow["curve"], fast["curve"]), lead(fast["curve"], slow["curve"])
    assert ours.percent == pytest.approx(-100 / 3) == -theirs.percent
    assert ours.end == pytest.approx(math.log(2)) == -theirs.end
    assert verdicts_of(study, {}, {"A": {0: slow, 1: slower}, "D": {0: fast, 1: faster}}, {})["H"][1].word == FOR


def test_of_two_curves_one_leads_and_the_other_lags_by_as_much():
    """Also where both, by chance, were once as low as the other ends."""
    a, b = curve(198, 168, 150, 154, 143, 142)["curve"], curve(198, 168, 141, 150, 146, 145)["curve"]
    assert lead(a, b).percent == -lead(b, a).percent > 0 > lead(a, b).end == -lead(b, a).end
    assert lead(a, a) == Lead(0.0, 0.0)
    assert lead(a, curve(10, 9, 0)["curve"]) == Lead(None, None) == lead(curve(10, 9, 0)["curve"], a)


@pytest.mark.parametrize(
    "more",
    [
        *({"data": "sky"}, {"seed": 1}, {"split": "train"}, {"samples": 2000}, {"samples": 3}),
        *({"size": 64}, {"num_frames": 9}),
    ],
)
def test_latents_that_were_measured_in_another_way_are_not_the_studys(more):
    facts = {"data": "moving_shapes", "split": "test", "seed": 0, "samples": 1000, "created": "2026-01-01"}
    trained = {"data": "moving_shapes", "size": 32, "num_frames": 17, "frame_stride": [1, 3]}
    facts |= {"size": 32, "num_frames": 17}
    words = ["--tokenizer", "x", "--data", "moving_shapes", "--samples", "1000", "--seed", "0"]
    asked = parse(words, LatentsConfig)
    found = [(Path("a"), facts, []), (Path("b"), facts | more | {"created": "2026-01-02"}, [])]
    assert [path.name for path, _, _ in asked_for(found, asked, trained)] == ["a"]
    found.append((Path("c"), facts | {"created": "2026-01-03"}, []))
    assert [path.name for path, _, _ in asked_for(found, asked, trained)] == ["c"]
    assert asked_for([], asked, trained) == []


def test_a_difference_to_an_arm_that_does_not_count_is_in_brackets(tmp_path):
    study = study_of(tmp_path)
    key = ("FD-shapes at infinity", "generated")
    rows = {name: {0: {key: row(value, *key)}} for name, value in (("A", 9.0), ("D", 7.0))}
    apart = {"D": {0: {key: row(-2.0, *key)}}}
    for failed, levels, differences in (({"A": "blur"}, ["(A)", "D"], ["(D)"]), ({}, ["A", "D"], ["D"])):
        (text,) = distances_sections(study, Outcome([], {}, rows, apart, failed, {}))
        names = re.findall(r'text-anchor="end">(.*?)</text>', text)
        assert names == [*levels, *differences] and ("does not count" in text) is bool(failed)


def test_a_wrong_flag_of_an_arm_that_was_not_asked_for_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "plan.toml").write_text(GOOD.replace("decoder = {}", "decoder = { steps = -1 }"))
    monkeypatch.setattr("eval.arms.engine.work_through", lambda *_: pytest.fail("it began"))
    with pytest.raises(InputError, match="arm D, stage decoder: --steps"):
        ablation(AblationConfig(plan=str(tmp_path / "plan.toml"), arms=("A",), runs_dir=str(tmp_path / "runs")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[eval.fvd]", '[eval.fvd]\nfeatures = "i3d"'), "arm A, stage fvd: "),
        (("[tokenizer.images]", "[tokenizer.images]\nlpips-weight = 1.0"), "stage images: .*vgg16.* is not here"),
        (
            ("[eval.fvd]", '[eval.probe]\ntask = "flow"\ndata = "sintel"\nroot = "absent"\n[eval.fvd]'),
            "arm A, stage probe: ",
        ),
        (('data = "moving_shapes"', 'data = "ucf101"\nroot = "absent"'), "arm A, stage images: "),
    ],
)
def test_what_is_not_here_is_missed_before_any_work(change, words, tmp_path, monkeypatch):
    """And not by the command that needs it, after days of others."""
    (tmp_path / "plan.toml").write_text(GOOD.replace(*change, 1))
    monkeypatch.setattr("eval.arms.engine.work_through", lambda *_: pytest.fail("it began"))
    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    with pytest.raises(InputError, match=words):
        ablation(AblationConfig(plan=str(tmp_path / "plan.toml"), runs_dir=str(tmp_path / "runs"), device="cpu"))


def test_data_that_a_studys_commands_can_read_are_not_missed(tmp_path, monkeypatch):
    """Shorter clips than those of the paper, and the study's data named again without their folder."""
    for part in ("train", "test"):
        (tmp_path / "clips" / part).mkdir(parents=True)
        for number in range(2):
            write_video(tmp_path / "clips" / part / f"{number}.mp4", np.zeros((12, 32, 32, 3), np.uint8), 8)
    text = GOOD.replace('data = "moving_shapes"', f'data = "videos"\nroot = "{tmp_path / "clips"}"')
    text = text.replace('preset = "demo"', 'preset = "demo"\nnum-frames = 9\nframe-stride = 1', 1)
    more = '[eval.reconstruction]\ndata = "videos"\nnum-frames = 9\n[tokenizer.encode]\nnum-frames = 9\n[eval.fvd]'
    (tmp_path / "plan.toml").write_text(text.replace("[eval.fvd]", f'{more}\nfeatures = "shapes"'))
    began = []
    monkeypatch.setattr("eval.arms.engine.work_through", lambda *given: began.append(given) or {})
    ablation(AblationConfig(plan=str(tmp_path / "plan.toml"), runs_dir=str(tmp_path / "runs"), device="cpu"))
    assert began


def test_the_papers_plan_names_its_data():
    (stated,) = re.findall(r"not published: (\w+) stands for them", (STUDIES / "paper.toml").read_text())
    assert stated.lower() == read_study(STUDIES / "paper.toml").data


def test_the_papers_plan_measures_every_column_of_table_4():
    """By data and size: rFVD and the rest are of another data set than the generators'."""
    study = read_study(STUDIES / "paper.toml")
    asked = study.flags["eval.reconstruction"]
    measured = {(study.data, 0), (asked["data"], int(asked["size"]))}
    assert {(column.data, column.size) for column in TABLES["components"].columns} == measured


def test_faster_is_a_mean_over_seeds_and_none_where_a_seed_never_gets_there(tmp_path):
    study = study_of(tmp_path)
    slow, fast = curve(80, 40, 20), curve(40, 20, 10)  # there at step 20 of 30
    table = learning_table(study, {"A": {0: slow, 1: slow}, "D": {0: fast, 1: fast}}, {})
    (line,) = table.lines
    assert line.name == "D" and line.cells[table.columns[0].title].value == pytest.approx(100 / 3)
    assert line.notes[0] == "against A" and "never below 0, also of arms that do not differ" in line.notes[1]
    (line,) = learning_table(study, {"A": {0: slow, 1: slow}, "D": {0: fast, 1: curve(10, 9, 8)}}, {}).lines
    assert "at least: in 1 of 2 seeds it is there before the first checkpoint" in line.notes
    table = learning_table(study, {"A": {0: fast, 1: fast}, "D": {0: slow, 1: fast}}, {})
    assert "in 1 of 2 seeds it never gets there" in table.lines[0].notes


def test_a_number_that_a_seed_lacks_is_the_mean_of_the_others():
    from eval.results.tables import Column

    rows = {0: {("IS", "generated"): row(2.0, "IS")}, 1: {}}
    assert cells_of([Column("IS", "IS"), Column("FVD", "FVD")], rows)["IS"].value == 2.0


def test_hypotheses_are_judged_by_the_distance_at_infinity_of_arms_that_count(tmp_path):
    claim = '[[hypothesis]]\nname = "H"\nclaim = "c"\nnearer = ["D", "A"]\n'
    study = study_of(tmp_path, f"{GOOD}\n{claim}")

    def seeds(*values: float) -> dict:
        plain, infinite = ("FD-shapes", "generated"), ("FD-shapes at infinity", "generated")
        return {seed: {plain: row(9.0), infinite: row(value, *infinite)} for seed, value in enumerate(values)}

    rows = {"A": seeds(10.0, 11.0), "D": seeds(5.0, 6.01)}
    assert verdicts_of(study, rows, {"A": {}, "D": {}}, {})["H"][1].word == FOR
    assert verdicts_of(study, rows, {"A": {}, "D": {}}, {"A": "blur"})["H"][1].word == OPEN
