"""Makes `chain` importable here and in the processes that it starts."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import chain  # noqa: E402


@pytest.fixture(scope="session")
def launcher() -> chain.Launcher:
    return chain.Launcher()


@pytest.fixture(scope="session")
def snapshots(launcher, tmp_path_factory) -> dict[str, Path]:
    """Folders of an undisturbed chain: "" is empty, the others are as they were after the command of that name."""
    place = tmp_path_factory.mktemp("undisturbed")
    work = place / "work"
    work.mkdir()
    found = {"": place / "start"}
    shutil.copytree(work, found[""])
    for name, line in chain.CHAIN.items():
        assert launcher.run(line, work) == 0, (work / "log.txt").read_text()[-2000:]
        found[name] = place / name
        shutil.copytree(work, found[name])
    return found


@pytest.fixture
def begin(snapshots, tmp_path):
    """Copy the state before a command of the chain into a fresh folder."""

    def copy(name: str) -> Path:
        names = ["", *chain.CHAIN]
        folder = tmp_path / "work"
        shutil.copytree(snapshots[names[names.index(name) - 1]], folder)
        return folder

    return copy
