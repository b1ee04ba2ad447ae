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
    return chain.undisturbed(launcher, tmp_path_factory.mktemp("chain") / "undisturbed")


@pytest.fixture
def begin(snapshots, tmp_path):
    """Copy the state before a command of the chain into a fresh folder."""

    def copy(name: str) -> Path:
        folder = tmp_path / "work"
        shutil.copytree(snapshots[chain.before(name)], folder)
        return folder

    return copy
