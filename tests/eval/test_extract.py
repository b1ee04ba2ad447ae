"""One pass over clips: every network sees what it has not seen, each clip is read once, and what is made is kept."""

from __future__ import annotations

import os
import pickle
import signal

import numpy as np
import pytest
import torch

from eval.extract import BATCH, Batch, View, extract, read_items, seen_by
from eval.features.store import FeatureSet, FeatureStore, load_feature_set
from runtime.errors import InputError
from runtime.processes import World, start_processes
from runtime.stopping import Stopped, listening
from videos.unreadable import UnreadableClip, UnreadableFiles

CPU = torch.device("cpu")


class Clips:
    """Numbered clips of noise; some cannot be decoded. Notes which were read."""

    def __init__(self, count: int = 80, damaged: tuple[int, ...] = ()):
        self.videos = np.random.default_rng(0).integers(0, 255, (count, 3, 5, 8, 8), dtype=np.uint8)
        self.damaged, self.read = damaged, []

    def __len__(self):
        return len(self.videos)

    def item(self, index, seed):
        self.read.append(index)
        if index in self.damaged:
            raise UnreadableClip(f"clip-{index}", "no picture in it")
        return {"video": self.videos[index], "label": index % 3, "name": str(index)}


class Means:
    """Stands for a network: the mean colour of each clip, and two classes."""

    name, version_hash = "means", "1"

    def __init__(self):
        self.sizes = []

    def to(self, device):
        return self

    def features(self, video):
        self.sizes.append(len(video))
        return video.mean((2, 3, 4))

    def classify(self, features):
        return features[:, :2].softmax(1)


def view(folder, name="a", network=None, **more) -> View:
    return View(store=FeatureStore(folder, name, {"name": name}), see=seen_by(network or Means(), CPU), **more)


def run(views, clips: Clips, count: int | None = None, **more):
    items = range(count or len(clips))
    names = [f"clip-{item}" for item in items]
    return extract(views, names, read_items(clips, items, 0), world=start_processes("cpu"), label="clips", **more)


def expected(clips: Clips) -> np.ndarray:
    return (clips.videos.astype(np.float32) / 127.5 - 1).mean((2, 3, 4))


def test_every_view_sees_every_clip_and_each_is_read_once(tmp_path):
    clips, first, second = Clips(), Means(), Means()

    def dark(video):
        return video // 2

    views = {
        "plain": view(tmp_path, "plain", first),
        "dark": view(tmp_path, "dark", second, change=dark),
        "darker": view(tmp_path, "darker", change=lambda video: video // 4, count=10),
    }
    found = run(views, clips)
    assert sorted(clips.read) == list(range(80)) and first.sizes == second.sizes == [32, 32, 16]
    np.testing.assert_allclose(found["plain"].features, expected(clips), atol=1e-5)
    assert found["plain"].labels.tolist() == [item % 3 for item in range(80)]
    np.testing.assert_allclose(found["plain"].probabilities.sum(1), 1, atol=1e-6)
    assert found["dark"].features.mean() < found["plain"].features.mean()
    assert len(found["darker"].features) == 10
    assert found["plain"].clips[3] == b"clip-3" and found["plain"].path.is_file()


def test_a_change_is_made_once_for_all_views_that_share_it(tmp_path):
    made = []

    def change(video):
        made.append(len(video))
        return video

    run({name: view(tmp_path, name, change=change) for name in "abc"}, Clips(20))
    assert made == [20]


def test_more_clips_cost_only_those_that_are_new_and_fewer_cost_nothing(tmp_path):
    clips = Clips()
    half = run({"": view(tmp_path)}, clips, 40)[""]
    clips.read.clear()
    network = Means()
    whole = run({"": view(tmp_path, network=network)}, clips)[""]
    # The block in which they begin is made whole.
    assert sorted(clips.read) == list(range(32, 80)) and network.sizes == [32, 16]
    np.testing.assert_array_equal(whole.features[:40], half.features)
    clips.read.clear()
    again = run({"": view(tmp_path)}, clips, 12)[""]
    assert clips.read == [] and np.array_equal(again.features, whole.features[:12])


def test_a_view_that_comes_later_reads_for_itself_alone(tmp_path):
    clips, old = Clips(), Means()
    run({"old": view(tmp_path, "old")}, clips)
    found = run({"old": view(tmp_path, "old", old), "new": view(tmp_path, "new")}, clips)
    assert old.sizes == [] and len(clips.read) == 160 and len(found["new"].features) == 80


def test_a_stop_loses_at_most_a_block_and_the_rest_is_the_same_bytes(tmp_path):
    clips = Clips(96)
    whole = run({"": view(tmp_path / "whole")}, clips)[""]

    class Stopping(Means):
        def features(self, video):
            if len(self.sizes) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().features(video)

    with listening(), pytest.raises(Stopped):
        run({"": view(tmp_path / "cut", network=Stopping())}, clips)
    network = Means()
    found = run({"": view(tmp_path / "cut", network=network)}, clips)[""]
    assert network.sizes == [32] and np.array_equal(found.features, whole.features)
    segments = [next((tmp_path / name).glob("*/segment-*.h5")).read_bytes() for name in ("whole", "cut")]
    assert segments[0] == segments[1]


def test_a_clip_that_cannot_be_decoded_is_left_out_recorded_and_tried_again(tmp_path, capsys):
    clips, record = Clips(200, damaged=(5, 40)), UnreadableFiles(tmp_path / "unreadable.jsonl", 200)
    found = run({"a": view(tmp_path, "a"), "b": view(tmp_path, "b")}, clips, unreadable=record)
    kept = [f"clip-{item}".encode() for item in range(200) if item not in (5, 40)]
    assert found["a"].clips.tolist() == found["b"].clips.tolist() == kept
    assert "no picture in it" in (tmp_path / "unreadable.jsonl").read_text()
    good = [item for item in range(200) if item not in (5, 40)]
    np.testing.assert_allclose(found["a"].features, expected(clips)[good], atol=1e-5)
    clips.damaged = ()
    assert len(run({"a": view(tmp_path, "a")}, clips, unreadable=record)["a"].features) == 200


def test_a_clip_that_stays_damaged_costs_a_look_and_no_run(tmp_path):
    clips, record = Clips(200, damaged=(5,)), UnreadableFiles(tmp_path / "unreadable.jsonl", 200)
    first = run({"": view(tmp_path)}, clips, unreadable=record)[""]
    clips.read.clear()
    for _ in range(2):
        again = run({"": view(tmp_path)}, clips, unreadable=record)[""]
        assert np.array_equal(again.features, first.features) and again.path == first.path
    assert sorted(clips.read) == sorted(2 * list(range(32)))  # the block that it is in
    assert not list(tmp_path.rglob("*.partial"))


def test_what_was_left_out_before_a_kill_is_left_out_after_it(tmp_path):
    clips, record = Clips(200, damaged=(5,)), UnreadableFiles(tmp_path / "unreadable.jsonl", 200)

    class Stopping(Means):
        def features(self, video):
            if len(self.sizes) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().features(video)

    with listening(), pytest.raises(Stopped):
        run({"": view(tmp_path, network=Stopping())}, clips, unreadable=record)
    found = run({"": view(tmp_path)}, clips, unreadable=record)[""]
    assert len(found.features) == 199 and b"clip-5" not in found.clips.tolist()


def test_a_block_of_nothing_but_damaged_clips_ends_nothing(tmp_path):
    record = UnreadableFiles(tmp_path / "unreadable.jsonl", 1000)
    found = run({"": view(tmp_path)}, Clips(33, damaged=(32,)), unreadable=record)[""]
    assert len(found.features) == 32


def test_an_undecodable_clip_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableClip("a/b.mp4", "no picture in it")))
    assert (error.path, error.reason, str(error)) == ("a/b.mp4", "no picture in it", "a/b.mp4: no picture in it")


def test_features_that_another_process_makes_are_waited_for(tmp_path, monkeypatch, capsys):
    clips, network = Clips(40), Means()
    other = view(tmp_path).store.segment([f"clip-{item}" for item in range(40)])

    def make(seconds: float) -> None:
        features = torch.from_numpy(expected(clips)).float()
        rows = FeatureSet(features.numpy(), Means().classify(features).numpy(), np.arange(40) % 3)
        other.write(range(40), rows)
        other.finish()

    monkeypatch.setattr("eval.extract.time.sleep", make)
    found = run({"": view(tmp_path, network=network)}, clips)[""]
    assert network.sizes == [] and clips.read == [] and len(found.features) == 40
    assert capsys.readouterr().err.count("waiting for another process") == 1


def test_no_process_waits_for_another_as_long_as_features_take(tmp_path, monkeypatch):
    """Between two looks the processes meet, so that none of their waits is a long one."""
    clips, looks, met = Clips(40), [], []
    other = view(tmp_path).store.segment([f"clip-{item}" for item in range(40)])
    monkeypatch.setattr(World, "any", lambda self, flag: met.append(flag) or bool(flag))

    def sleep(seconds):
        looks.append(len(met))
        if len(looks) == 3:
            other.close()

    monkeypatch.setattr("eval.extract.time.sleep", sleep)
    assert len(run({"": view(tmp_path)}, clips)[""].features) == 40
    assert looks == [1, 2, 3]


def test_a_wait_for_features_can_be_stopped(tmp_path, monkeypatch):
    with view(tmp_path).store.segment([f"clip-{item}" for item in range(40)]):
        monkeypatch.setattr("eval.extract.time.sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
        with listening(), pytest.raises(Stopped):
            run({"": view(tmp_path)}, Clips(40))


def test_too_many_of_them_end_it(tmp_path):
    record = UnreadableFiles(tmp_path / "unreadable.jsonl", 80)
    with pytest.raises(InputError, match="more than 1 %"):
        run({"": view(tmp_path)}, Clips(80, damaged=(3, 4)), unreadable=record)


def test_features_that_are_not_finite_are_refused(tmp_path):
    class Broken(Means):
        def features(self, video):
            return super().features(video) * float("nan")

    with pytest.raises(InputError, match="not finite"):
        run({"": view(tmp_path, network=Broken())}, Clips(4))


def test_what_is_kept_says_which_clips_it_is_of(tmp_path):
    def read(blocks, progress):
        for block in blocks:
            yield Batch(torch.zeros(len(block), 3, 5, 8, 8, dtype=torch.uint8), np.arange(len(block)), {})

    names = [f"{place}-clip" for place in range(BATCH + 1)]
    found = extract({"": view(tmp_path)}, names, read, world=start_processes("cpu"), label="")[""]
    again = load_feature_set(found.path)
    assert [clip.decode() for clip in again.clips] == names and again.key == {"name": "a"}
