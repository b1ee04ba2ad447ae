"""The crash-safe file of rows, apart from what is in them."""

import errno
import os

import h5py
import numpy as np
import pytest

from latents_cache.row_file import RowFile, Taken, header
from runtime.errors import InputError


class Numbers(RowFile):
    """Three float64 a row; their sum as a dataset that is not of rows."""

    def __init__(self, path, rows=4, **attributes):
        super().__init__(path, rows, attributes, {"sum": np.full(3, np.nan)})

    def _row_types(self, attributes, datasets):
        types = {"values": (np.dtype("<f8"), (3,)), "done": (np.dtype("u1"), ())}
        return types if datasets else None

    def write(self, row):
        if self._descriptor < 0:
            self._lay_out(self._row_types({}, {"values": ()}))
        self._put(row, {"values": np.arange(3.0) + row})

    def _complete(self):
        with h5py.File(self.partial) as file:
            return {"sum": file["values"][:].sum(0)}


def test_it_is_laid_out_by_the_first_row_filled_and_named_when_whole(tmp_path):
    with Numbers(tmp_path / "a.h5", seed=1) as file:
        assert file.missing() == [0, 1, 2, 3] and not file.partial.exists()
        file.write(2)
        assert file.missing() == [0, 1, 2, 3]  # until it is flushed
    with Numbers(tmp_path / "a.h5", seed=1) as file:
        assert file.missing() == [0, 1, 3]
        for row in file.missing():
            file.write(row)
        assert file.finish() == tmp_path / "a.h5"
    with h5py.File(tmp_path / "a.h5") as found:
        assert found["values"][:].tolist() == [[row, row + 1, row + 2] for row in range(4)]
        assert found["sum"][:].tolist() == [6, 10, 14] and found["done"][:].tolist() == [1] * 4
        assert found.attrs["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_the_whole_of_it_is_allocated_at_once(tmp_path):
    with Numbers(tmp_path / "a.h5", rows=100_000) as file:
        file.write(0)
        assert os.stat(file.partial).st_blocks * 512 >= 100_000 * 25


def test_header_names_every_dataset_and_where_it_lies(tmp_path):
    with Numbers(tmp_path / "a.h5", seed=1) as file:
        file.write(3)
    attributes, datasets, offsets = header(file.partial)
    assert attributes == {"seed": 1} and datasets["values"] == (np.dtype("<f8"), (4, 3))
    row = np.fromfile(file.partial, "<f8", 3, offset=offsets["values"] + 3 * 24)
    assert row.tolist() == [3, 4, 5]


@pytest.mark.parametrize("kind", ["group", "none", "more", "fewer"])
def test_a_partial_file_with_other_datasets_is_refused_and_stays(tmp_path, kind):
    with Numbers(tmp_path / "a.h5") as file:
        file.write(0)
    with h5py.File(file.partial, "r+") as found:
        if kind == "more":
            found["other"] = np.zeros(4)
        elif kind == "fewer":
            del found["sum"]
        else:
            for name in list(found):
                del found[name]
            if kind == "group":
                found.create_group("done")
    before = file.partial.read_bytes()
    with pytest.raises(InputError, match="remove it") as refused:
        Numbers(tmp_path / "a.h5")
    assert "\n" not in str(refused.value) and file.partial.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.partial"]


@pytest.mark.parametrize("call", [1, 2])
def test_without_room_for_header_or_rows_it_is_refused_and_nothing_stays(tmp_path, monkeypatch, call):
    genuine, calls = os.posix_fallocate, []

    def no_space(*of):
        calls.append(of)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        genuine(*of)

    monkeypatch.setattr("os.posix_fallocate", no_space)
    with Numbers(tmp_path / "a.h5") as file, pytest.raises(InputError, match=r"no room for 4 rows of values \[3\]"):
        file.write(0)
    assert not list(tmp_path.iterdir())


def test_a_system_without_the_calls_of_linux_writes_the_same_bytes(tmp_path, monkeypatch):
    """As macOS, also where rows that are left out are copied away."""

    def written(name: str) -> bytes:
        with Numbers(tmp_path / name) as file:
            for row in (0, 2, 3):
                file.write(row)
            file.leave_out(1)
            file.finish()
        return (tmp_path / name).read_bytes()

    expected = written("a.h5")
    monkeypatch.delattr("os.posix_fallocate")
    monkeypatch.delattr("os.copy_file_range")
    assert written("b.h5") == expected
    assert (tmp_path / "b.h5").stat().st_blocks * 512 >= len(expected)


def test_a_file_system_without_locks_is_refused_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(InputError, match="cannot be locked: No locks available") as refused, Numbers(tmp_path / "a.h5"):
        pass
    assert not isinstance(refused.value, Taken)


def test_what_is_closed_is_flushed_no_more(tmp_path):
    with Numbers(tmp_path / "a.h5") as file:
        file.write(0)
        file.close()
    with Numbers(tmp_path / "a.h5") as file:
        assert file.missing() == [0, 1, 2, 3]


def test_rows_that_were_left_out_may_be_again_after_a_kill_and_make_the_file_shorter(tmp_path):
    with Numbers(tmp_path / "a.h5") as file:
        with pytest.raises(InputError, match="the first row decides"):
            file.leave_out(1)
        file.write(0)
        file.flush()
        file.leave_out(1)
        for row in (0, 4, -1):
            with pytest.raises(InputError, match=f"row {row} is none of those that missing"):
                file.leave_out(row)
    with Numbers(tmp_path / "a.h5") as file:
        assert file.missing() == [2, 3]
        for row in (1, 2):
            file.leave_out(row)
        file.write(3)
        file.finish()
    with h5py.File(tmp_path / "a.h5") as found:
        assert found["values"][:].tolist() == [[0, 1, 2], [3, 4, 5]] and found["sum"][:].tolist() == [3, 5, 7]
        assert found.attrs["left_out"] == 2
