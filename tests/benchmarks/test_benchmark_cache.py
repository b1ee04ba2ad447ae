import json

import pytest

from benchmarks.cache import CacheConfig, cache
from runtime.errors import InputError


def test_each_part_is_measured_and_the_file_goes(tmp_path, capsys):
    out, folder = tmp_path / "cache.json", tmp_path / "place"
    folder.mkdir()
    flags = {"rows": 70, "shape": (2, 2, 3, 3), "batches": 4, "batch_size": 8, "device": "cpu"}
    found = cache(CacheConfig(**flags, folder=str(folder), out=str(out)))
    names = ["file", "write", "count", "finish", "check --full", "gather cold", "gather cold, asked for ahead",
             "gather warm", "batch, drawn by numpy", "batch, drawn by torch", "batch, noise left out"]  # fmt: skip
    assert list(found) == names and list(folder.iterdir()) == []
    assert found["file"]["bytes"] == 70 * 2 * 2 * 36
    assert all(value > 0 for name in names[1:8] for what, value in found[name].items() if "cpu" not in what)
    assert json.loads(out.read_text())["results"] == found
    said = capsys.readouterr().out
    assert "70 rows of [2, 2, 3, 3]" in said and "gather warm: seconds" in said


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected C,G,h,w"):
        CacheConfig(shape=(64, 16, 16))
    with pytest.raises(InputError, match="make room"):
        cache(
            CacheConfig(rows=10_000_000, shape=(64, 500, 16, 16), folder=str(tmp_path), out=str(tmp_path / "out.json"))
        )
    assert list(tmp_path.iterdir()) == []
