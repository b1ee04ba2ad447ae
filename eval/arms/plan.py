"""What is to be done: stages, each an ordinary command, and arms, each a list of stages that ends in results.

A stage that is done leaves a small record in the plan's folder, so that it costs nothing to find out; the record goes
by the command and by those before it, so that one that has changed is run again, and then resumes, finds its work done
or refuses, as the command itself does. Whoever works on a stage holds its lock, an flock that its command inherits:
should the one be killed, the other goes on alone, and nobody else begins the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from runtime.command import CommonFlags, flag
from runtime.errors import InputError
from runtime.files import flock, no_link
from runtime.records import check_fields, read_json, write_json
from runtime.run import now

_RECORD = {"digest": str, "kind": str, "seconds": float, "work": float, "in_one_go": bool}


@dataclass(frozen=True, kw_only=True)
class PlanFlags(CommonFlags):
    """How a plan is worked through: flags of every command that has one."""

    processes: int = flag(1, "for each command, as torchrun starts them: one a GPU", low=1, high=1024)
    tables_only: bool = flag(False, "run nothing: tables and page of what is done so far")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command.

    Attributes:
        name: In the plan, and of its files.
        kind: What it does; stages of a kind take time in proportion to `work`.
        argv: Words after `python -m`.
        needs: Names of the stages whose results it reads.
        results: Files that are there when it is done.
        reads: What it reads that no stage makes, in words that change when that does.
        work: How much it has to do, in any unit that its kind has.
        seconds: How long it should take by speeds that were measured before; None: unknown.
        bytes: Room on the disk that its results take, about; 0 where that was not counted.
        begins: Its run, and the one that this begins from: not done where that has other weights now.
    """

    name: str
    kind: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    results: tuple[Path, ...] = ()
    reads: str = ""
    work: float = 1.0
    seconds: float | None = None
    bytes: int = 0
    begins: tuple[Path, Path] | None = None

    @property
    def command(self) -> str:
        """As it would be typed."""
        return shlex.join(["python", *self.words()])

    def words(self, processes: int = 1) -> list[str]:
        """What follows `python` to run it, on so many processes as torchrun starts them."""
        if processes == 1:
            return ["-m", *self.argv]
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        # After "--" torchrun takes nothing for a flag of its own: a command's --run would be one of two of them.
        return ["-m", *launcher, "--", *self.argv]


@dataclass(frozen=True)
class Arm:
    """A name, a seed, and stages in an order in which each comes after those that it needs.

    Stages that several arms have in common are made once.
    """

    name: str
    seed: int
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Done:
    """What the record of a finished stage says: seconds of the last start, and whether there was only that one."""

    digest: str
    seconds: float
    work: float
    in_one_go: bool


@dataclass(frozen=True)
class Plan:
    """Arms, and the folder that keeps what is known of their stages: records, locks and logs.

    Raises:
        InputError: If two stages have one name, or one needs a stage that does not come before it.
    """

    folder: Path
    arms: tuple[Arm, ...]
    stages: Mapping[str, Stage] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[str, Stage] = {}
        for arm in self.arms:
            for stage in arm.stages:
                if found.setdefault(stage.name, stage) != stage:
                    raise InputError(f"arm {arm.name}: another stage is called {stage.name} too")
                if absent := set(stage.needs) - found.keys():
                    raise InputError(f"stage {stage.name} needs {', '.join(sorted(absent))}, which comes not before it")
        object.__setattr__(self, "stages", found)

    def digest(self, stage: Stage) -> str:
        """16 hex digits of a command, what it reads, and the same of the stages before it."""
        before = [self.digest(self.stages[name]) for name in stage.needs]
        text = json.dumps([stage.argv, stage.reads, before])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def done(self, stage: Stage) -> Done | None:
        """What is known of a stage that is done, as the plan has it now; None where it is to be run."""
        path = self._record(stage)
        if not path.is_file() or not all(result.exists() for result in stage.results):
            return None
        record = read_json(path)
        check_fields(record, _RECORD, path)
        if record["digest"] != self.digest(stage) or (stage.begins and _source_changed(*stage.begins)):
            return None
        return Done(*(record[name] for name in ("digest", "seconds", "work", "in_one_go")))

    def mark_done(self, stage: Stage, seconds: float, in_one_go: bool) -> None:
        """Record that a stage is done."""
        path = self._record(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"command": stage.command, "kind": stage.kind, "digest": self.digest(stage), "work": stage.work}
        values |= {"seconds": round(seconds, 2), "in_one_go": in_one_go, "ended": now()}
        write_json(path, values, point="stage")

    def log(self, stage: Stage) -> Path:
        """Where a stage's command prints to."""
        return self.folder / "logs" / f"{stage.name}.log"

    def _record(self, stage: Stage) -> Path:
        return self.folder / "done" / f"{stage.name}.json"

    def held(self, stage: Stage) -> bool:
        """Whether some process, which may be this one, is at work on a stage."""
        try:
            with open(self._lock(stage.name)) as lock:
                # Shared: two that ask do not take each other for one that works.
                flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB, lock.name)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _lock(self, name: str) -> Path:
        return self.folder / "locks" / name

    @contextmanager
    def locked(self, name: str) -> Iterator[IO | None]:
        """Hold the lock of a stage, or of what else has a name; None where another process has it.

        Raises:
            InputError: If the file system has no locks, so that two processes could begin the same.
        """
        path = self._lock(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", opener=no_link) as lock:
            try:
                flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
            except BlockingIOError:
                yield None
            else:
                yield lock


def _source_changed(run: Path, source: Path) -> bool:
    from tokenizer.source import source_changed  # which imports torch

    return source_changed(run, source) is not None


def last_words(log: Path, start: int) -> str:
    """Why a command ended, by what it printed after so many bytes of its log: its last "error: " line, else its last
    one."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1].strip()


def needing(stages: Mapping[str, Stage], failed: Sequence[str]) -> set[str]:
    """The stages that cannot be run because of others that failed, and these."""
    found = set(failed)
    for stage in stages.values():  # in an order in which each comes after those that it needs
        if found.intersection(stage.needs):
            found.add(stage.name)
    return found
