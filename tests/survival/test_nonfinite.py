"""NaN in input, loss or gradient, on one process or all: the step is skipped by all, counted, and nobody waits."""

import json
import shlex
import shutil
from pathlib import Path

import chain
import h5py
import numpy as np
import pytest

from generator.batches import batch_indices
from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint

POISON = shlex.quote(str(Path(__file__).parent / "poison.py"))
RUNS = {"tokenizer": "runs/vae", "generator": "runs/gen"}
LINES = {name: chain.CHAIN[name] + " --dtype float32" for name in RUNS}


def run_both(launcher, line, folder, processes) -> list[int]:
    """The exit codes of a launch of which nobody may hang."""
    started = launcher.start(line, folder, processes=processes)
    for process in started:
        process.join(chain.PATIENCE)
    hung = [process for process in started if process.is_alive()]
    chain.kill(hung)
    assert not hung, (folder / "log.txt").read_text()[-2000:]
    return [process.exitcode for process in started]


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_skipped(run, steps: set[int]) -> None:
    """Exactly these steps were skipped and counted, and no weight has become non-finite."""
    lines = metrics(run)
    counted = [line["skipped"] for line in lines]
    assert counted == [len([step for step in steps if step <= line["step"]]) for line in lines]
    finite = [line["loss"] is not None and line["grad_norm"] is not None for line in lines]
    assert finite == [line["step"] not in steps for line in lines]
    checkpoint = load_checkpoint(find_checkpoint(run), optimizer=True)
    assert all(value.isfinite().all() for tensors in checkpoint.tensors.values() for value in tensors.values())
    states = checkpoint.optimizer["model"].values()
    moments = [value for state in states for value in state.values()]
    assert moments and all(value.isfinite().all() for value in moments)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("name", "place"),
    [("tokenizer", "input"), ("tokenizer", "loss"), ("tokenizer", "gradient"), ("generator", "loss"),
     ("generator", "gradient")],
)  # fmt: skip
def test_a_step_that_one_process_cannot_take_is_skipped_by_all(name, place, processes, begin, launcher):
    folder = begin(name)
    sees, steps = str(processes - 1), {2, 4}
    line = f"{POISON} {place} {sees} 2,4 {LINES[name]}"
    assert run_both(launcher, line, folder, processes) == [0] * processes, (folder / "log.txt").read_text()[-2000:]
    assert_skipped(folder / RUNS[name], steps)
    weights = [(folder / f"weights-{rank}.txt").read_text().split() for rank in range(processes)]
    assert len(weights[0]) == 6 and weights[0] == weights[-1]
    # A skipped step leaves the weights as they are, the others change them.
    moved = [after != before for before, after in zip(weights[0], weights[0][1:], strict=False)]
    assert moved == [step not in steps for step in range(2, 7)]


@pytest.mark.parametrize("name", RUNS)
def test_sharded_processes_skip_together_too(name, begin, launcher):
    folder = begin(name)
    line = f"{POISON} loss 1 3 {LINES[name]} --parallel fsdp"
    assert run_both(launcher, line, folder, 2) == [0, 0], (folder / "log.txt").read_text()[-2000:]
    assert_skipped(folder / RUNS[name], {3})


@pytest.mark.parametrize("processes", [1, 2])
def test_rows_of_a_foreign_latents_file_that_are_not_finite_cost_their_steps(processes, begin, launcher):
    folder = begin("generator")
    row = int(batch_indices(26, 4, 1, 0, range(4))[3])  # of the last process, in the second update
    with h5py.File(folder / "latents.h5", "r+") as file:
        file["mean"][row, 0, 0, 0, 0] = np.nan
    assert run_both(launcher, LINES["generator"], folder, processes) == [0] * processes
    assert_skipped(folder / RUNS["generator"], {2})


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", RUNS)
def test_ten_in_a_row_stop_every_process_and_name_the_last_good_checkpoint(name, processes, begin, launcher):
    folder = begin(name)
    line = LINES[name].replace("--steps 6", "--steps 60")  # 20 for each stage of the tokenizer
    steps = range(5, 15)
    asked = ",".join(map(str, steps))
    codes = run_both(launcher, f"{POISON} loss {processes - 1} {asked} {line}", folder, processes)
    said, run = (folder / "log.txt").read_text(), folder / RUNS[name]
    assert codes == [2] * processes and "Traceback" not in said, said[-2000:]
    step, last = list_checkpoints(run)[-1]
    assert step == {"tokenizer": 12, "generator": 13}[name]
    assert "not finite in 10 steps in a row, up to step 14" in said
    assert f"the last good checkpoint is {last.relative_to(folder)};" in said
    assert_skipped(run, set(steps))


def test_a_poisoned_run_goes_on_like_one_that_never_stopped(begin, launcher, tmp_path):
    """What was skipped is in the checkpoint: killed and started again, the count and the weights are the same."""
    folder = begin("generator")
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    line = f"{POISON} loss 0 2 {LINES['generator']}"
    assert launcher.run(line, folder) == 0
    assert launcher.run(line, again, fault="checkpoint.renamed:4") == -9
    assert launcher.run(LINES["generator"], again) == 0
    assert metrics(again / "runs/gen")[-1]["skipped"] == 1
    expected = {path: digest for path, digest in chain.content(folder).items() if "weights-" not in path}
    assert {path: digest for path, digest in chain.content(again).items() if "weights-" not in path} == expected
