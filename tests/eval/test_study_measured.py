"""What a study measures beside distances, its probes, latents and curves, is found again in its tables."""

import shutil

import pytest
from plans import STUDY_HEAD

from eval.ablation import AblationConfig
from eval.convergence import ConvergenceConfig, convergence
from eval.difference import DifferenceConfig, difference
from eval.latents import LatentsConfig, latents
from eval.probe import ProbeConfig, probe
from eval.results.rows import read_results
from eval.study.file import read_study
from eval.study.outcome import outcome_of
from eval.study.page import write_page
from eval.study.plan import lines_of, plan_of
from runtime.command import parse

STUDY = f"""{STUDY_HEAD}[eval.probe]
arms = ["A", "B"]
task = ["flow", "tracking"]
noise = [10.0]
seeds = [0]
samples = 3
train-clips = 4
head-steps = 2
head-width = 8
batch-size = 4
[eval.latents]
samples = 4
clips = 0
[eval.convergence]
arms = ["D"]
samples = 4
steps = 1
[[arm]]
name = "A"
video = {{ max-drop-ratio = 0.0 }}
line = {{ probes = "without predictive reconstruction" }}
[[arm]]
name = "B"
video = {{}}
line = {{ probes = "with predictive reconstruction" }}
[[arm]]
name = "D"
start = "A"
decoder = {{}}
"""
COMMANDS = {
    "eval.probe": (probe, ProbeConfig),
    "eval.latents": (latents, LatentsConfig),
    "eval.convergence": (convergence, ConvergenceConfig),
    "eval.difference": (difference, DifferenceConfig),
}


def test_what_a_study_measures_of_latents_and_generators_is_summed_up(chain, judge, tmp_path, monkeypatch):
    """Two arms by two seeds on copies of one run, whose generators have other checkpoints: every stage that the plan
    has of these commands is run as it stands there, and its numbers are found again in the tables."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(STUDY)
    study = read_study(tmp_path / "plan.toml")
    config = AblationConfig(plan="plan.toml", device="cpu", dtype="float32")
    plan, lines = plan_of(config, study), lines_of(config, study)
    for line in lines:
        for run, source in ((line.tokenizer, chain.tokenizer), (line.generator, chain.generator)):
            if not run.exists():
                shutil.copytree(source, run, ignore=shutil.ignore_patterns("samples", "eval"))
        if line.arm.name == "B":
            shutil.rmtree(line.generator / "checkpoints" / "step_00000004")
        for stage in line.stages.values():
            command, *words = stage.argv
            if command not in COMMANDS or stage.name.startswith("difference-fvd"):
                continue
            if line.seed and stage.kind == "convergence":
                continue  # one seed will do
            run, kind = COMMANDS[command]
            (tmp_path / "runs/plan/results").mkdir(parents=True, exist_ok=True)
            run(parse(words, kind))
            plan.mark_done(stage, 1.0, True)
            assert plan.done(stage), stage.command  # its results are where the plan has them
    assert {stage.kind for stage in plan.stages.values() if plan.done(stage)} == {
        "probe", "latents", "convergence", "difference"
    }  # fmt: skip
    found = outcome_of(study, plan, lines)
    tables = {table.name: table for table in found.tables}

    # Probes: means over seeds of what stands in the files, and of the paired differences of each seed.
    results = tmp_path / "runs/plan/results"

    def values(name: str, metric: str, subject: str) -> list[float]:
        files = [read_results(results / name.format(seed=seed))[1] for seed in (0, 1)]
        return [next(row.value for row in rows if (row.metric, row.subject) == (metric, subject)) for rows in files]

    here, apart = tables["probes-here"], tables["probes-differences"]
    assert [column.title for column in here.columns] == ["A", "B"]
    assert [column.title for column in apart.columns] == ["B less A"]
    for metric, task, way in (("EPE", "flow", "↓"), ("tracking AUC", "tracking", "↑")):
        for subject in ("generator, 10 % noise", "latents, 10 % noise"):
            (line,) = [line for line in here.lines if line.name == f"{metric}, {subject} {way}"]
            for arm in "AB":
                numbers, cell = values(f"probe-{arm}-s{{seed}}-{task}.json", metric, subject), line.cells[arm]
                half = 12.706204736432095 * abs(numbers[0] - numbers[1]) / 2
                assert cell.value == pytest.approx(sum(numbers) / 2) and cell.high - cell.value == pytest.approx(half)
        (line,) = [line for line in apart.lines if line.name.startswith(f"{metric}, generator, 10 % noise ")]
        a, b = (values(f"probe-{arm}-s{{seed}}-{task}.json", metric, "generator, 10 % noise") for arm in "AB")
        assert line.cells["B less A"].value == pytest.approx(sum(b) / 2 - sum(a) / 2) and a != b
    assert not [line for line in here.lines if " less " in line.name]
    (without, _) = [line for line in tables["probes"].lines if line.origin == "measured here"]
    assert without.name == "without predictive reconstruction: A" and without.cells == {}  # not the paper's data
    assert "differences" not in tables  # these have a table of their own

    # Latents: raw and standardised distances, spectra, rate; of D no other than of A, whose encoder it has.
    latent = tables["latents-here"]
    assert [column.title for column in latent.columns] == ["A", "B"]
    names = [line.name for line in latent.lines]
    assert {
        "LTD, interval 1",
        "LTD normalised, interval 1",
        "rate",
        "high frequencies, time ↓",
        "effective channels",
    } <= {*names}
    (path,) = (lines[0].tokenizer / "eval").glob("latents-*.json")
    row = next(row for row in read_results(path)[1] if row.metric == "LTD, interval 1")
    (line,) = [line for line in latent.lines if line.name == "LTD, interval 1"]
    assert line.cells["A"].value == pytest.approx(row.value) and line.cells["A"].n == 8  # the same run for both seeds

    # The curve of another decoder, by its own file.
    assert [*found.curves] == ["D"] and [*found.curves["D"]] == [0]
    assert found.curves["D"][0]["tokenizer"] == "runs/plan-D-s0-decoder"
    page = tmp_path / "study.html"
    write_page(study, plan, lines, found, page)
    assert "Probes of the features" in page.read_text() and "Latents of each arm" in page.read_text()
