"""SIGTERM, SIGUSR1, Ctrl-C and --max-hours: save, say so, exit with a code that a batch system understands, go on."""

import contextlib
import json
import shutil
import signal
import time

import chain
import pytest

from runtime.checkpoint import list_checkpoints
from runtime.stopping import INTERRUPTED, REQUEUE, ProcessLost, Stopped, listening, orderly, stop_asked

COMMANDS = ("tokenizer", "generator", "encode", "sample", "fvd")
# Where a command of the chain gets a signal, half-way.
MIDDLE = {
    "tokenizer": "log.append:4",
    "generator": "log.append:3",
    "encode": "latents.row:9",
    "sample": "latents.row:3",
    "fvd": "features.batch:2",
}
RUNS = {"tokenizer": "runs/vae", "generator": "runs/gen"}


def line(name: str) -> str:
    """A command of the chain; sampling has more to do, so that it has a middle."""
    return chain.CHAIN[name].replace("--samples 4", "--samples 12")


@pytest.fixture(scope="module")
def undisturbed(launcher, snapshots, tmp_path_factory):
    """Content after each of the commands."""
    found = {name: chain.content(snapshots[name]) for name in COMMANDS}
    folder = tmp_path_factory.mktemp("more") / "work"
    shutil.copytree(snapshots[chain.before("sample")], folder)
    assert launcher.run(line("sample"), folder) == 0
    return found | {"sample": chain.content(folder)}


@pytest.mark.parametrize(
    ("action", "processes"),
    [("TERM", 1), ("INT", 1), ("USR1", 1), ("TERM", 2)],
    ids=["SIGTERM", "Ctrl-C", "SIGUSR1", "SIGTERM to a launch of two"],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_saves_and_the_same_command_goes_on(name, action, processes, begin, launcher, undisturbed):
    folder = begin(name)
    started = launcher.start(line(name), folder, processes=processes, fault=f"{MIDDLE[name]}:{action}")
    for process in started:
        process.join(chain.PATIENCE)
    said = (folder / "log.txt").read_text()
    # In training and in evaluation one process writes, and so gets the signal; the others follow it.
    code = INTERRUPTED if action == "INT" else REQUEUE
    assert [process.exitcode for process in started] == [code] * processes, said[-2000:]
    assert "Traceback" not in said and "the same command goes on" in said
    chain.assert_sound(folder)
    if name in RUNS:
        run = folder / RUNS[name]
        saved = list_checkpoints(run)[-1][0]
        assert saved == len((run / "metrics.jsonl").read_text().splitlines()) < 6  # no step is lost
        assert json.loads((run / "manifest.json").read_text())["sessions"][-1]["status"] == "stopped"
    assert launcher.run(line(name), folder) == 0, (folder / "log.txt").read_text()[-2000:]
    if processes == 1 or name not in RUNS:
        assert chain.content(folder) == undisturbed[name]


def test_a_signal_from_outside_is_heard(begin, launcher):
    folder = begin("generator")
    longer = line("generator").replace("--steps 6", "--steps 100000").replace("every 1", "every 90000")
    started = launcher.start(longer.replace("every 3", "every 90000"), folder)
    log = folder / "runs/gen/metrics.jsonl"
    chain.wait_for(lambda: log.is_file() and log.read_bytes().count(b"\n") >= 3)
    chain.kill(started, signal.SIGTERM)
    assert started[0].exitcode == REQUEUE
    assert list_checkpoints(folder / "runs/gen")[-1][0] == len(log.read_text().splitlines())


@pytest.mark.parametrize("name", ["encode", "sample"])
def test_a_signal_in_the_last_moment_changes_nothing(name, begin, launcher, undisturbed):
    folder = begin(name)
    started = launcher.start(line(name), folder, processes=2, fault="latents.statistics:1:TERM")
    for process in started:
        process.join(chain.PATIENCE)
    assert [process.exitcode for process in started] == [0, 0], (folder / "log.txt").read_text()[-2000:]
    assert chain.content(folder) == undisturbed[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_time_limit_stops_and_sittings_add_up(name, begin, launcher, undisturbed):
    folder = begin(name)
    # Over before the first batch, so every sitting does the least that one can.
    codes = [launcher.run(f"{line(name)} --max-hours 0.000001", folder) for _ in range(2)]
    assert codes == [REQUEUE] * 2 and "stopped by --max-hours 1e-06" in (folder / "log.txt").read_text()
    assert launcher.run(line(name), folder) == 0
    assert chain.content(folder) == undisturbed[name]


def test_a_second_signal_does_not_wait(begin, launcher):
    with listening(), orderly():
        signal.raise_signal(signal.SIGINT)
        assert stop_asked() == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_of_loops_a_signal_ends_the_command_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with listening():
        with pytest.raises(Stopped, match="SIGTERM") as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.code == REQUEUE
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_signal_where_python_swallows_exceptions_comes_again(number, error, capsys):
    class Freed:
        def __del__(self):
            signal.raise_signal(number)

    with pytest.raises(error), listening():
        freed = Freed()
        del freed
        until = time.monotonic() + 30
        while time.monotonic() < until:
            pass
    assert capsys.readouterr().err == ""


def test_a_process_that_lost_another_of_its_launch_says_so():
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:39080")
    with pytest.raises(ProcessLost), listening():
        raise gone
    with pytest.raises(Stopped, match="SIGTERM"), listening(), orderly():
        signal.raise_signal(signal.SIGTERM)
        raise gone
    with pytest.raises(RuntimeError, match="shapes"), listening():
        raise RuntimeError("shapes differ")


def test_what_c_code_makes_of_a_signal_is_the_signal_still():
    for number, error in ((signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)):
        with pytest.raises(error), listening():
            try:
                signal.raise_signal(number)
            except BaseException:
                raise TypeError("could not determine the shape of object type") from None
    with pytest.raises(TypeError), listening(), orderly():
        signal.raise_signal(signal.SIGTERM)
        raise TypeError("an error while saving is an error")


def test_libraries_that_catch_every_exception_do_not_catch_a_signal():
    with pytest.raises(Stopped), listening(), contextlib.suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


def test_the_time_limit_is_known():
    with listening(max_hours=1.0):
        assert stop_asked() is None
    with listening(max_hours=0.0):
        assert stop_asked() == "--max-hours 0"
    assert stop_asked() is None
