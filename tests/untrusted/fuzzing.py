"""Feed mutated files to the readers: each must take the file or refuse it with an `InputError`, and nothing else.

`fuzz_once(kind, seed, folder)` is one case, for tests. The command is a soak, which also holds memory and time and
survives a crash of a library: `python tests/untrusted/fuzzing.py --minutes 5 --seed 0 [--kinds latents,video]`.
"""

from __future__ import annotations

import argparse
import atexit
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
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

from kinds import KINDS

from runtime.errors import InputError

_sound = tempfile.TemporaryDirectory(prefix="sound-")
atexit.register(_sound.cleanup)


def sound_files(kind: str) -> Path:
    """A folder with the sound files of a kind, made once in a process."""
    folder = Path(_sound.name) / kind
    if not folder.is_dir():
        folder.mkdir(parents=True)
        KINDS[kind].make(folder)
    return folder


def fuzz(kind: str, rng: random.Random, folder: Path) -> str:
    """Mutate one file of `kind` in `folder`, as `rng` says, and read it.

    Returns:
        "accepted", or "refused: …".

    Raises:
        AssertionError: When anything other than an `InputError` of one line comes out.
    """
    shutil.copytree(sound_files(kind), folder, dirs_exist_ok=True)
    file = folder / rng.choice(KINDS[kind].files)
    file.write_bytes(KINDS[kind].mutate(file.read_bytes(), rng))
    try:
        KINDS[kind].read(folder)
    except InputError as error:
        message = str(error)
        assert message and len(message) < 20_000, f"{kind}: a message of {len(message)} letters"
        return f"refused: {message}"
    except Exception as error:
        raise AssertionError(f"{kind}: {type(error).__name__}: {error}; the files are in {folder}") from error
    return "accepted"


def fuzz_once(kind: str, seed: int, folder: Path) -> str:
    """One case of `fuzz`, from a seed; after a failure its files stay in `folder`."""
    try:
        return fuzz(kind, random.Random(seed), folder)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {error}") from error.__cause__


MEMORY, SECONDS, BATCH = 4 * 2**30, 20, 200  # beyond what is loaded, for one case, cases a process


def _limit() -> None:
    """Allow this process `MEMORY` more, and let a case that takes `SECONDS` end it."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside C


def _run_batch(cases: list[tuple[str, int]], kept: Path, journal: Path) -> None:
    """Run cases in this (forked) process; one line of JSON a case in `journal`, written before and after."""
    _limit()
    warnings.simplefilter("error")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries complain there about what they are given
    with open(journal, "a", buffering=1) as log:
        for kind, seed in cases:
            folder = kept / f"{kind}-{seed}"
            log.write(json.dumps([kind, seed, "begun"]) + "\n")
            signal.alarm(SECONDS)
            try:
                outcome = fuzz_once(kind, seed, folder).split(":")[0]
            except BaseException as error:
                outcome = f"failed: {type(error).__name__}: {error}"
            signal.alarm(0)
            if not outcome.startswith("failed"):
                shutil.rmtree(folder, ignore_errors=True)
            log.write(json.dumps([kind, seed, outcome]) + "\n")


def soak(minutes: float, seed: int, kinds: list[str], kept: Path) -> int:
    """Run cases until the time is over, print counts by kind and every failure; returns the number of failures."""
    counts: dict[str, collections.Counter] = {kind: collections.Counter() for kind in kinds}
    for kind in kinds:
        sound_files(kind)
        fuzz_once(kind, seed, Path(tempfile.mkdtemp(dir=kept)))  # loads the libraries once, before any fork
    stop, number = time.monotonic() + 60 * minutes, seed
    journal = kept / "journal.jsonl"
    while time.monotonic() < stop:
        cases = [(kinds[i % len(kinds)], number + i) for i in range(BATCH)]
        number += BATCH
        while cases:
            journal.unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                try:
                    _run_batch(cases, kept, journal)
                finally:
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            outcomes = [json.loads(line) for line in journal.read_text().splitlines()]
            done = {(kind, case): outcome for kind, case, outcome in outcomes}
            for (kind, case), outcome in done.items():
                if outcome == "begun":
                    outcome = f"failed: the process ended with signal {os.WTERMSIG(status)}"
                counts[kind][outcome.split(":")[0]] += 1
                if outcome.startswith("failed"):
                    print(f"{kind} seed {case} {outcome}", flush=True)
            cases = [case for case in cases if case not in done]
    for kind, found in counts.items():
        print(f"{kind:22} accepted {found['accepted']:6}  refused {found['refused']:6}  failed {found['failed']:4}")
    print(f"seeds {seed} to {number - 1}; files of failures in {kept}")
    return sum(found["failed"] for found in counts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--kept", type=Path, default=None, help="folder for files of failures")
    given = parser.parse_args()
    kept = given.kept or Path(tempfile.mkdtemp(prefix="fuzzing-"))
    kept.mkdir(parents=True, exist_ok=True)
    sys.exit(min(1, soak(given.minutes, given.seed, given.kinds.split(","), kept)))


if __name__ == "__main__":
    main()
