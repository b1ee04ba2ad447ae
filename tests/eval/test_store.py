"""Kept features: they grow clip by clip, survive a kill at any moment, and are never read when damaged."""

import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from eval.features.store import FeatureSet, FeatureStore, Segment, join, key_text, load_feature_set
from runtime.errors import InputError

KEY = {"features": "shapes", "weights": "abc", "subject": "real"}
CLIPS = [f"clip {i}" for i in range(20)]
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((20, 5)).astype(np.float32)
PROBABILITIES = RANDOM.dirichlet(np.ones(3), 20).astype(np.float32)


def batch(rows, probabilities: bool = True) -> FeatureSet:
    rows = list(rows)
    return FeatureSet(FEATURES[rows], PROBABILITIES[rows] if probabilities else None, np.array(rows) % 3)


def fill(store: FeatureStore, rows) -> None:
    """One segment of the named ones of `CLIPS`."""
    with store.segment([CLIPS[row] for row in rows]) as segment:
        segment.write(range(len(rows)), batch(rows))
        segment.finish()


def assert_rows(found: FeatureSet, rows=range(20)) -> None:
    rows = list(rows)
    assert np.array_equal(found.features, FEATURES[rows]) and found.features.dtype == np.float32
    assert np.array_equal(found.probabilities, PROBABILITIES[rows])
    assert found.labels.tolist() == [row % 3 for row in rows] and found.labels.dtype == np.int32
    assert found.clips.tolist() == [CLIPS[row].encode() for row in rows] and found.key.items() >= KEY.items()


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return FeatureStore(tmp_path, "real", KEY)


def names(store: FeatureStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


# -- growing -----------------------------------------------------------------------------------------------------------


def test_what_is_written_in_any_order_is_gathered_and_nothing_else_is_left(store, tmp_path):
    assert store.missing(CLIPS) == list(range(20)) and not list(tmp_path.iterdir())
    with store.segment(CLIPS) as segment:
        assert segment.missing() == list(range(20))
        segment.write([19, 3, 7], batch([19, 3, 7]))
        rest = segment.missing()
        assert rest == [i for i in range(20) if i not in (3, 7, 19)]
        segment.write(rest, batch(rest))
        segment.finish()
    assert_rows(store.gather(CLIPS))
    segment_file, set_file = names(store)
    assert segment_file.startswith("segment-") and segment_file.endswith(".h5") and set_file.startswith("set-")


def test_only_clips_that_no_segment_holds_are_missing(store, tmp_path):
    fill(store, range(10))
    assert store.missing(CLIPS) == list(range(10, 20))
    fill(store, store.missing(CLIPS))
    assert store.missing(CLIPS) == [] and store.missing(CLIPS[5:15]) == [] and store.missing(["other"]) == [0]
    order = [12, 3, 19, 0, 9, 10]
    for reader in (store, FeatureStore(tmp_path, "real", KEY)):
        assert_rows(reader.gather([CLIPS[row] for row in order]), order)
    assert FeatureStore(tmp_path, "real", KEY | {"seed": 1}).missing(CLIPS) == list(range(20))


def test_a_store_sees_what_another_one_finished_meanwhile(store, tmp_path):
    fill(store, range(10))
    assert store.missing(CLIPS) == list(range(10, 20))
    fill(FeatureStore(tmp_path, "real", KEY), range(10, 20))
    assert store.missing(CLIPS) == []
    assert_rows(store.gather(CLIPS))


def test_of_a_clip_that_is_there_twice_the_first_segment_counts(store):
    fill(store, range(10))
    twice = [CLIPS[3], "more"]
    with store.segment(twice) as segment:
        segment.write([0, 1], FeatureSet(np.zeros((2, 5)), PROBABILITIES[:2], np.zeros(2)))
        segment.finish()
    first = sorted(store.folder.glob("segment-*.h5"))[0]
    expected = FEATURES[3] if len(load_feature_set(first).clips) == 10 else np.zeros(5)
    assert np.array_equal(store.gather([CLIPS[3]]).features[0], expected)


def test_a_set_file_gathers_the_same_again_wherever_its_folder_goes(store, tmp_path):
    fill(store, range(20))
    found = store.gather(CLIPS[4:9])
    assert found.path.parent == store.folder and found.path.name.startswith("set-")
    assert json.loads(found.path.read_text()) == {"key": KEY, "clips": CLIPS[4:9]}
    assert_rows(load_feature_set(found.path), range(4, 9))
    written = found.path.stat().st_mtime_ns
    assert store.gather(CLIPS[4:9]).path.stat().st_mtime_ns == written
    store.folder.rename(tmp_path / "elsewhere")
    assert_rows(load_feature_set(tmp_path / "elsewhere" / found.path.name), range(4, 9))


def test_clips_that_are_not_there_are_counted_and_named(store):
    fill(store, range(10))
    with pytest.raises(InputError, match="features of 2 of 3 clips are missing, the first is 'clip 12'"):
        store.gather([CLIPS[1], CLIPS[12], CLIPS[11]])
    assert not list(store.folder.glob("set-*"))
    path = store.gather(CLIPS[:5]).path
    next(store.folder.glob("segment-*")).unlink()
    with pytest.raises(InputError, match="features of 5 of 5 clips are missing") as refused:
        load_feature_set(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_names_of_any_bytes_and_keys_of_any_order_are_kept_apart(tmp_path):
    clips = ["é/ü.avi", "broken \udcff \ud800.avi", "a\nb"]
    store = FeatureStore(tmp_path, "real", {"b": {10: 1, 9: (2, 3)}, "a": None})
    with store.segment(clips) as segment:
        segment.write(range(3), batch(range(3)))
        segment.finish()
    found = load_feature_set(store.gather(clips[::-1]).path)
    assert [clip.decode("utf-8", "surrogatepass") for clip in found.clips] == clips[::-1]
    assert found.key == {"a": None, "b": {"10": 1, "9": [2, 3]}}
    assert FeatureStore(tmp_path, "real", found.key).missing(clips) == []


def test_h5py_alone_can_read_a_segment(store):
    fill(store, range(20))
    (path,) = store.folder.iterdir()
    with h5py.File(path) as file:
        kinds = {name: (file[name].dtype.str, file[name].shape) for name in file}
        assert all(file[name].chunks is None for name in file)
        assert '"weights": "abc"' in file.attrs["key"] and file["done"][:].all()
        assert np.array_equal(file["features"][:], FEATURES)
    assert kinds == {
        "features": ("<f4", (20, 5)),
        "probabilities": ("<f4", (20, 3)),
        "label": ("<i4", (20,)),
        "clip": ("|S7", (20,)),
        "crc32": ("<u4", (20,)),
        "done": ("|u1", (20,)),
    }
    assert_rows(load_feature_set(path))


def test_networks_without_classes_have_no_probabilities(store):
    with store.segment(CLIPS) as segment:
        segment.write(range(20), batch(range(20), probabilities=False))
        segment.finish()
    assert store.gather(CLIPS).probabilities is None


def earlier_file(path: Path) -> None:
    """A file as earlier versions wrote one for each set."""
    labels, clips = (np.arange(20) % 3).astype("<i4"), np.array([clip.encode() for clip in CLIPS])
    rows = zip(FEATURES, PROBABILITIES, labels, CLIPS, strict=True)
    sums = [zlib.crc32(f.tobytes() + p.tobytes() + label.tobytes() + clip.encode()) for f, p, label, clip in rows]
    with h5py.File(path, "w", libver="earliest") as file:
        file.attrs["format_version"], file.attrs["key"] = 1, key_text(KEY)
        for name, values in (("features", FEATURES), ("probabilities", PROBABILITIES), ("label", labels)):
            file[name] = values
        file["clip"], file["crc32"], file["done"] = clips, np.array(sums, "<u4"), np.ones(20, "u1")


def test_files_of_earlier_versions_are_read(tmp_path):
    earlier_file(tmp_path / "reference-0123.h5")
    found = load_feature_set(tmp_path / "reference-0123.h5")
    assert_rows(found)
    assert found.path == tmp_path / "reference-0123.h5" and found.key["network"] == "shapes"


# -- kills, and others at work -----------------------------------------------------------------------------------------

KILLED = """
import sys
import numpy as np
from eval.features.store import FeatureSet, FeatureStore
sys.path.append("tests/survival")
import crashes
crashes.install()
data, clips = np.load(sys.argv[2]), {clips!r}
store = FeatureStore(sys.argv[1], "real", {key!r})
store_clips = [clips[row] for row in store.missing(clips)]
with store.segment(store_clips) as segment:
    missing = segment.missing()
    for start in range(0, len(missing), 4):
        rows = np.array(missing[start : start + 4])
        segment.write(rows, FeatureSet(data["features"][rows], data["probabilities"][rows], rows % 3))
        print(len(rows), flush=True)
    segment.finish()
store.gather(clips)
"""
# Fault point, how many rows are there when it kills, and whether the segment is whole by then.
MOMENTS = [
    ("features.begin", 0, False),
    ("features.batch:1", 0, False),
    ("features.batch:3", 8, False),
    ("features.written:1", 20, False),
    ("features.renamed:1", 20, True),
    ("features.begin:2", 20, True),
    ("features.written:2", 20, True),
    ("features.renamed:2", 20, True),
]


def run_killed(root: Path, data: Path, fault: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", KILLED.format(key=KEY, clips=CLIPS), str(root), str(data)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PVVAE_FAULT": fault},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("point", "rows", "whole"), MOMENTS)
def test_a_kill_loses_the_batch_at_hand_alone_and_the_bytes_are_the_same(store, tmp_path, point, rows, whole):
    data = tmp_path / "data.npz"
    np.savez(data, features=FEATURES, probabilities=PROBABILITIES)
    killed = run_killed(tmp_path, data, point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (store.missing(CLIPS) == []) is whole
    if not whole:
        with store.segment(CLIPS) as segment:
            rest = segment.missing()
            assert rest == list(range(rows, 20))
            if rest:
                segment.write(rest, batch(rest))
            segment.finish()
    assert_rows(store.gather(CLIPS))
    at_once = FeatureStore(tmp_path / "at-once", "real", KEY)
    fill(at_once, range(20))
    at_once.gather(CLIPS)
    visible = [name for name in names(store) if not name.startswith(".")]
    assert visible == names(at_once)
    assert all((store.folder / name).read_bytes() == (at_once.folder / name).read_bytes() for name in visible)


def test_two_that_fill_the_same_clips_are_refused_and_others_are_not(store, tmp_path):
    other = FeatureStore(tmp_path, "real", KEY)
    with store.segment(CLIPS[:10]) as segment:
        with pytest.raises(InputError, match="being written by another process"):
            other.segment(CLIPS[:10])
        fill(other, range(10, 20))
        segment.write(range(10), batch(range(10)))
        segment.finish()
    with pytest.raises(InputError, match="exists already"):
        other.segment(CLIPS[:10])
    assert_rows(other.gather(CLIPS))


def test_a_torn_row_of_an_unfinished_segment_is_made_again(store):
    with store.segment(CLIPS) as segment:
        segment.write(range(10), batch(range(10)))
    with h5py.File(segment.partial) as file:
        offset = file["features"].id.get_offset()
    with open(segment.partial, "r+b") as file:
        file.seek(offset + 4 * 5 * 4)  # the fifth row
        file.write(b"torn")
    with store.segment(CLIPS) as segment:
        assert segment.missing() == [4, *range(10, 20)]
        segment.write(range(20), batch(range(20)))
        segment.finish()
    assert_rows(store.gather(CLIPS))


def test_clips_that_cannot_be_had_are_left_out_and_stay_missing(store):
    with store.segment(CLIPS) as segment:
        segment.write(range(10), batch(range(10)))
        segment.leave_out(12)
    with store.segment(CLIPS) as segment:
        rest = segment.missing()
        assert rest == [10, 11, *range(13, 20)]
        segment.write(rest, batch(rest))
        segment.leave_out(12)
        segment.finish()
    assert store.missing(CLIPS) == [12]
    others = [row for row in range(20) if row != 12]
    assert_rows(store.gather([CLIPS[row] for row in others]), others)
    with pytest.raises(InputError, match="features of 1 of 20 clips are missing, the first is 'clip 12'"):
        store.gather(CLIPS)


def test_rows_that_are_there_stay_as_they_are(store):
    with store.segment(CLIPS) as segment:
        segment.write(range(10), batch(range(10)))
        segment.write(range(5, 20), FeatureSet(np.ones((15, 5)), PROBABILITIES[5:], np.zeros(15)))
        segment.finish()
    found = store.gather(CLIPS).features
    assert np.array_equal(found[:10], FEATURES[:10]) and (found[10:] == 1).all()


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_bit_is_one_error_or_changes_nothing(store, tmp_path, seed, earlier):
    if earlier:
        path = tmp_path / "a.h5"
        earlier_file(path)
    else:
        fill(store, range(20))
        (path,) = store.folder.iterdir()
    whole, random, refused = path.read_bytes(), np.random.default_rng(seed), 0
    for place in random.integers(len(whole), size=80):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            reader = FeatureStore(tmp_path, "real", KEY)
            found = load_feature_set(path) if earlier else reader.gather(CLIPS)
            assert_rows(found)  # a byte that HDF5 does not read
        except InputError as error:
            words = str(error)
            assert str(path.parent) in words and "\n" not in words
            # A clip's name may be what is damaged: then that clip is missing.
            assert "remove it" in words or "1 of 20 clips are missing" in words
            refused += 1
    assert refused


@pytest.mark.parametrize("content", [b"", b"no features", None])
def test_files_cut_short_are_refused(store, content):
    fill(store, range(20))
    (path,) = store.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    for use in (lambda: load_feature_set(path), lambda: FeatureStore(store.folder.parent, "real", KEY).missing(CLIPS)):
        with pytest.raises(InputError, match="damaged feature file") as refused:
            use()
        assert str(path) in str(refused.value) and "remove it" in str(refused.value)
    path.rename(path.with_name(path.name + ".partial"))
    with pytest.raises(InputError, match="is no file to go on with .*; remove it"):
        store.segment(CLIPS)
    assert store.missing(CLIPS) == list(range(20))


def test_a_damaged_segment_is_made_again_once_it_is_removed(store):
    fill(store, range(20))
    store.gather(CLIPS)
    (path,) = store.folder.glob("segment-*")
    with h5py.File(path, "r+") as file:
        file["features"][3, 0] += 1
    with pytest.raises(InputError, match=r"damaged feature file \(checksum\); remove it, and it is made again"):
        store.gather(CLIPS)
    assert_rows(store.gather(CLIPS[4:]), range(4, 20))
    path.unlink()
    assert store.missing(CLIPS) == list(range(20))
    fill(store, range(20))
    assert_rows(store.gather(CLIPS))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"key":{}}', '{"key":{},"clips":[1]}', "\xff\xfe", "[" * 100_000, '{"key":1,"clips":[]}']
)
def test_a_damaged_set_file_is_refused_and_mended_by_the_next_gathering(store, text):
    fill(store, range(20))
    path = store.gather(CLIPS).path
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="remove it, and it is made again") as refused:
        load_feature_set(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert_rows(load_feature_set(store.gather(CLIPS).path))


def test_a_segment_of_other_settings_or_sizes_is_refused(store, tmp_path):
    fill(store, range(10))
    other = FeatureStore(tmp_path, "real", KEY | {"seed": 1})
    fill(other, range(10, 20))
    (path,) = other.folder.iterdir()
    path.rename(store.folder / path.name)
    with pytest.raises(InputError, match=f"{path.name}: features of other settings; remove it"):
        store.missing(CLIPS)
    (store.folder / path.name).unlink()
    with store.segment(CLIPS[10:]) as segment:
        segment.write(range(10), batch(range(10, 20), probabilities=False))
        segment.finish()
    with pytest.raises(InputError, match="other sizes than those of others"):
        store.gather(CLIPS)
    assert_rows(store.gather(CLIPS[:10]), range(10))


def test_an_unfinished_segment_of_another_key_is_refused(store):
    with store.segment(CLIPS) as segment:
        segment.write([0], batch([0]))
    with pytest.raises(InputError, match=r"begun with other settings \(key: was .*remove it"):
        Segment(segment.path, KEY | {"seed": 1}, CLIPS)
    with store.segment(CLIPS) as segment:
        assert segment.missing() == list(range(1, 20))


def test_rows_of_other_clips_under_the_same_name_are_made_again(store):
    with store.segment(CLIPS) as segment:
        segment.write(range(20), batch(range(20)))
    others = [CLIPS[1], CLIPS[0], *CLIPS[2:]]
    with Segment(segment.path, KEY, others) as segment:
        assert segment.missing() == [0, 1]
        segment.write([0, 1], batch([1, 0]))
        segment.finish()
    assert_rows(store.gather(CLIPS))


def test_batches_that_do_not_fit_are_refused_and_leave_the_file_as_it_was(store):
    with store.segment(CLIPS) as segment:
        for wrong in (FeatureSet(np.zeros(2), None, np.zeros(2)), FeatureSet(np.zeros((2, 1, 5)), None, np.zeros(2))):
            with pytest.raises(InputError, match="does not fit"):
                segment.write([0, 1], wrong)
        assert not segment.partial.exists()
        segment.write([0, 1], batch([0, 1]))
        for rows, wrong in (
            ([2], batch([2], probabilities=False)),
            ([2], FeatureSet(np.zeros((1, 6)), PROBABILITIES[:1], np.zeros(1))),
            ([2, 3], batch([2])),
            ([-1], batch([2])),
            ([2], FeatureSet(np.full((1, 5), np.nan), PROBABILITIES[:1], np.zeros(1))),
        ):
            with pytest.raises(InputError, match=r"does not fit|not finite|outside 0…19"):
                segment.write(rows, wrong)
        assert segment.missing() == list(range(2, 20))
        with pytest.raises(InputError, match="18 of 20 rows are missing, the first is 2"):
            segment.finish()


def test_no_clips_and_absent_files_are_errors_of_one_line(store, tmp_path):
    for clips in ([], ["a", "b", "a"]):
        with pytest.raises(InputError, match="no clips to extract features of, or some are there twice"):
            store.segment(clips)
    for use in (store.gather, join):
        with pytest.raises(InputError, match="no clips"):
            use([])
    for name in ("a.h5", "set-0.json"):
        with pytest.raises(InputError, match="no such feature file"):
            load_feature_set(tmp_path / name)
    assert not list(tmp_path.iterdir())
