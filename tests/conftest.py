"""What every test may use: folders of real clips, and reasons to skip."""

import os
from pathlib import Path

import pytest


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
