"""Kill the chain at random moments, for as long as told; start the same command again, and compare what it ends with.

`python tests/survival/soak.py --minutes 20 --seed 0` (`make soak MINUTES=20`)

A case is one command of the chain. It is disturbed one to four times, alone or as two processes: killed at a random
moment or fault point, asked to stop by SIGTERM, or given a full or broken disk. Then it is started until it ends. All
that has a final name must be readable at any time, and at the end equal, byte for byte, what an undisturbed command
leaves. Part of the time mutated files are fed to the readers. The status is 1 when anything differed; the folder of
such a case stays, and `--case` repeats it (with other moments, where the clock decides).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [path for path in (str(Path(__file__).parents[2]), str(Path(__file__).parent)) if path not in sys.path]

import chain  # noqa: E402

# Several processes make the same bytes of these; of a training they make others, equal from one launch to the next.
SAME_BYTES, TRAINING = ("encode", "sample", "grow", "fvd"), ("tokenizer", "generator")
HANG, GRACE = 180.0, 5.0  # seconds until a command counts as hung; until the others of a broken launch are killed
FUZZ_BATCH, FUZZ_SECONDS, FUZZ_BYTES = 40, 20, 4 * 2**30  # cases a process, for one case, beyond what is loaded
COLUMNS = ("cases", "kills", "stops", "disk errors", "restarts", "finished", "differences")


@dataclass
class Ground:
    """What cases are held against.

    Attributes:
        expected: `chain.content` after (command, number of processes).
        seconds: How long the undisturbed command takes, likewise.
        tally: Counts of `COLUMNS` by command.
        failures: In words.
    """

    launcher: chain.Launcher
    place: Path
    snapshots: dict[str, Path]
    expected: dict[tuple[str, int], dict[str, str]]
    seconds: dict[tuple[str, int], float]
    tally: dict[str, collections.Counter] = field(default_factory=lambda: collections.defaultdict(collections.Counter))
    failures: list[str] = field(default_factory=list)


def prepare(place: Path) -> Ground:
    """Run everything once in peace, training also as two processes."""
    launcher = chain.Launcher()
    snapshots = chain.undisturbed(launcher, place / "undisturbed")
    expected = {(name, 1): chain.content(snapshots[name]) for name in chain.CHAIN}
    seconds = {}
    for name, line in chain.CHAIN.items():
        for processes in (1, 2) if name in TRAINING else (1,):
            folder = place / "reference"
            shutil.copytree(snapshots[chain.before(name)], folder)
            began = time.monotonic()
            if launcher.run(line, folder, processes=processes) != 0:
                raise RuntimeError(f"{line} failed undisturbed: {(folder / 'log.txt').read_text()[-2000:]}")
            seconds[name, processes] = time.monotonic() - began
            found = chain.content(folder)
            if found != expected.setdefault((name, processes), found):
                raise RuntimeError(f"{line} is not the same twice: {differing(found, expected[name, processes])}")
            shutil.rmtree(folder)
    return Ground(launcher, place, snapshots, expected, seconds)


def differing(found: dict[str, str], expected: dict[str, str]) -> str:
    """The first names whose content differs."""
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


# -- one case ----------------------------------------------------------------------------------------------------------


def run_case(ground: Ground, number: int, seed: int) -> None:
    """Disturb one command, let it end, compare."""
    rng = random.Random(f"{seed} {number}")
    names = list(chain.CHAIN)
    name, tally = names[number % len(names)], ground.tally[names[number % len(names)]]
    processes = 2 if name in SAME_BYTES + TRAINING and rng.random() < 0.35 else 1
    folder = ground.place / f"case-{number:06d}"
    shutil.copytree(ground.snapshots[chain.before(name)], folder)
    (folder / "log.txt").unlink(missing_ok=True)
    tally["cases"] += 1
    try:
        status, launches = None, 0
        for _ in range(rng.randint(1, 4)):
            status = disturbed_launch(ground, rng, name, processes, folder)
            launches += 1
            chain.assert_sound(folder)
            if status == 0:
                break
            if name in SAME_BYTES:
                processes = rng.choice((1, 1, 2))
        if status != 0:
            status = supervise(ground.launcher.start(chain.CHAIN[name], folder, processes=processes))
            launches += 1
        tally["restarts"] += launches - 1
        assert status == 0, f"started again, it ended with {status}: {(folder / 'log.txt').read_text()[-500:]}"
        tally["finished"] += 1
        found, expected = chain.content(folder), ground.expected[name, processes if name in TRAINING else 1]
        assert found == expected, f"other content: {differing(found, expected)}"
        assert chain.leftovers(folder) == [], f"left behind: {chain.leftovers(folder)}"
    except Exception as error:
        tally["differences"] += 1
        ground.failures.append(f"case {number} of seed {seed}, {name}, in {folder}: {type(error).__name__}: {error}")
        print(f"\n{ground.failures[-1]}", file=sys.stderr, flush=True)
    else:
        shutil.rmtree(folder)


def disturbed_launch(ground: Ground, rng: random.Random, name: str, processes: int, folder: Path) -> int:
    """Start the command and disturb it; returns its status (0: it ended before anything happened)."""
    tally, log = ground.tally[name], folder / "log.txt"
    before = log.stat().st_size if log.is_file() else 0
    how = rng.choices(("kill", "kill at a point", "disk error", "stop"), (50, 20, 15, 15))[0]
    fault = ""
    if how in ("kill at a point", "disk error"):
        point = rng.choice(chain.VISITS[name]).split(":")[0]
        action = "KILL" if how == "kill at a point" else rng.choice(("ENOSPC", "ENOSPC", "EDQUOT", "EIO"))
        fault = f"{point}:{rng.randint(1, 6)}:{action}"
    started = ground.launcher.start(chain.CHAIN[name], folder, fault=fault, processes=processes)
    if not fault:
        time.sleep(rng.uniform(0.0, 0.95) * ground.seconds.get((name, processes), ground.seconds[name, 1]))
        number = signal.SIGKILL if how == "kill" else signal.SIGTERM
        # Mostly the whole launch, as a batch system would; sometimes one of its processes.
        for process in started if rng.random() < 0.7 else [rng.choice(started)]:
            if process.is_alive():
                os.kill(process.pid, number)
    status = supervise(started)
    said = log.read_text(errors="replace")[before:] if log.is_file() else ""
    if processes == 1:  # of several, those that are left behind may say anything
        allowed = {"kill": (-9,), "kill at a point": (-9,), "disk error": (1, 2), "stop": (75, -15)}[how]
        assert status in (0, *allowed), f"{how} {fault} ended with {status}: {said[-500:]}"
        assert "Traceback" not in said, f"{how} {fault} printed a traceback: {said[-1500:]}"
    if status != 0:
        tally[{"stop": "stops", "disk error": "disk errors"}.get(how, "kills")] += 1
    return status


def supervise(processes: list) -> int:
    """Wait as torchrun does: when one process fails, the others are ended. The status of that one; 0 when none failed.

    Raises:
        TimeoutError: When they hang.
    """
    until, status = time.monotonic() + HANG, 0
    while any(process.is_alive() for process in processes):
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed and not status:
            status, until = failed[0], time.monotonic() + GRACE
            for process in processes:
                process.terminate()
        if time.monotonic() > until:
            chain.kill(processes)
            if not status:
                raise TimeoutError(f"hung for {HANG:g} s")
        time.sleep(0.003)
    return status or next((process.exitcode for process in processes if process.exitcode), 0)


# -- untrusted files ---------------------------------------------------------------------------------------------------


def import_fuzzing():
    """tests/untrusted/fuzzing.py, or None where it is not."""
    place = chain.ROOT / "tests" / "untrusted"
    if not (place / "fuzzing.py").is_file():
        return None
    sys.path.append(str(place))
    import fuzzing

    return fuzzing


def _fuzz_in_child(cases: list[tuple[str, int]], folder: Path, journal: Path) -> None:
    """Run cases with bounded memory and time; a line in the journal before each of them and after."""
    fuzzing = import_fuzzing()
    warnings.simplefilter("error")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + FUZZ_BYTES, used + FUZZ_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, wherever it is stuck
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries complain there about what they are given
    with open(journal, "a", buffering=1) as log:
        for kind, seed in cases:
            log.write(json.dumps([kind, seed, "begun"]) + "\n")
            signal.alarm(FUZZ_SECONDS)
            try:
                outcome = fuzzing.fuzz_once(kind, seed, folder / f"{kind}-{seed}").split(":")[0]
                shutil.rmtree(folder / f"{kind}-{seed}", ignore_errors=True)
            except BaseException as error:
                outcome = f"failed: {type(error).__name__}: {error}"
            signal.alarm(0)
            log.write(json.dumps([kind, seed, outcome]) + "\n")


def fuzz_batch(ground: Ground, kinds: list[str], first: int) -> None:
    """Mutate files of every kind in turn and read them, in a process that may die of it."""
    folder, journal = ground.place / "fuzzing", ground.place / "fuzzing" / "journal.jsonl"
    folder.mkdir(exist_ok=True)
    cases = [(kinds[number % len(kinds)], number) for number in range(first, first + FUZZ_BATCH)]
    while cases:
        journal.unlink(missing_ok=True)
        process = ground.launcher.call(_fuzz_in_child, cases, folder, journal)
        process.join()
        lines = journal.read_text().splitlines() if journal.is_file() else []
        done = {(kind, seed): outcome for kind, seed, outcome in map(json.loads, lines)}
        if not done:
            raise RuntimeError(f"fuzzing could not begin (status {process.exitcode})")
        for (kind, seed), outcome in done.items():
            if outcome == "begun":
                outcome = f"failed: the process ended with {process.exitcode}"
            ground.tally[f"file: {kind}"][outcome.split(":")[0]] += 1
            if outcome.startswith("failed"):
                ground.failures.append(f"file: {kind}, seed {seed}, in {folder}: {outcome}")
                print(f"\n{ground.failures[-1]}", file=sys.stderr, flush=True)
        cases = [case for case in cases if case not in done]


# -- the soak ----------------------------------------------------------------------------------------------------------


def soak(ground: Ground, minutes: float, seed: int, fuzz_share: float, progress) -> None:
    """Cases, one after the other, until the time is over."""
    fuzzing = import_fuzzing() if fuzz_share else None
    began, fuzzed, number, first = time.monotonic(), 0.0, 0, 1_000_000 * seed
    while (elapsed := time.monotonic() - began) < 60 * minutes:
        progress(ground, 60 * minutes - elapsed)
        if fuzzing is not None and fuzzed < fuzz_share * elapsed:
            fuzz_batch(ground, list(fuzzing.KINDS), first)
            first += FUZZ_BATCH
            fuzzed += time.monotonic() - began - elapsed
        else:
            run_case(ground, number, seed)
            number += 1


def totals(ground: Ground) -> collections.Counter:
    """Counts over all commands of the chain."""
    return sum((ground.tally[name] for name in chain.CHAIN), collections.Counter())


class LiveLine:
    """One line that changes; in a file, a line every half minute."""

    def __init__(self) -> None:
        self._live, self._printed = sys.stderr.isatty(), 0.0

    def __call__(self, ground: Ground, left: float) -> None:
        clock = time.monotonic()
        if clock - self._printed < (0.2 if self._live else 30.0):
            return
        self._printed = clock
        found = totals(ground)
        words = "  ".join(f"{found[column]} {column}" for column in COLUMNS)
        line = f"{int(left) // 60}:{int(left) % 60:02d} left  {words}"
        print(f"\r\033[K{line}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)


def print_table(ground: Ground) -> None:
    """What happened, by command and by kind of file."""
    print(f"\n{'command':16}" + "".join(f"{column:>13}" for column in COLUMNS))
    for name, counts in [*((name, ground.tally[name]) for name in chain.CHAIN), ("all", totals(ground))]:
        print(f"{name:16}" + "".join(f"{counts[column]:13}" for column in COLUMNS))
    for name, counts in ground.tally.items():
        if name.startswith("file: "):
            outcomes = "  ".join(f"{outcome} {counts[outcome]:6}" for outcome in ("accepted", "refused", "failed"))
            print(f"{name:28}{outcomes}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone, without fuzzing")
    parser.add_argument("--fuzz", type=float, default=0.15, help="share of the time for mutated files")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    began = time.monotonic()
    ground = prepare(place)
    try:
        if given.case is not None:
            run_case(ground, given.case, given.seed)
        else:
            soak(ground, given.minutes, given.seed, given.fuzz, LiveLine())
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    print_table(ground)
    if given.out:
        from benchmarks.measuring import write_benchmark

        results = {name: dict(counts) for name, counts in ground.tally.items()} | {"all": dict(totals(ground))}
        write_benchmark(
            given.out, results, seed=given.seed, minutes=(time.monotonic() - began) / 60, failures=ground.failures
        )
    if ground.failures:
        print(f"{len(ground.failures)} failures of seed {given.seed}; folders and logs are in {place}")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
