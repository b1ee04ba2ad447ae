"""A disk that is really full, before the work and in the middle of it: one line, exit code 1 or 2, nothing is lost."""

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import chain
import pytest

from runtime.checkpoint import list_checkpoints, load_checkpoint

KIB = 1024
RUNS = {"tokenizer": "runs/vae", "generator": "runs/gen"}


@pytest.fixture
def disk(tmp_path):
    """A function (MiB) -> folder on a file system of its own that has no more than that."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "none", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def leave(disk: Path, size: int) -> Path:
    """Fill a disk until `size` bytes are free; returns the file to remove again."""
    ballast = disk / "ballast"
    with open(ballast, "wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - size)
    return ballast


def settle(folder: Path, snapshot: Path, log: Path) -> None:
    """Begin on a full disk as one begins elsewhere, but with the log on another one."""
    shutil.copytree(snapshot, folder)
    (folder / "log.txt").unlink(missing_ok=True)
    os.symlink(log, folder / "log.txt")


def assert_one_line(log: Path, status: int) -> None:
    said = log.read_text()
    assert status in (1, 2) and "Traceback" not in said and said.count("error: ") == 1, said[-2000:]


# What is left is enough to begin, and too little to end.
LEFT = {"tokenizer": 64, "encode": 16, "generator": 64, "sample": 4, "grow": 4, "reconstruction": 4, "fvd": 64,
        "convergence": 16, "decode": 4, "report": 64}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_on_a_full_disk_a_command_says_so_and_goes_on_when_there_is_room(name, disk, tmp_path, launcher, snapshots):
    place, log = disk(16), tmp_path / "log.txt"
    folder = place / "work"
    settle(folder, snapshots[chain.before(name)], log)
    ballast = leave(place, LEFT[name] * KIB)
    assert_one_line(log, launcher.run(chain.CHAIN[name], folder))
    chain.assert_sound(folder)
    ballast.unlink()
    assert launcher.run(chain.CHAIN[name], folder) == 0, log.read_text()[-2000:]
    assert chain.content(folder) == chain.content(snapshots[name])
    assert chain.leftovers(folder) == []


@pytest.mark.parametrize("left", [0, 40])
@pytest.mark.parametrize("name", RUNS)
def test_a_disk_that_fills_up_under_a_training_costs_no_checkpoint(name, left, disk, tmp_path, launcher, snapshots):
    place, log = disk(16), tmp_path / "log.txt"
    folder, run = place / "work", place / "work" / RUNS[name]
    settle(folder, snapshots[chain.before(name)], log)
    line = chain.CHAIN[name].replace("--steps 6", "--steps 60")
    line = line.replace("--keep-every 3", "--keep-every 60").replace("--validate-every 3", "--validate-every 60")
    started = launcher.start(line, folder)
    chain.wait_for(lambda: len(list_checkpoints(run)) >= 2)
    ballast = leave(place, left * KIB)
    started[0].join(chain.PATIENCE)
    assert_one_line(log, started[0].exitcode)
    steps = [step for step, _ in list_checkpoints(run)]
    assert len(steps) >= 2 and not list((run / "checkpoints").glob(".*.partial"))
    chain.assert_sound(folder)
    ballast.unlink()
    assert launcher.run(line, folder) == 0, log.read_text()[-2000:]
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(snapshots[chain.before(name)], undisturbed)
    assert launcher.run(line, undisturbed) == 0
    assert chain.content(folder) == chain.content(undisturbed)


LIMITED = """
import resource, runpy, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
# The largest file in KiB that the system lets the command write: below its checkpoint, latents, features or page.
LARGEST = {"tokenizer": 64, "encode": 16, "generator": 32, "sample": 3, "fvd": 4, "decode": 2, "report": 32}


@pytest.mark.parametrize("name", LARGEST)
def test_where_the_system_refuses_large_files_it_is_the_same(name, tmp_path, begin, launcher, snapshots):
    """The same failure in the middle of a write, which any user can bring about."""
    folder, script = begin(name), tmp_path / "limited.py"
    script.write_text(LIMITED)
    (folder / "log.txt").unlink(missing_ok=True)
    limited = f"{shlex.quote(str(script))} {LARGEST[name] * KIB} {chain.CHAIN[name]}"
    assert_one_line(folder / "log.txt", launcher.run(limited, folder))
    chain.assert_sound(folder)
    assert launcher.run(chain.CHAIN[name], folder) == 0, (folder / "log.txt").read_text()[-2000:]
    assert chain.content(folder) == chain.content(snapshots[name])
    assert chain.leftovers(folder) == []


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path):
    """What safetensors and torch raise is told by its reason, with the file that it was about."""
    import errno
    import resource

    import torch

    from runtime.checkpoint import save_checkpoint

    small, large = {"model": {"w": torch.ones(10)}}, torch.ones(100_000)
    save_checkpoint(tmp_path, 1, tensors=small, optimizer={"a": torch.ones(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for file, tensors, optimizer in (
        ("model.safetensors", {"model": {"w": large}}, None),
        ("optimizer.pt", small, {"a": large}),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * KIB, hard))
        try:
            with pytest.raises(OSError) as refused:
                save_checkpoint(tmp_path, 2, tensors=tensors, optimizer=optimizer)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert refused.value.errno == errno.EFBIG and refused.value.filename.endswith(file)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert torch.equal(
        load_checkpoint(list_checkpoints(tmp_path)[0][1], names=("model",), optimizer=True).optimizer["a"],
        torch.ones(10),
    )
