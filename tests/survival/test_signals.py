"""SIGTERM, SIGUSR1, Ctrl-C and --max-hours: save, say so, exit with a code that a batch system understands, go on."""

import json
import shutil
import signal

import chain
import pytest

from runtime.checkpoint import list_checkpoints
from runtime.stopping import INTERRUPTED, REQUEUE, Stopped, listening, orderly, seconds_left, stop_asked


def longer(name: str, *changes: tuple[str, str]) -> str:
    """A command of the chain that takes long enough to be met in the middle."""
    line = chain.CHAIN[name]
    for short, long in changes:
        assert short in line
        line = line.replace(short, long)
    return line


LONG = {
    "tokenizer": longer("tokenizer", ("--steps 6", "--steps 45"), ("--save-every 2", "--save-every 30")),
    "generator": longer("generator", ("--steps 6", "--steps 200"), ("every 1", "every 90"), ("every 3", "every 90")),
    "encode": longer("encode", ("--max-clips 26", "--max-clips 160")),
    "sample": longer("sample", ("--samples 4 --steps 2", "--samples 120 --steps 30")),
}
RUNS = {"tokenizer": "runs/vae", "generator": "runs/gen"}


def is_under_way(name, folder) -> bool:
    if name in RUNS:
        log = folder / RUNS[name] / "metrics.jsonl"
        return log.is_file() and log.read_bytes().count(b"\n") >= 3
    return any(path.suffix == ".partial" for path in folder.rglob("*.h5.partial"))


@pytest.fixture(scope="module")
def undisturbed(launcher, snapshots, tmp_path_factory):
    """Content after each long command."""
    found = {}
    for name, line in LONG.items():
        folder = tmp_path_factory.mktemp("long") / "work"
        shutil.copytree(snapshots[chain.before(name)], folder)
        assert launcher.run(line, folder) == 0
        found[name] = chain.content(folder)
    return found


@pytest.mark.parametrize(
    ("number", "processes"),
    [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGUSR1, 1), (signal.SIGTERM, 2)],
    ids=["SIGTERM", "Ctrl-C", "SIGUSR1", "SIGTERM to two"],
)
@pytest.mark.parametrize("name", LONG)
def test_a_signal_saves_and_the_same_command_goes_on(name, number, processes, begin, launcher, undisturbed):
    folder = begin(name)
    started = launcher.start(LONG[name], folder, processes=processes)
    chain.wait_for(lambda: is_under_way(name, folder))
    chain.kill(started, number)
    said = (folder / "log.txt").read_text()
    code = INTERRUPTED if number == signal.SIGINT else REQUEUE
    assert [process.exitcode for process in started] == [code] * processes, said[-2000:]
    assert "Traceback" not in said and "the same command goes on" in said
    if name in RUNS:
        run = folder / RUNS[name]
        saved = list_checkpoints(run)[-1][0]
        assert saved == len((run / "metrics.jsonl").read_text().splitlines())  # no step is lost
        assert json.loads((run / "manifest.json").read_text())["sessions"][-1]["status"] == "stopped"
    assert launcher.run(LONG[name], folder) == 0, (folder / "log.txt").read_text()[-2000:]
    if processes == 1:
        found = {path: digest for path, digest in chain.content(folder).items() if "/checkpoints/" not in path}
        expected = {path: digest for path, digest in undisturbed[name].items() if "/checkpoints/" not in path}
        assert found == expected


@pytest.mark.parametrize("name", LONG)
def test_the_time_limit_stops_and_sittings_add_up(name, begin, launcher, undisturbed):
    folder = begin(name)
    codes = [launcher.run(f"{LONG[name]} --max-hours 0.0001", folder) for _ in range(2)]
    assert codes[0] == REQUEUE and "stopped by --max-hours 0.0001" in (folder / "log.txt").read_text()
    assert launcher.run(LONG[name], folder) == 0
    last = sorted(path for path in undisturbed[name] if path.startswith("runs/") and "/checkpoints/" in path)[-4:]
    found = chain.content(folder)
    for path in [*last, *(p for p in undisturbed[name] if "/checkpoints/" not in p)]:
        assert found[path] == undisturbed[name][path], path


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


def test_the_time_limit_is_known():
    with listening(max_hours=1.0):
        assert 3590 < seconds_left() <= 3600 and stop_asked() is None
    with listening(max_hours=0.0):
        assert stop_asked() == "--max-hours 0"
    assert seconds_left() is None and stop_asked() is None
