"""The run directory `runs/<name>/`: config, manifest, identity, and the lock that keeps a second launch out."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from runtime.errors import InputError
from runtime.files import flock, no_link
from runtime.output import check_name
from runtime.records import append_line, check_fields, plain, read_json, write_json
from runtime.stopping import Stopped

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "timm", "torchdiffeq", "lpips", "decord", "av", "h5py", "einops",
            "safetensors")  # fmt: skip


def now() -> str:
    """The time in UTC, to the microsecond, so that runs order by their start."""
    return datetime.now(UTC).isoformat()


def command_line() -> str:
    """This process's command, as it would be typed."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"python -m {spec.name}" if spec and spec.name else shlex.join(["python", *sys.argv[:1]])
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """The processor and what this process may use of it."""
    model = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo") as info:
        known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in info)}
        arm = [f"{name} {known[name]}" for name in ("CPU implementer", "CPU part") if name in known]
        model = known.get("model name") or " ".join([model, *arm])
    if sys.platform == "darwin":
        with suppress(OSError):
            words = ["sysctl", "-n", "machdep.cpu.brand_string"]
            model = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or model
    # macOS knows no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"system": platform.platform(), "processor": model, "cores": cores}


@cache
def git_commit() -> str:
    """The commit of the code, with "+changes" when files differ from it, as it was when this process first asked;
    "unknown" outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def commits(manifest: dict) -> str:
    """The commits that a run was made with, of all its sittings that noted one."""
    found = (record.get("git_commit") for record in (manifest, *manifest.get("sessions", [])))
    return ", ".join(dict.fromkeys(str(commit) for commit in found if commit)) or "unknown"


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_name(preset: str, data: str, identity: dict) -> str:
    """`<preset>-<data>-<8 hex digits of the flags that change results>`."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{preset}-{Path(data).stem}-{digest}"


def departing(values: Mapping, before: Mapping) -> dict:
    """Those of the values that are not as in `before`: what earlier versions did, who had no such flags."""
    return {name: value for name, value in values.items() if name not in before or value != before[name]}


# What `Run` itself reads back; the rest is checked by whoever uses it.
_MANIFEST = {"kind": str, "name": str, "started": str, "identity": dict, "sessions": list[dict]}


@dataclass(frozen=True)
class RunInfo:
    """A run directory as read from disk."""

    dir: Path
    config: dict
    manifest: dict


def read_run(path: str | Path, kind: str | None = None) -> RunInfo:
    """Read a run directory; InputError when it is none, or of another kind than asked."""
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise InputError(f"{path} is not a run directory (it has no manifest.json)")
    info = RunInfo(path, read_json(path / "config.json"), read_json(path / "manifest.json"))
    check_fields(info.manifest, _MANIFEST, path / "manifest.json")
    if kind is not None and info.manifest.get("kind") != kind:
        raise InputError(f"{path} is a {info.manifest.get('kind')} run, not a {kind} run")
    return info


def newest_run(runs_dir: str | Path, kind: str) -> Path:
    """The run of a kind that was started or resumed last; InputError when there is none."""
    found = []
    for manifest in Path(runs_dir).glob("*/manifest.json"):
        values = read_json(manifest)
        if values.get("kind") == kind:
            check_fields(values, _MANIFEST, manifest)
            starts = [values["started"], *(str(session.get("started", "")) for session in values["sessions"])]
            found.append((max(starts), manifest.parent))
    if not found:
        raise InputError(f"no {kind} run in {runs_dir}/; train one first: python -m {kind}.train")
    return max(found)[1]


class Run:
    """An open run directory: a context manager that records when and how it was worked on."""

    def __init__(self, directory: Path, manifest: dict, lock, session: dict):
        self.dir, self.manifest, self._lock, self._session = directory, manifest, lock, session
        self._began = 0.0

    @classmethod
    def open(
        cls,
        config,
        *,
        kind: str,
        name: str,
        identity: dict,
        extra_config: dict | None = None,
        extra_manifest: dict | None = None,
        session: dict | None = None,
    ) -> Run:
        """Create the run, or resume it.

        Args:
            config: The command's dataclass; `config.runs_dir` is the parent folder.
            kind: "tokenizer" or "generator".
            name: Folder name; no path separators.
            identity: Everything that changes the result; JSON values.
            extra_config: More values for config.json, JSON like all of it.
            extra_manifest: More facts for manifest.json, written when the run is created.
            session: Facts of this sitting that may differ from one to the next, such as the number of processes.

        Raises:
            InputError: If another live process has the run open, it is of another kind, or its identity differs.
        """
        directory = cls.check(config, kind=kind, name=name, identity=identity)
        identity = plain(identity)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = open(directory / ".lock", "w", opener=no_link)  # noqa: SIM115 - held open for as long as the run is
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from error
        try:
            flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, lock.name)
        except BlockingIOError as error:
            lock.close()
            raise InputError(
                f"{directory} is being written by another process; wait for it or give another --name"
            ) from error
        except InputError:
            lock.close()
            raise
        values = plain(asdict(config)) | (extra_config or {})
        if not (directory / "config.json").is_file() or read_json(directory / "config.json") != values:
            write_json(directory / "config.json", values)  # what may differ from before, such as more steps, is current
        if (directory / "manifest.json").is_file():
            manifest = read_json(directory / "manifest.json")
        else:
            manifest = {
                "kind": kind,
                "name": name,
                "started": now(),
                "command": command_line(),
                "git_commit": git_commit(),
                "versions": versions(),
                "machine": machine(),
                "identity": identity,
                "sessions": [],
                **(extra_manifest or {}),
            }
            write_json(directory / "manifest.json", manifest)
        return cls(directory, manifest, lock, session or {})

    @classmethod
    def check(cls, config, *, kind: str, name: str, identity: dict) -> Path:
        """Refuse what `open` would refuse before it writes anything; for callers with slow work in between."""
        check_name("--name", name)
        directory = Path(config.runs_dir) / name
        if (directory / "manifest.json").is_file():
            cls._refuse_other(read_run(directory, kind), plain(identity))
        return directory

    @staticmethod
    def _refuse_other(info: RunInfo, identity: dict) -> None:
        before = info.manifest["identity"]
        if changed := _differences(before, identity):
            raise InputError(
                f"{info.dir} was made with other settings ({'; '.join(changed)}); use those, or another --name"
            )

    def __enter__(self) -> Run:
        self._began = time.monotonic()
        session = {"started": now(), "command": command_line(), "git_commit": git_commit(), "status": "running"}
        self.manifest["sessions"].append(session | self._session)
        write_json(self.dir / "manifest.json", self.manifest)
        return self

    def __exit__(self, kind, error, trace) -> None:
        status = "done" if kind is None else "stopped" if kind in (KeyboardInterrupt, Stopped) else "failed"
        self.manifest["sessions"][-1] |= {
            "ended": now(),
            "status": status,
            "seconds": round(time.monotonic() - self._began, 2),
        }
        write_json(self.dir / "manifest.json", self.manifest)
        self._lock.close()


def _differences(before: dict, now: dict, within: str = "") -> list[str]:
    """Which values differ, each in a few words; of a record in a record, which of its fields."""
    found = []
    for key in sorted({*before, *now}):
        was, is_now = before.get(key), now.get(key)
        if isinstance(was, dict) and isinstance(is_now, dict):
            found += _differences(was, is_now, f"{within}{key}.")
        elif was != is_now:
            was, is_now = _where_different(repr(was), repr(is_now))
            found.append(f"{within}{key}: was {was}, now {is_now}")
    return found


def _where_different(*texts: str) -> list[str]:
    length, alike = 80, len(os.path.commonprefix(texts))
    start = alike - length // 4 if alike > length // 2 else 0
    cut = [text[start : start + length] + ("…" if len(text) > start + length else "") for text in texts]
    return [f"…{text}" if start else text for text in cut]


def is_main() -> bool:
    """Whether this process is the only or the first one of its launch: the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def timed_part(run_dir: str | Path, part: str) -> Iterator[None]:
    """Record in parts.jsonl of a run how long a part of the work took, when it ends well."""
    started, began = now(), time.monotonic()
    yield
    seconds = round(time.monotonic() - began, 2)
    if not is_main():
        return
    append_line(
        Path(run_dir) / "parts.jsonl", {"part": part, "seconds": seconds, "started": started, "command": command_line()}
    )
