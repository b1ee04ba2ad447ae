"""Kept features: resumed after a kill without computing a row twice, and never read when damaged."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from eval.feature_store import FeatureSet, FeatureStore, join, load_feature_set
from eval.sets import kept_features
from runtime.errors import InputError
from runtime.processes import start_processes

ALONE = start_processes("cpu")
KEY = {"features": "shapes", "weights": "abc", "subject": "real"}
CLIPS = [f"clip {i}" for i in range(20)]
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((20, 5)).astype(np.float32)
PROBABILITIES = RANDOM.dirichlet(np.ones(3), 20).astype(np.float32)


def batch(rows, probabilities: bool = True) -> FeatureSet:
    rows = list(rows)
    return FeatureSet(FEATURES[rows], PROBABILITIES[rows] if probabilities else None, np.array(rows) % 3)


def filled(path: Path, probabilities: bool = True) -> FeatureSet:
    with FeatureStore(path, KEY, CLIPS) as store:
        store.write(range(20), batch(range(20), probabilities))
        return store.finish()


def assert_whole(found: FeatureSet) -> None:
    assert np.array_equal(found.features, FEATURES) and found.features.dtype == np.float32
    assert np.array_equal(found.probabilities, PROBABILITIES)
    assert found.labels.tolist() == [i % 3 for i in range(20)]
    assert found.clips.tolist() == [clip.encode() for clip in CLIPS]


def test_what_is_written_in_any_order_is_read_and_nothing_else_is_left(tmp_path):
    with FeatureStore(tmp_path / "a.h5", KEY, CLIPS) as store:
        assert store.missing() == list(range(20))
        store.write([19, 3, 7], batch([19, 3, 7]))
        assert store.missing() == [i for i in range(20) if i not in (3, 7, 19)]
        rest = store.missing()
        store.write(rest, batch(rest))
        assert_whole(store.finish())
    assert_whole(load_feature_set(tmp_path / "a.h5", KEY))
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_h5py_alone_can_read_it(tmp_path):
    filled(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        kinds = {name: (file[name].dtype.str, file[name].shape) for name in file}
        assert all(file[name].chunks is None for name in file)
        assert '"weights": "abc"' in file.attrs["key"]
    assert kinds == {
        "features": ("<f4", (20, 5)),
        "probabilities": ("<f4", (20, 3)),
        "label": ("<i4", (20,)),
        "clip": ("|S7", (20,)),
        "crc32": ("<u4", (20,)),
        "done": ("|u1", (20,)),
    }


def test_networks_without_classes_have_no_probabilities(tmp_path):
    assert filled(tmp_path / "a.h5", probabilities=False).probabilities is None


KILLED = """
import os, signal, sys
import numpy as np
from eval import feature_store
from eval.feature_store import FeatureSet, FeatureStore
data = np.load(sys.argv[2])
store = FeatureStore(sys.argv[1], {key!r}, {clips!r})
for start in (0, 4, 8):
    rows = np.arange(start, start + 4)
    if start == 8:  # in the middle of a batch: the values are there, the checksums are not
        feature_store._checksums = lambda rows: os.kill(os.getpid(), signal.SIGKILL)
    store.write(rows, FeatureSet(data["features"][rows], data["probabilities"][rows], rows % 3))
"""


def test_a_kill_in_the_middle_of_a_batch_loses_that_batch_alone(tmp_path):
    np.savez(tmp_path / "data.npz", features=FEATURES, probabilities=PROBABILITIES)
    path = tmp_path / "store" / "a.h5"
    code = KILLED.format(key=KEY, clips=CLIPS)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "data.npz")],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists()
    with FeatureStore(path, KEY, CLIPS) as store:
        rest = store.missing()
        assert rest == list(range(8, 20))
        store.write(rest, batch(rest))
        resumed = store.finish()
    assert_whole(resumed)
    filled(tmp_path / "at-once.h5")
    assert path.read_bytes() == (tmp_path / "at-once.h5").read_bytes()


def test_kept_features_are_made_once_a_key_and_only_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.sets.BATCH", 6)
    made = []

    def make(rows):
        for start in range(0, len(rows), 6):
            made.append(rows[start : start + 6])
            yield batch(rows[start : start + 6])

    def interrupted(rows):
        batches = make(rows)
        yield next(batches)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_features(tmp_path, "real", KEY, CLIPS, interrupted, ALONE)
    assert_whole(kept_features(tmp_path, "real", KEY, CLIPS, make, ALONE))
    assert sorted(row for rows in made for row in rows) == list(range(20))
    assert_whole(kept_features(tmp_path, "real", KEY, CLIPS, lambda rows: pytest.fail("made again"), ALONE))
    kept_features(tmp_path, "real", KEY | {"seed": 1}, CLIPS, make, ALONE)
    assert len(list(tmp_path.glob("real-*.h5"))) == 2


def test_a_source_that_ends_early_is_an_error_and_no_short_set(tmp_path):
    with pytest.raises(InputError, match="a batch of 20 clips does not fit the file"):
        kept_features(tmp_path, "real", KEY, CLIPS, lambda rows: iter([batch(rows[:15])]), ALONE)
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_one_error_or_changes_nothing(tmp_path, seed):
    path = tmp_path / "a.h5"
    filled(path)
    whole, random, refused = path.read_bytes(), np.random.default_rng(seed), 0
    for place in random.integers(len(whole), size=60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            found = load_feature_set(path, KEY)
        except InputError as error:
            assert str(path) in str(error) and "remove it" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert_whole(found)  # a byte that HDF5 does not read
    assert refused


@pytest.mark.parametrize("content", [b"", b"no features", None])
def test_files_cut_short_are_refused(tmp_path, content):
    path = tmp_path / "a.h5"
    filled(path)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(InputError, match="damaged feature file"):
        load_feature_set(path)
    path.rename(tmp_path / "a.h5.partial")
    with pytest.raises(InputError, match="damaged feature file"):
        FeatureStore(path, KEY, CLIPS)


def test_a_torn_row_of_an_unfinished_file_counts_as_missing(tmp_path):
    path = tmp_path / "a.h5"
    with FeatureStore(path, KEY, CLIPS) as store:
        store.write(range(10), batch(range(10)))
    with h5py.File(tmp_path / "a.h5.partial") as file:
        offset = file["features"].id.get_offset()
    with open(tmp_path / "a.h5.partial", "r+b") as file:
        file.seek(offset + 4 * 5 * 4)  # the fifth row
        file.write(b"torn")
    with FeatureStore(path, KEY, CLIPS) as store:
        assert store.missing() == [4, *range(10, 20)]


def test_an_unfinished_file_of_other_clips_or_settings_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with FeatureStore(path, KEY, CLIPS) as store:
        store.write([0], batch([0]))
    for key, clips in ((KEY | {"seed": 1}, CLIPS), (KEY, CLIPS[::-1])):
        with pytest.raises(InputError, match="other clips or settings"):
            FeatureStore(path, key, clips)
    FeatureStore(path, KEY, CLIPS).close()


def test_two_writers_at_once_are_refused(tmp_path):
    with (
        FeatureStore(tmp_path / "a.h5", KEY, CLIPS),
        pytest.raises(InputError, match="being written by another process"),
    ):
        FeatureStore(tmp_path / "a.h5", KEY, CLIPS)
    FeatureStore(tmp_path / "a.h5", KEY, CLIPS).close()


def test_batches_that_do_not_fit_are_refused_and_leave_the_file_as_it_was(tmp_path):
    with FeatureStore(tmp_path / "a.h5", KEY, CLIPS) as store:
        store.write([0, 1], batch([0, 1]))
        for rows, wrong in (
            ([2], batch([2], probabilities=False)),
            ([2], FeatureSet(np.zeros((1, 6)), PROBABILITIES[:1], np.zeros(1))),
            ([2, 3], batch([2])),
            ([2], FeatureSet(np.full((1, 5), np.nan), PROBABILITIES[:1], np.zeros(1))),
        ):
            with pytest.raises(InputError, match=r"does not fit|not finite"):
                store.write(rows, wrong)
        assert store.missing() == list(range(2, 20))


def test_no_clips_and_absent_files_are_errors_of_one_line(tmp_path):
    with pytest.raises(InputError, match="no clips"):
        FeatureStore(tmp_path / "a.h5", KEY, [])
    with pytest.raises(InputError, match="no clips"):
        join([])
    with pytest.raises(InputError, match="no such feature file"):
        load_feature_set(tmp_path / "a.h5")
    filled(tmp_path / "a.h5")
    with pytest.raises(InputError, match="other clips or settings"):
        load_feature_set(tmp_path / "a.h5", KEY | {"seed": 1})
