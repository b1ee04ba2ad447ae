"""Kinetics-400 in the layouts that public copies have."""

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from videos import ClipSpec, open_dataset
from videos.kinetics400 import read_lists, video_id

CLIP = ClipSpec(17, 32, window="first")
HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


def opened(root, split="all", **more):
    return open_dataset("kinetics400", root=str(root), split=split, clip=ClipSpec(17, 32, window="first", **more))


@pytest.fixture
def folders(make_video, tmp_path) -> Path:
    """Three classes; one of them has no validation clip."""
    for name in (
        "val/yoga/-a_b-cdEFGhi_000001_000011.mp4",
        "val/air drumming/abcdefghijk_000010_000020.mp4",
        "train/zumba/bbbbbbbbbbb_000000_000010.mp4",
        "train/yoga/ccccccccccc_000000_000010.mp4",
    ):
        make_video(f"k400/{name}")
    return tmp_path / "k400"


def test_folders_of_classes_are_labelled_in_sorted_order_whatever_the_split(folders):
    held_out = opened(folders, "test")
    assert held_out.class_names == ("air drumming", "yoga", "zumba") and held_out.num_classes == 3
    items = [held_out[i] for i in range(len(held_out))]
    assert [(item["name"], item["label"]) for item in items] == [
        ("val/air drumming/abcdefghijk_000010_000020.mp4", 0),
        ("val/yoga/-a_b-cdEFGhi_000001_000011.mp4", 1),
    ]
    assert opened(folders, "train").labels() == [1, 2] and sorted(opened(folders).labels()) == [0, 1, 1, 2]


def test_a_clip_is_the_first_seventeen_frames_resized_by_the_short_side_and_cropped(make_video, which_frames):
    path = make_video("k400/val/yoga/aaaaaaaaaaa_000000_000010.mp4", num_frames=40, height=48, width=96)
    video = opened(path.parents[2], "test")[0]["video"]
    assert video.shape == (3, 17, 32, 32) and video.dtype == np.uint8
    assert which_frames(video.transpose(1, 2, 3, 0)) == list(range(17))


@pytest.mark.parametrize("place", ["k400/annotations/val.csv", "k400/validate.csv", "annotations/kinetics_val.csv"])
def test_flat_folders_take_their_classes_from_the_list(make_video, tmp_path, place):
    for name in ("-a_b-cdEFGhi_000001_000011", "abcdefghijk_000010_000020", "unlisted_video"):
        make_video(f"k400/val/{name}.mp4")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(
        HEADER
        + "yoga,-a_b-cdEFGhi,1,11,validate,0\nair drumming,abcdefghijk,10,20,validate,0\n"
        + "zumba,notdownload,0,10,validate,0\n"
    )
    dataset = opened(tmp_path / "k400", "test")
    assert dataset.class_names == ("air drumming", "yoga", "zumba")
    assert dict(zip((s.stem for s in dataset.sources), dataset.labels(), strict=True)) == {
        "-a_b-cdEFGhi_000001_000011": 1,
        "abcdefghijk_000010_000020": 0,
        "unlisted_video": -1,
    }


def test_without_folders_of_splits_the_list_divides(make_video, tmp_path):
    for name in ("aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"):
        make_video(f"k400/{name}_000000_000010.mp4")
    root = tmp_path / "k400"
    test, train = (set(opened(root, split).sources) for split in ("test", "train"))
    assert (len(test), len(train), len(test & train)) == (1, 2, 0) and opened(root).labels() == [-1] * 3
    (root / "k400.csv").write_text(HEADER + "yoga,aaaaaaaaaaa,0,10,train,0\nyoga,bbbbbbbbbbb,0,10,validate,0\n")
    assert [s.stem[:3] for s in opened(root, "test").sources] == ["bbb"]
    assert [s.stem[:3] for s in opened(root, "train").sources] == ["aaa"]
    assert opened(root).labels() == [0, 0, -1]


def test_the_validation_folder_alone_may_be_the_root(folders):
    dataset = opened(folders / "val", "test")
    assert dataset.labels() == [0, 1] and dataset.class_names == ("air drumming", "yoga")


def test_a_split_that_is_not_there_is_an_error_and_not_the_other_one(make_video):
    root = make_video("k400/train/yoga/aaaaaaaaaaa_000000_000010.mp4").parents[2]
    with pytest.raises(InputError, match=r"nothing of data set 'kinetics400' found there \(split 'test'\)"):
        opened(root, "test")


def test_damaged_and_short_videos_are_skipped_with_a_reason(make_video, tmp_path):
    whole = make_video("k400/val/yoga/000.mp4").read_bytes()
    for i in range(1, 99):
        (tmp_path / f"k400/val/yoga/{i:03d}.mp4").write_bytes(whole)
    make_video("k400/val/yoga/short.mp4", num_frames=5)
    (tmp_path / "k400/val/yoga/bad.mp4").write_bytes(b"no video")
    dataset = opened(tmp_path / "k400", "test")
    assert len(dataset) == 99
    reasons = {Path(path).name: reason for path, reason in dataset.skipped}
    assert reasons["short.mp4"] == "5 frames, a clip needs 17" and "not a readable video" in reasons["bad.mp4"]


@pytest.mark.parametrize(
    "content, words",
    [(b"\xff\xfe\x00", "not a readable list"), (b"label,youtube_id\nyoga\n", "line 2: a row without label")],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, content, words):
    (tmp_path / "val.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_lists(tmp_path)


def test_tables_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    assert read_lists(tmp_path) == {}


@pytest.mark.parametrize(
    "name, found",
    [("-a_b-cdEFGhi_000001_000011.mp4", "-a_b-cdEFGhi"), ("abcdefghijk.mp4", "abcdefghijk"), ("a_1_2.mkv", "a_1_2")],
)
def test_the_id_is_what_stands_before_the_seconds(name, found):
    assert video_id(Path(name)) == found
