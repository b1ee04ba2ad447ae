"""Reading latents files: whole ones, foreign ones, and broken ones."""

import pickle
import threading

import h5py
import numpy as np
import pytest

from latents_cache import FORMAT_VERSION, create_latents, open_latents
from runtime.errors import InputError

SHAPE = (2, 3, 2, 2)


@pytest.fixture
def path(tmp_path):
    generator = np.random.default_rng(0)
    with create_latents(tmp_path / "a.h5", 9, SHAPE, {"num_classes": 3, "data": "ucf101"}) as writer:
        for row in range(9):
            writer.write(row, *generator.standard_normal((2, *SHAPE)), label=row % 3, name=f"clip-{row}")
        return writer.finish()


def test_rows_that_will_be_wanted_are_asked_for_at_once_in_whole_runs(path, monkeypatch):
    asked = []
    monkeypatch.setattr("latents_cache.reader._will_need", lambda source, start, stop: asked.append((start, stop)))
    with open_latents(path) as reader:
        reader.prefetch([7, 2, 3, 2, 4, 0])
        size = 2 * np.prod(SHAPE)
        assert asked == [(0, size), (2 * size, 5 * size), (7 * size, 8 * size)] * 2  # of mean, then of logvar
        monkeypatch.undo()
        reader.prefetch(range(9))  # what the system makes of it shows in its speed alone
        reader.prefetch([])
        assert reader.damaged_rows() == []


def test_a_file_whose_rows_begin_anywhere_reads_the_same(path, tmp_path):
    """As earlier versions wrote it."""
    with h5py.File(path) as source, h5py.File(tmp_path / "b.h5", "w", libver="earliest") as copy:
        for name, value in source.attrs.items():
            copy.attrs[name] = value
        for name in source:
            copy[name] = source[name][:]
        assert copy["mean"].id.get_offset() % 4096
    with open_latents(path) as reader, open_latents(tmp_path / "b.h5") as other:
        other.prefetch(range(9))
        for name, values in reader.batch(range(9)).items():
            assert np.array_equal(values, other.batch(range(9))[name])


def test_an_absent_file_says_which_command_writes_one(tmp_path):
    with pytest.raises(InputError, match="no such latents file; python -m tokenizer.encode"):
        open_latents(tmp_path / "a.h5")


def test_a_partial_file_is_refused_under_either_name(tmp_path):
    create_latents(tmp_path / "a.h5", 2, SHAPE, {}, has_logvar=False).close()
    with pytest.raises(InputError, match="is not complete: only a.h5.partial is there"):
        open_latents(tmp_path / "a.h5")
    with pytest.raises(InputError, match="is not complete"):
        open_latents(tmp_path / "a.h5.partial")


def test_a_partial_file_renamed_by_hand_is_refused(tmp_path):
    writer = create_latents(tmp_path / "a.h5", 2, SHAPE, {}, has_logvar=False)
    writer.write(0, np.zeros(SHAPE))
    writer.flush()
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5.partial").read_bytes())
    with pytest.raises(InputError, match="never finished .1 rows are missing"):
        open_latents(tmp_path / "b.h5")
    writer.write(1, np.zeros(SHAPE))
    writer.flush()
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5.partial").read_bytes())
    with pytest.raises(InputError, match="never finished"):
        open_latents(tmp_path / "b.h5")
    writer.close()


@pytest.mark.parametrize("part", [0, 10, 500, -1])
def test_a_truncated_file_is_refused(path, part):
    content = path.read_bytes()
    path.write_bytes(content[:part])
    with pytest.raises(InputError, match="not a whole HDF5 file|truncated"):
        open_latents(path)


def test_a_negative_standard_deviation_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["latents_std"][1] *= -1
    with pytest.raises(InputError, match="a standard deviation is negative"):
        open_latents(path)


def test_a_file_of_a_newer_version_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
    with pytest.raises(InputError, match=f"format version {FORMAT_VERSION + 1}, this program reads up to"):
        open_latents(path)


def test_other_hdf5_files_are_refused(tmp_path, path):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(InputError, match="not a latents file .no dataset mean, label, latents_mean, latents_std"):
        open_latents(tmp_path / "b.h5")
    with h5py.File(path, "r+") as file:
        del file["logvar"]
        file["logvar"] = np.zeros((9, 1, 3, 2, 2), np.float16)
    with pytest.raises(InputError, match=r"logvar is .*expected \[9, 2, 3, 2, 2\]"):
        open_latents(path)


def test_a_compressed_copy_reads_the_same(path, tmp_path):
    with h5py.File(path, "r") as file, h5py.File(tmp_path / "b.h5", "w") as copy:
        for name in file:
            chunked = {"compression": "gzip", "chunks": True} if name in ("mean", "logvar") else {}
            copy.create_dataset(name, data=file[name][:], **chunked)
        copy.attrs.update(file.attrs)
    indices = [8, 2, 2, 5]
    with open_latents(path) as reader, open_latents(tmp_path / "b.h5") as other:
        expected, found = reader.batch(indices), other.batch(indices)
        assert all(np.array_equal(expected[name], found[name]) for name in expected)
        assert found["mean"].dtype == np.float16 and other.damaged_rows() == []
    with h5py.File(tmp_path / "b.h5") as file:
        chunk = file["mean"].id.get_chunk_info(0)
    with open(tmp_path / "b.h5", "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with open_latents(tmp_path / "b.h5") as other, pytest.raises(InputError, match="b.h5: damaged rows"):
        other.batch(range(9))


def test_without_checksums_and_names_a_file_still_reads(path):
    with h5py.File(path, "r+") as file:
        del file["crc32"], file["name"], file["done"]
    with open_latents(path) as reader:
        assert reader.batch([0])["mean"].shape == (1, *SHAPE) and reader.names == [""] * 9
        with pytest.raises(InputError, match="it has no checksums"):
            reader.damaged_rows()


@pytest.mark.parametrize("indices", [[-1], [9], [0, 12]])
def test_rows_outside_the_file_are_refused(path, indices):
    with open_latents(path) as reader, pytest.raises(InputError, match="it has 0…8"):
        reader.batch(indices)


@pytest.mark.parametrize("indices", [np.arange(9) == 2, [2.9, 1.2], 3])
def test_what_is_no_list_of_rows_is_refused_and_a_mask_is_told_what_to_do(path, indices):
    with open_latents(path) as reader, pytest.raises(InputError, match="whole numbers, got .*np.flatnonzero"):
        reader.batch(indices)


def test_no_rows_are_an_empty_batch(path):
    with open_latents(path) as reader:
        assert reader.batch([])["mean"].shape == (0, *SHAPE)


def test_a_batch_belongs_to_its_caller(path):
    with open_latents(path) as reader:
        batch = reader.batch([1])
        batch["mean"][:] = 0
        batch["label"][:] = 0
        assert reader.batch([1])["mean"].any() and reader.batch([1])["label"] == [1]


def test_threads_and_other_processes_read_the_same(path):
    with open_latents(path) as reader:
        expected = reader.batch(range(9))["mean"]
        found = []
        threads = [threading.Thread(target=lambda: found.append(reader.batch(range(9))["mean"])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found.append(pickle.loads(pickle.dumps(reader)).batch(range(9))["mean"])
        assert len(found) == 5 and all(np.array_equal(values, expected) for values in found)


def test_a_damaged_heap_of_texts_is_refused_where_hdf5_would_walk_it_for_ever(path):
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    for damage in (bytes(4000), b"\xff" * 64):
        damaged = bytearray(content)
        damaged[heap + 16 : heap + 16 + len(damage)] = damage
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"damaged .its attributes, at byte {heap}"):
            open_latents(path)
    path.write_bytes(content)
    open_latents(path).close()
