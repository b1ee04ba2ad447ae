"""What every test may use: folders of real clips, a browser, and reasons to skip."""

import os
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("pages")
sys.path.insert(0, str(Path(__file__).parent))  # for the browser's client, and what holds of every page


@pytest.fixture(scope="session", autouse=True)
def own_cache_folders(tmp_path_factory):
    """What is found out about files in a test is not kept for the user's own runs; and no code is run that Inductor
    compiled for another PyTorch or with other instructions allowed (`ATEN_CPU_CAPABILITY` is in no key of its cache:
    such code gives NaN, or ends the process)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    real = [item for item in items if item.get_closest_marker("real")]
    if real and not _real_data():
        for item in real:
            item.add_marker(pytest.mark.skip(reason="PVVAE_TEST_DATA names no folder of real clips"))
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not _has_gpu():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    bf16 = [item for item in items if item.get_closest_marker("bf16")]
    if bf16 and not _has_bf16():
        for item in bf16:
            item.add_marker(pytest.mark.skip(reason="this CPU only emulates bfloat16"))


def _real_data() -> Path | None:
    folder = os.environ.get("PVVAE_TEST_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_bf16() -> bool:
    from runtime.processes import native_bfloat16

    return native_bfloat16()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips that `PVVAE_TEST_DATA` names (ucf101/, realestate10k/, …); skips without one."""
    folder = _real_data()
    if folder is None:
        pytest.skip("PVVAE_TEST_DATA names no folder of real clips")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium, one for all tests; skips where there is none."""
    from chromium import NAMES, Browser, find_browser

    program = find_browser()
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    try:
        found = Browser(program, tmp_path_factory.mktemp("browser"))
    except AssertionError as error:  # as where it lacks what it needs of the system
        pytest.skip(f"{program} does not start: {error}")
    yield found
    found.close()
