"""Creating, filling, killing, resuming and finishing a latents file."""

import fcntl
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from latents_cache import create_latents, open_latents
from latents_cache.moments import ChannelStatistics
from runtime.errors import InputError

SHAPE = (3, 5, 2, 2)
ATTRIBUTES = {"tokenizer": "runs/vae", "encoder_hash": "abc", "num_classes": 4, "scale": 0.5, "sizes": [1, 2, 3]}
ROOT = Path(__file__).parents[2]


def row_values(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and logvar of a row, exact in float16."""
    generator = np.random.default_rng(row)
    values = (generator.standard_normal((2, *SHAPE)) * [[[[[2.0]]]], [[[[0.5]]]]]).astype(np.float16).astype(np.float32)
    return values[0] + 1, values[1] - 2


def fill(writer, rows) -> None:
    for row in rows:
        mean, logvar = row_values(row)
        writer.write(row, mean, logvar, label=row % 4, name=f"clip-{row}")


def whole_file(path: Path, rows: int = 7) -> Path:
    with create_latents(path, rows, SHAPE, ATTRIBUTES) as writer:
        fill(writer, reversed(range(rows)))
        return writer.finish()


def test_rows_come_back_in_the_order_asked(tmp_path):
    with open_latents(whole_file(tmp_path / "sub" / "a.h5")) as reader:
        batch = reader.batch([6, 0, 6])
        for place, row in enumerate([6, 0, 6]):
            mean, logvar = row_values(row)
            assert np.array_equal(batch["mean"][place], mean.astype(np.float16))
            assert np.array_equal(batch["logvar"][place], logvar.astype(np.float16))
        assert batch["label"].tolist() == [2, 0, 2] and batch["label"].dtype == np.int32
        assert reader.names[5] == "clip-5" and len(reader) == 7 and reader.shape == SHAPE
        assert {name: reader.attributes[name] for name in ATTRIBUTES} == ATTRIBUTES


def test_rows_are_done_after_every_so_many_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("latents_cache.writer.FLUSH_ROWS", 3)
    with create_latents(tmp_path / "a.h5", 7, SHAPE, ATTRIBUTES) as writer:
        fill(writer, range(5))
        with h5py.File(writer.partial) as file:
            assert file["done"][:].tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_a_finished_file_is_plain_contiguous_hdf5(tmp_path):
    with h5py.File(whole_file(tmp_path / "a.h5"), "r") as file:
        assert file["mean"].shape == file["logvar"].shape == (7, *SHAPE)
        kinds = {name: file[name].dtype.str for name in file}
        assert kinds == {
            "mean": "<f2", "logvar": "<f2", "label": "<i4", "name": "|S128", "crc32": "<u4", "done": "|u1",
            "latents_mean": "<f8", "latents_std": "<f8",
        }  # fmt: skip
        assert all(file[name].chunks is None and file[name].id.get_offset() for name in file)
        assert file["done"][:].all() and file.attrs["encoder_hash"] == "abc"
        assert np.array_equal(file["mean"][3], row_values(3)[0].astype(np.float16))


def test_statistics_are_those_of_the_sampled_latents(tmp_path):
    with open_latents(whole_file(tmp_path / "a.h5", rows=40)) as reader:
        batch = reader.batch(range(40))
        mean, variance = batch["mean"].astype(np.float64), np.exp(batch["logvar"].astype(np.float64))
        assert np.allclose(reader.mean, mean.mean((0, 2, 3, 4)), rtol=1e-12)
        assert np.allclose(reader.std, np.sqrt(mean.var((0, 2, 3, 4)) + variance.mean((0, 2, 3, 4))), rtol=1e-12)
        sampled = mean + np.sqrt(variance) * np.random.default_rng(0).standard_normal((200, *mean.shape))
        # 200 draws of 40 * 20 values a channel: four standard errors of a standard deviation.
        assert np.allclose(reader.std, sampled.std((0, 1, 3, 4, 5)), rtol=4 / np.sqrt(2 * 200 * 40 * 20))


def test_statistics_do_not_cancel_far_from_zero():
    values = 1e8 + np.random.default_rng(0).standard_normal((30, 2, 1, 4, 4))
    statistics = ChannelStatistics(2)
    for start in range(0, 30, 7):
        statistics.add(values[start : start + 7])
    assert np.allclose(statistics.std, values.std((0, 2, 3, 4)), rtol=1e-6)


def test_processes_may_count_the_rows_in_shares_for_the_same_bytes(tmp_path):
    alone = whole_file(tmp_path / "alone.h5", rows=11).read_bytes()
    for size in (2, 3):
        path = tmp_path / f"{size}.h5"
        writers = [create_latents(path, 11, SHAPE, ATTRIBUTES, has_logvar=True, launch="one") for _ in range(size)]
        for rank, writer in enumerate(writers):
            fill(writer, range(rank, 11, size))
            writer.flush()
        shares = [range(rank * 11 // size, (rank + 1) * 11 // size) for rank in range(size)]
        writers[0].finish(sum(writer.counts(share) for writer, share in zip(writers, shares, strict=True)))
        for writer in writers:
            writer.close()
        assert path.read_bytes() == alone


def test_rows_that_were_left_out_do_not_count(tmp_path):
    with create_latents(tmp_path / "a.h5", 9, SHAPE, ATTRIBUTES, has_logvar=True) as writer:
        fill(writer, [0, 1, 2, 4, 6, 7])
        for row in (3, 5, 8):
            writer.leave_out(row)
        writer.flush()
        counts = writer.counts(range(9))
        assert counts.sum() == 2 * 6 * np.prod(SHAPE)
        writer.finish(counts)
    with create_latents(tmp_path / "b.h5", 6, SHAPE, ATTRIBUTES, has_logvar=True) as writer:
        for place, row in enumerate([0, 1, 2, 4, 6, 7]):
            writer.write(place, *row_values(row), label=row % 4, name=f"clip-{row}")
        writer.finish()
    with open_latents(tmp_path / "a.h5") as short, open_latents(tmp_path / "b.h5") as same:
        assert short.mean.tolist() == same.mean.tolist() and short.std.tolist() == same.std.tolist()
        assert short.names == same.names and short.damaged_rows() == []


def test_rows_of_whole_pages_share_none_with_others(tmp_path):
    """Machines that write neighbouring rows of one file on a network file system must not share a page of it."""
    shape = (4, 2, 16, 16)
    with create_latents(tmp_path / "a.h5", 3, shape, ATTRIBUTES | {"note": "x" * 100}, has_logvar=True) as writer:
        for row in range(3):
            writer.write(row, np.full(shape, row + 1.0), np.zeros(shape))
        writer.finish()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["mean"][0].nbytes == 4096
        assert [file[name].id.get_offset() % 4096 for name in ("mean", "logvar")] == [0, 0]


def test_the_rows_of_a_launch_are_locked_together(tmp_path):
    """An unlocked file of an NFS client is written in whole pages, its neighbours' bytes with its own."""
    writers = [create_latents(tmp_path / "a.h5", 2, SHAPE, ATTRIBUTES, has_logvar=True, launch="one") for _ in range(2)]
    for writer in writers:
        with open(writer.partial, "rb+") as other:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        writer.close()


def test_nothing_has_the_final_name_before_finish_and_nothing_else_remains_after(tmp_path):
    path = tmp_path / "a.h5"
    writer = create_latents(path, 2, SHAPE, ATTRIBUTES, has_logvar=True)
    assert not path.exists() and (tmp_path / "a.h5.partial").exists()
    fill(writer, [0, 1])
    assert writer.finish() == path
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = whole_file(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        create_latents(path, 7, SHAPE, ATTRIBUTES)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_finish_refuses_missing_rows(tmp_path):
    with create_latents(tmp_path / "a.h5", 3, SHAPE, ATTRIBUTES) as writer:
        fill(writer, [0, 2])
        with pytest.raises(InputError, match="1 of 3 rows are missing, the first is 1"):
            writer.finish()
    assert not (tmp_path / "a.h5").exists()


def test_a_deterministic_tokenizer_needs_no_logvar(tmp_path):
    with create_latents(tmp_path / "a.h5", 1, SHAPE, {}) as writer:
        writer.write(0, row_values(0)[0])
        writer.finish()
    with open_latents(tmp_path / "a.h5") as reader:
        assert reader.batch([0])["logvar"] is None and reader.labels.tolist() == [-1]
        assert np.allclose(reader.std, reader.batch([0])["mean"].astype(float).std((0, 2, 3, 4)), rtol=1e-12)


@pytest.mark.parametrize("first_has_it", [True, False])
def test_logvar_comes_with_every_row_or_with_none(tmp_path, first_has_it):
    mean, logvar = row_values(0)
    with create_latents(tmp_path / "a.h5", 2, SHAPE, {}) as writer:
        writer.write(0, mean, logvar if first_has_it else None)
        with pytest.raises(InputError, match="row 1 must come with"):
            writer.write(1, mean, None if first_has_it else logvar)


@pytest.mark.parametrize("value", [np.nan, np.inf, 70000.0, -70000.0])
@pytest.mark.parametrize("what", ["mean", "logvar"])
def test_a_value_that_float16_cannot_hold_is_refused_with_its_row(tmp_path, what, value):
    values = dict(zip(("mean", "logvar"), row_values(1), strict=True))
    values[what][0, 0, 0, 0] = value
    with create_latents(tmp_path / "a.h5", 2, SHAPE, {}, has_logvar=True) as writer:
        with pytest.raises(InputError, match=f"{what} of row 1 does not fit float16"):
            writer.write(1, **values)
        writer.flush()
        assert writer.missing() == [0, 1]


def test_a_finite_logvar_whose_variance_is_infinite_is_refused_at_the_end(tmp_path):
    mean, logvar = row_values(0)
    with create_latents(tmp_path / "a.h5", 1, SHAPE, {}) as writer:
        writer.write(0, mean, logvar + 1000)
        with pytest.raises(InputError, match="latents_std is not finite"):
            writer.finish()
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("row", [-1, 2])
def test_rows_outside_the_file_are_refused(tmp_path, row):
    with create_latents(tmp_path / "a.h5", 2, SHAPE, {}) as writer, pytest.raises(InputError, match="outside 0…1"):
        writer.write(row, row_values(0)[0])


def test_wrong_shapes_are_refused(tmp_path):
    with create_latents(tmp_path / "a.h5", 2, SHAPE, {}) as writer, pytest.raises(InputError, match="expected"):
        writer.write(0, np.zeros((3, 5, 2, 3)))
    for rows, shape in ((0, SHAPE), (2, (3, 5, 2)), (2, (3, 0, 2, 2))):
        with pytest.raises(InputError, match="needs 1 row"):
            create_latents(tmp_path / "b.h5", rows, shape, {})


def test_a_done_row_cannot_be_replaced(tmp_path):
    with create_latents(tmp_path / "a.h5", 2, SHAPE, {}) as writer:
        fill(writer, [0])
        writer.flush()
        with pytest.raises(InputError, match="row 0 is done already"):
            fill(writer, [0])


def test_long_names_keep_their_end_and_stay_valid_utf8(tmp_path):
    name = "é" * 100 + "/clip.avi"
    with create_latents(tmp_path / "a.h5", 1, SHAPE, {}) as writer:
        writer.write(0, row_values(0)[0], name=name)
        writer.finish()
    with open_latents(tmp_path / "a.h5") as reader:
        assert name.endswith(reader.names[0]) and len(reader.names[0].encode()) in (127, 128)


# -- resuming ----------------------------------------------------------------------------------------------------------

CHILD = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
import test_writer as t
from latents_cache import create_latents
writer = create_latents({path!r}, 50, t.SHAPE, t.ATTRIBUTES)
t.fill(writer, range(10)); writer.flush()
t.fill(writer, range(10, 13)); print("ready", flush=True)
if {stop}: time.sleep(60)
for row in range(13, 50):
    t.fill(writer, [row]); writer.flush(); print(row, flush=True)
time.sleep(60)
"""


def killed_writer(path: Path, last_line: str) -> None:
    """Start a process that fills `path`, and kill it without warning as soon as it has printed `last_line`."""
    stop = last_line == "ready"
    code = CHILD.format(root=str(ROOT), tests=str(Path(__file__).parent), path=str(path), stop=stop)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            while (line := child.stdout.readline().strip()) != last_line:
                assert line, "the child ended early"
        finally:
            child.send_signal(signal.SIGKILL)


def test_a_killed_writer_loses_only_the_rows_since_the_last_flush(tmp_path):
    path = tmp_path / "a.h5"
    killed_writer(path, "ready")
    with create_latents(path, 50, SHAPE, ATTRIBUTES) as writer:
        assert writer.missing() == list(range(10, 50))
        fill(writer, writer.missing())
        writer.finish()
    with create_latents(tmp_path / "b.h5", 50, SHAPE, ATTRIBUTES) as writer:
        fill(writer, range(50))
        writer.finish()
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("last_line", ["17", "34"])
def test_every_row_that_counts_as_done_after_a_kill_holds_its_values(tmp_path, last_line):
    path = tmp_path / "a.h5"
    killed_writer(path, last_line)
    with create_latents(path, 50, SHAPE, ATTRIBUTES) as writer:
        done = sorted(set(range(50)) - set(writer.missing()))
    assert set(done) >= set(range(int(last_line) + 1))
    with h5py.File(tmp_path / "a.h5.partial", "r") as file:
        for row in done:
            assert np.array_equal(file["mean"][row], row_values(row)[0].astype(np.float16))
            assert file["name"][row] == f"clip-{row}".encode()


def test_leaving_the_writer_on_an_error_keeps_the_rows_so_far(tmp_path):
    with pytest.raises(RuntimeError), create_latents(tmp_path / "a.h5", 5, SHAPE, ATTRIBUTES) as writer:
        fill(writer, [3, 1])
        raise RuntimeError
    with create_latents(tmp_path / "a.h5", 5, SHAPE, ATTRIBUTES) as writer:
        assert writer.missing() == [0, 2, 4]


def test_resuming_with_other_attributes_names_what_differs(tmp_path):
    create_latents(tmp_path / "a.h5", 5, SHAPE, ATTRIBUTES, has_logvar=True).close()
    other = {**ATTRIBUTES, "encoder_hash": "xyz", "flip": 1}
    with pytest.raises(InputError, match=re.escape("encoder_hash: was 'abc', now 'xyz'; flip: was 'None', now '1'")):
        create_latents(tmp_path / "a.h5", 5, SHAPE, other)
    with pytest.raises(InputError, match="sizes: was"):
        create_latents(tmp_path / "a.h5", 5, SHAPE, {k: v for k, v in ATTRIBUTES.items() if k != "sizes"})


@pytest.mark.parametrize(
    ("rows", "shape", "has_logvar", "said"),
    [(6, SHAPE, True, "mean: was"), (5, (3, 5, 4, 2), True, "mean: was"), (5, SHAPE, False, "logvar: was True")],
)
def test_resuming_with_another_size_is_refused(tmp_path, rows, shape, has_logvar, said):
    create_latents(tmp_path / "a.h5", 5, SHAPE, ATTRIBUTES, has_logvar=True).close()
    before = (tmp_path / "a.h5.partial").read_bytes()
    with pytest.raises(InputError, match=said):
        create_latents(tmp_path / "a.h5", rows, shape, ATTRIBUTES, has_logvar=has_logvar)
    assert (tmp_path / "a.h5.partial").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"text, not HDF5", b"\x89HDF\r\n\x1a\n"])
def test_a_partial_file_that_is_no_latents_file_is_refused(tmp_path, content):
    (tmp_path / "a.h5.partial").write_bytes(content)
    with pytest.raises(InputError, match="remove it"):
        create_latents(tmp_path / "a.h5", 5, SHAPE, ATTRIBUTES)


# -- several processes -------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    first = create_latents(tmp_path / "a.h5", 2, SHAPE, ATTRIBUTES)
    with pytest.raises(InputError, match="being written by another process"):
        create_latents(tmp_path / "a.h5", 2, SHAPE, ATTRIBUTES)
    first.close()
    create_latents(tmp_path / "a.h5", 2, SHAPE, ATTRIBUTES).close()


def test_processes_of_one_launch_fill_a_file_together_and_others_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    writers = [create_latents(path, 6, SHAPE, ATTRIBUTES, has_logvar=True, launch="one") for _ in range(3)]
    for launch in (None, "two"):
        with pytest.raises(InputError, match="being written by another process"):
            create_latents(path, 6, SHAPE, ATTRIBUTES, launch=launch)
    for rank, writer in enumerate(writers):
        fill(writer, range(rank, 6, 3))
        writer.flush()
    assert all(writer.missing() == [] for writer in writers)
    writers[0].finish()
    for writer in writers[1:]:
        writer.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]
    with open_latents(path) as reader:
        assert reader.names == [f"clip-{row}" for row in range(6)]


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        create_latents(tmp_path / "file" / "a.h5", 2, SHAPE, ATTRIBUTES)


def test_a_full_disk_is_an_input_error_at_once(tmp_path, monkeypatch):
    def no_space(descriptor, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", no_space)
    with pytest.raises(InputError, match="the disk has no room for 2 rows"):
        create_latents(tmp_path / "a.h5", 2, SHAPE, ATTRIBUTES, has_logvar=True)
    assert not {"a.h5", "a.h5.partial", ".a.h5.new"} & {entry.name for entry in tmp_path.iterdir()}


def test_a_refused_writer_takes_its_lock_file_away(tmp_path):
    with create_latents(tmp_path / "a.h5", 2, SHAPE, {"seed": 1}, has_logvar=False):
        pass
    with pytest.raises(InputError, match="begun with other settings"):
        create_latents(tmp_path / "a.h5", 2, SHAPE, {"seed": 2}, has_logvar=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.partial"]


def test_a_writer_that_is_refused_for_another_leaves_that_ones_lock(tmp_path):
    with create_latents(tmp_path / "a.h5", 1, SHAPE, {}, has_logvar=False) as first:
        for _ in range(2):
            with pytest.raises(InputError, match="another process"):
                create_latents(tmp_path / "a.h5", 1, SHAPE, {}, has_logvar=False)
        first.write(0, np.zeros(SHAPE))
        first.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_the_last_process_of_a_launch_takes_the_lock_file_away(tmp_path):
    first, second = (create_latents(tmp_path / "a.h5", 2, SHAPE, {}, has_logvar=False, launch="x") for _ in range(2))
    first.close()
    assert (tmp_path / ".a.h5.lock").exists()
    with pytest.raises(InputError, match="another process"):
        create_latents(tmp_path / "a.h5", 2, SHAPE, {}, has_logvar=False)
    second.close()
    assert not (tmp_path / ".a.h5.lock").exists()


def test_a_partial_file_whose_rows_lie_elsewhere_is_refused(tmp_path):
    with create_latents(tmp_path / "a.h5", 2, SHAPE, {}, has_logvar=False):
        pass
    with h5py.File(tmp_path / "a.h5.partial", "r+") as file:
        del file["mean"]
        file.create_dataset("mean", (2, *SHAPE), np.float16, chunks=True)
    with pytest.raises(InputError, match="does not hold its mean in one piece"):
        create_latents(tmp_path / "a.h5", 2, SHAPE, {}, has_logvar=False)
