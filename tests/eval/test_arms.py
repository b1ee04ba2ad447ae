"""Plans: stages run once and in order, locks, failures, signals, and what is told of costs and time left.

The commands are small programs of the standard library, run as real processes.
"""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from eval.arms import engine
from eval.arms.costs import cost_lines, expected, left_words, show_plan, summary
from eval.arms.engine import work_through
from eval.arms.plan import Arm, Done, Plan, Stage, last_words
from runtime.errors import InputError
from runtime.run import file_sha256
from runtime.stopping import INTERRUPTED, REQUEUE

ROOT = Path(__file__).parents[2]
# `job OUT [what]`: notes each start of it in OUT.starts, does what it is told, and writes OUT.
JOB = """
    import os, signal, sys, time

    out, what = sys.argv[1], "".join(sys.argv[2:3])
    with open(out + ".starts", "a") as starts:
        starts.write(f"{os.getpid()}\\n")
    def stop(number, frame):
        with open(out + ".signals", "a") as file:
            file.write(f"{number}\\n")
        sys.exit(130 if number == signal.SIGINT else 75)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    print("working", flush=True)
    if what == "fail":
        print("one thing\\nerror: --size 30 does not fit\\nmore", file=sys.stderr)
        sys.exit(2)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "nothing":
        sys.exit(0)
    if what == "requeue":
        sys.exit(75)
    if what.startswith("until="):
        while not os.path.exists(what[6:]):
            time.sleep(0.01)
    open(out, "w").write("made")
"""
# Works through a plan of such jobs, given as JSON, as a command does.
WORKER = """
    import json, sys
    from dataclasses import dataclass
    from pathlib import Path

    from eval.arms import engine
    from eval.arms.plan import Arm, Plan, Stage
    from runtime.command import CommonFlags, flag, run_command

    engine.POLL, engine.WAIT = 0.01, 0.05

    @dataclass(frozen=True, kw_only=True)
    class WorkConfig(CommonFlags):
        plan: str = flag(help="file")

    def work(config):
        arms = []
        for arm in json.load(open(config.plan)):
            stages = [
                Stage(name=s["name"], kind=s["kind"], argv=tuple(s["argv"]), needs=tuple(s["needs"]),
                      results=tuple(map(Path, s["results"])))
                for s in arm["stages"]
            ]
            arms.append(Arm(arm["name"], 0, tuple(stages)))
        failed = engine.work_through(Plan(Path("plan"), tuple(arms)), "worker")
        print(json.dumps(failed))
        raise SystemExit(1 if failed else 0)

    run_command(work, WorkConfig)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder that commands run in, where `python -m job` and `python -m worker` are found."""
    (tmp_path / "modules").mkdir()
    for name, text in (("job", JOB), ("worker", WORKER)):
        (tmp_path / "modules" / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), str(ROOT)]))
    monkeypatch.setattr("eval.arms.engine.POLL", 0.01)
    monkeypatch.setattr("eval.arms.engine.WAIT", 0.05)
    return tmp_path


def stage(name: str, *what: str, **about) -> Stage:
    """A stage that makes a file of its name."""
    return Stage(**{"name": name, "kind": name[0], "argv": ("job", name, *what), "results": (Path(name),)} | about)


def plan_of(*arms: list[Stage]) -> Plan:
    return Plan(Path("plan"), tuple(Arm(f"arm {number}", 0, tuple(stages)) for number, stages in enumerate(arms, 1)))


def starts(name: str) -> int:
    path = Path(f"{name}.starts")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_shared_stages_are_made_once_and_what_is_done_costs_no_start(place):
    shared = stage("a1")
    plan = plan_of([shared, stage("b1", needs=("a1",))], [shared, stage("b2", needs=("a1",))])
    assert work_through(plan, "test") == {}
    assert work_through(plan, "test") == {}
    assert [starts(name) for name in ("a1", "b1", "b2")] == [1, 1, 1]
    assert plan.done(shared).in_one_go
    record = json.loads(Path("plan/done/b1.json").read_text())
    assert record["command"] == "python -m job b1" and record["seconds"] >= 0


def test_a_result_that_is_gone_is_made_again_alone(place):
    plan = plan_of([stage("a1"), stage("b1", needs=("a1",))])
    work_through(plan, "test")
    Path("b1").unlink()
    work_through(plan, "test")
    assert [starts(name) for name in ("a1", "b1")] == [1, 2]
    assert not plan.done(plan.stages["b1"]).in_one_go  # so its seconds are not those of the work


@pytest.mark.parametrize("change", [{"argv": ("job", "a1", "other")}, {"reads": "weights of today"}])
def test_what_has_changed_is_run_again_with_all_that_reads_it(place, change):
    first, second, other = stage("a1", reads="weights"), stage("b1", needs=("a1",)), stage("c1")
    work_through(plan_of([first, second, other]), "test")
    work_through(plan_of([replace(first, **change), second, other]), "test")
    assert [starts(name) for name in ("a1", "b1", "c1")] == [2, 2, 1]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("fail", "--size 30 does not fit (exit code 2"),
        ("kill", "its process was ended by SIGKILL, as when memory ends (exit code -9"),
        ("nothing", "it ended well, but there is no a1"),
    ],
)
def test_a_failure_ends_its_arm_and_the_others_go_on(place, what, words):
    plan = plan_of([stage("a1", what), stage("b1", needs=("a1",))], [stage("a2"), stage("b2", needs=("a2", "b1"))])
    failed = work_through(plan, "test")
    assert [*failed] == ["a1"] and words in failed["a1"]
    assert Path("a2").exists() and starts("b1") == starts("b2") == 0
    lines = summary(plan, failed)
    assert lines[0].startswith("arm arm 1 ended early: a1: ") and words in lines[0]
    assert lines[1] == "arm arm 2 ended early: it needs b1"


def test_the_error_of_an_earlier_start_is_not_told_again(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: old\n")
    before = log.stat().st_size
    assert last_words(log, before) == "it said nothing"
    log.write_text("error: old\nTraceback\nValueError: new\n")
    assert last_words(log, before) == "ValueError: new"


def test_plans_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="another stage is called a1"):
        plan_of([stage("a1")], [stage("a1", "other")])
    with pytest.raises(InputError, match="b1 needs a1, which comes not before it"):
        plan_of([stage("b1", needs=("a1",)), stage("a1")])


def test_a_file_system_without_locks_is_refused(place, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InputError, match="cannot be locked: No locks available"):
        work_through(plan_of([stage("a1")]), "test")
    assert starts("a1") == 0


def test_a_launch_of_torchrun_is_refused(place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="start it once a machine, with --processes"):
        work_through(plan_of([stage("a1")]), "test")


def test_torchrun_takes_no_flag_of_a_command_for_its_own(monkeypatch):
    from torch.distributed.run import get_args_parser

    seen, words = [], ("eval.fvd", "--run", "runs/a", "--log-dir", "b")
    monkeypatch.setattr(engine.subprocess, "Popen", lambda argv, **rest: seen.append(argv))
    with open(os.devnull) as file:
        engine.start(Stage(name="a", kind="a", argv=words), file, file, 2)
    given = get_args_parser().parse_args(seen[0][seen[0].index("torch.distributed.run") + 1 :])
    assert (given.module, given.nproc_per_node) == (True, "2")
    assert (given.training_script, *given.training_script_args) == words


@pytest.mark.parametrize("given", [None, "7"])
def test_torchrun_lets_its_processes_save_for_minutes_and_as_long_as_asked(given, monkeypatch):
    seen, name = [], "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    monkeypatch.setattr(engine.subprocess, "Popen", lambda argv, **rest: seen.append(rest["env"].get(name)))
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    with open(os.devnull) as file:
        for processes in (1, 2):
            engine.start(Stage(name="a", kind="a", argv=("x",)), file, file, processes)
    assert seen == [given, given or "300"]


# -- processes ---------------------------------------------------------------------------------------------------------


def worker(*arms: list[Stage], more: tuple[str, ...] = ()) -> subprocess.Popen:
    """A process that works through a plan."""
    words = {"argv", "needs", "name", "kind"}
    text = [
        {
            "name": f"arm {number}",
            "stages": [
                {name: getattr(each, name) for name in words} | {"results": [str(r) for r in each.results]}
                for each in stages
            ],
        }
        for number, stages in enumerate(arms, 1)
    ]
    Path("plan.json").write_text(json.dumps(text))
    words = [sys.executable, "-m", "worker", "--plan", "plan.json", *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, REQUEUE), (signal.SIGUSR1, REQUEUE), (signal.SIGINT, INTERRUPTED)],
    ids=["SIGTERM", "SIGUSR1", "Ctrl-C"],
)
def test_a_signal_is_passed_on_and_the_same_command_goes_on(place, number, code):
    arm = [stage("a1", "until=go"), stage("b1", needs=("a1",))]
    process = worker(arm)
    wait_for(lambda: Path("plan/logs/a1.log").exists() and "working" in Path("plan/logs/a1.log").read_text())
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code and "Traceback" not in said and "the same command goes on" in said
    passed_on = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM  # which every launcher hands on
    assert Path("a1.signals").read_text().split() == [str(int(passed_on))]  # once
    Path("go").touch()
    assert work_through(plan_of(arm), "test") == {}
    assert [starts(name) for name in ("a1", "b1")] == [2, 1]


def test_a_stage_that_was_stopped_itself_stops_the_command(place):
    process = worker([stage("a1", "requeue"), stage("b1")])
    assert process.wait() == REQUEUE and starts("b1") == 0
    process.communicate()


def test_max_hours_ends_a_stage_too(place):
    process = worker([stage("a1", "until=never")], more=("--max-hours", "0.0005"))
    _, said = process.communicate()
    assert process.returncode == REQUEUE and "--max-hours" in said
    assert not Path("a1.signals").exists() or Path("a1.signals").read_text().split() == [str(int(signal.SIGTERM))]


def test_two_processes_take_different_stages_and_wait_for_each_other(place):
    arms = [stage("a1", "until=a2"), stage("b1", needs=("a1",))], [stage("a2"), stage("b2", needs=("a1", "a2"))]
    arms = [arms[0], [arms[0][0], *arms[1]]]
    # The first holds a1, which ends only when somebody has made a2.
    both = [worker(*arms), worker(*arms)]
    ends = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert [starts(name) for name in ("a1", "a2", "b1", "b2")] == [1, 1, 1, 1]


def test_a_command_whose_starter_was_killed_keeps_its_stage_to_itself(place):
    arm = [stage("a1", "until=go")]
    process = worker(arm)
    wait_for(lambda: starts("a1") == 1)
    process.kill()
    process.communicate()
    second = worker(arm)
    wait_for(lambda: "waiting for what other processes hold" in second.stderr.readline())
    Path("go").touch()
    second.communicate()
    # The orphan made it; what nobody had noted is looked at once more.
    assert second.returncode == 0 and starts("a1") == 2 and plan_of(arm).done(arm[0])


# -- costs -------------------------------------------------------------------------------------------------------------


def test_time_is_foretold_from_finished_stages_of_the_kind_and_from_measured_speeds():
    done = [(stage("a1", work=10.0), Done("", 20.0, 10.0, True)), (stage("a2", work=10.0), Done("", 1.0, 10.0, False))]
    assert expected(stage("a3", work=5.0), done) == 10.0  # what was taken up again does not count
    assert expected(stage("b1"), done) is None
    assert expected(stage("b1", seconds=7.0), done) == 7.0
    slower = [(stage("a1", seconds=10.0), Done("", 30.0, 1.0, True))]
    assert expected(stage("a2", seconds=5.0), slower) == 15.0  # the machine is three times slower than was said


def test_two_that_ask_who_is_at_work_do_not_take_each_other_for_one(place):
    plan = plan_of([stage("a1")])
    with plan.locked("a1"):
        assert plan.held(plan.stages["a1"])
    assert not plan.held(plan.stages["a1"])
    with open(place / "plan" / "locks" / "a1") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not plan.held(plan.stages["a1"])


def test_costs_are_told_for_each_arm_and_the_unknown_is_called_so(place):
    shared = stage("a1", seconds=3600.0, bytes=2048)
    plan = plan_of([shared, stage("b1", needs=("a1",))], [shared, stage("c1", seconds=1800.0)])
    assert cost_lines(plan) == [
        "arm 1: 1 hours and what b take, which is unknown, 2 KiB on disk; 0 of 2 stages done",
        "arm 2: 0.5 hours; 0 of 2 stages done",
        "in all: 1.5 hours and what b take, which is unknown, 2 KiB on disk",
    ]
    assert left_words(plan) == "0 of 3 stages done, at least 1:30:00 left, 1 of kinds that were not measured yet"
    with plan.locked("a1"), plan.locked("b1"), plan.locked("summary"):  # of which one is no stage
        assert "at least 0:45:00 left with 2 at work" in left_words(plan)
    work_through(plan, "test")
    assert left_words(plan) == "3 of 3 stages done"
    assert cost_lines(plan)[-1] == "in all: 0 hours"


def test_a_dry_run_shows_commands_as_they_will_be_started(place, capsys):
    plan = plan_of([stage("a1")])
    show_plan(plan, 1)
    alone = capsys.readouterr().out
    assert alone.startswith("# arm 1\npython -m ") and "torch" not in alone
    show_plan(plan, 8)
    before = "python -m torch.distributed.run --standalone --nproc-per-node 8 -m -- "
    assert capsys.readouterr().out == alone.replace("python -m ", before)


def test_a_run_whose_source_has_other_weights_is_no_longer_done(tmp_path):
    run, weights = tmp_path / "video", tmp_path / "images" / "model.safetensors"
    for folder in (run, weights.parent):
        folder.mkdir()
    (weights.parent / "config.json").write_text("{}")
    weights.write_bytes(b"weights")
    stat = weights.stat()
    note = {"sha256": file_sha256(weights), "size": stat.st_size, "modified": stat.st_mtime_ns}
    manifest = {"kind": "tokenizer", "name": "video", "started": "2026", "identity": {}, "sessions": [{"source": note}]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "config.json").write_text("{}")
    stage = Stage(name="video", kind="video", argv=("x",), results=(run,), begins=(run, weights.parent))
    plan = Plan(tmp_path / "plan", (Arm("a", 0, (stage,)),))
    assert plan.done(stage) is None
    plan.mark_done(stage, 1.0, True)
    assert plan.done(stage)
    weights.write_bytes(b"others!")
    os.utime(weights, ns=(1, 1))
    assert plan.done(stage) is None and plan.done(replace(stage, begins=None))
    weights.unlink()
    assert plan.done(stage)
