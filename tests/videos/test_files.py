"""Codecs and data sets of files: what is read is what was written, and nothing bad is replaced in silence."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError
from videos import ClipSpec, open_dataset, read_video, write_video
from videos.check import CheckConfig, check
from videos.codec import count_frames, frame_rate
from videos.ucf101 import CLASSES, class_of, group_of

REAL = Path(os.environ.get("PVVAE_TEST_DATA", "nowhere"))
real = [pytest.mark.real, pytest.mark.skipif(not REAL.is_dir(), reason="PVVAE_TEST_DATA names no folder of real clips")]


def moving_ramp(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A smooth picture that gets brighter, uint8 `[N, H, W, 3]`."""
    ramp = np.linspace(40, 120, width)[None, None, :, None] + np.zeros((frames, height, 1, 3))
    return (ramp + 4 * np.arange(frames)[:, None, None, None]).astype(np.uint8)


def folder_of(tmp_path, lengths: dict[str, int]) -> Path:
    for name, frames in lengths.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_ramp(frames), 8)
    return tmp_path


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47)])
def test_a_written_video_reads_back_close_to_what_was_written(tmp_path, height, width):
    video = moving_ramp(9, height, width)
    write_video(tmp_path / "a.mp4", video, 12.5)
    back = read_video(tmp_path / "a.mp4")
    assert back.dtype == np.uint8 and back.shape == (9, height + height % 2, width + width % 2, 3)
    assert np.abs(back[:, :height, :width].astype(int) - video).mean() < 2
    assert count_frames(tmp_path / "a.mp4") == 9 and frame_rate(tmp_path / "a.mp4") == pytest.approx(12.5)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_frames_come_in_the_order_asked(tmp_path):
    write_video(tmp_path / "a.mp4", moving_ramp(20), 8)
    whole = read_video(tmp_path / "a.mp4")
    assert np.array_equal(read_video(tmp_path / "a.mp4", [3, 9, 19]), whole[[3, 9, 19]])
    with pytest.raises(InputError, match="it has 0…19"):
        read_video(tmp_path / "a.mp4", [20])


def test_bad_files_are_refused_in_one_line(tmp_path):
    write_video(tmp_path / "good.mp4", moving_ramp(30), 8)
    whole = (tmp_path / "good.mp4").read_bytes()
    for name, content in {
        "empty.avi": b"",
        "text.avi": b"not a video\n" * 50,
        "cut.mp4": whole[: len(whole) // 2],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as error:
            read_video(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        read_video(tmp_path / "absent.mp4")


@pytest.mark.parametrize(
    ("video", "fps", "name", "message"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), 8, "a.mp4", "uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), 8, "a.mp4", "N >= 1"),
        (np.zeros((3, 8, 8, 3), np.uint8), 0, "a.mp4", "positive"),
        (np.zeros((3, 8, 8, 3), np.uint8), 8, "a.txt", "ends in one of"),
        (np.zeros((3, 8, 8, 3), np.uint8), 8, "no/a.mp4", "no such folder"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, video, fps, name, message):
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / name, video, fps)
    assert os.listdir(tmp_path) == []


def test_short_videos_are_skipped_and_listed_and_strides_shrink_to_fit(tmp_path):
    root = folder_of(tmp_path, {"a.mp4": 60, "b.mp4": 20, "c.mp4": 9})
    dataset = open_dataset("videos", root=str(root), clip=ClipSpec(17, 32, frame_stride=3))
    assert [source.name for source in dataset.sources] == ["a.mp4", "b.mp4"] and dataset.strides == [3, 1]
    assert [Path(path).name for path, _ in dataset.skipped] == ["c.mp4"] and "9 frames" in dataset.skipped[0][1]
    item = dataset[0]
    assert item["video"].shape == (3, 17, 32, 32) and item["label"] == -1 and item["name"] == "a.mp4"


def test_random_windows_follow_their_seed_and_first_is_first(tmp_path):
    root = folder_of(tmp_path, {"a.mp4": 60})
    dataset = open_dataset("videos", root=str(root), clip=ClipSpec(5, 32))
    windows = {dataset.item(0, seed)["video"].tobytes() for seed in range(12)}
    assert len(windows) > 6 and dataset.item(0, 3)["video"].tobytes() == dataset.item(0, 3)["video"].tobytes()
    first = open_dataset("videos", root=str(root), clip=ClipSpec(5, 32, window="first"))
    assert first.item(0, 1)["video"].tobytes() == first.item(0, 2)["video"].tobytes()


def test_unreadable_files_stop_the_work_with_the_list_and_check_shows_them_all(tmp_path, capsys):
    root = folder_of(tmp_path, {"a.mp4": 20, "b.mp4": 20})
    (root / "bad.avi").write_text("text")
    with pytest.raises(InputError, match="1 of 3 files cannot be read"):
        open_dataset("videos", root=str(root), clip=ClipSpec(17, 32))
    check(CheckConfig(data="videos", root=str(root)))
    output = capsys.readouterr().out
    assert "2 usable items, 1 skipped" in output and "bad.avi" in output


def test_the_fingerprint_follows_paths_and_sizes(tmp_path):
    root = folder_of(tmp_path, {"a.mp4": 20})
    before = open_dataset("videos", root=str(root), clip=ClipSpec(17, 32)).fingerprint()
    assert before == open_dataset("videos", root=str(root), clip=ClipSpec(17, 32)).fingerprint()
    folder_of(tmp_path, {"b.mp4": 20})
    assert open_dataset("videos", root=str(root), clip=ClipSpec(17, 32)).fingerprint() != before


def test_ucf101_has_official_labels_in_class_folders_and_flat(tmp_path):
    assert len(CLASSES) == 101 and list(CLASSES) == sorted(CLASSES, key=str.lower)
    root = folder_of(
        tmp_path, {"Archery/v_Archery_g01_c01.avi": 20, "Surfing/v_Surfing_g09_c02.avi": 20, "v_YoYo_g25_c01.avi": 20}
    )
    dataset = open_dataset("ucf101", root=str(root), clip=ClipSpec(17, 32))
    assert dataset.labels() == [2, 87, 100] and dataset.num_classes == 101
    assert [s.name for s in open_dataset("ucf101", root=str(root), split="test", clip=ClipSpec(17, 32)).sources] == [
        "v_Archery_g01_c01.avi"
    ]
    assert len(open_dataset("ucf101", root=str(root), split="train", clip=ClipSpec(17, 32))) == 2
    assert (
        class_of(Path("HandStandPushups/v_HandStandPushups_g01_c01.avi")) == 36 and group_of(Path("other.avi")) is None
    )


def test_ucf101_follows_official_lists_where_they_are(tmp_path):
    root = folder_of(tmp_path / "UCF-101", {"Archery/v_Archery_g01_c01.avi": 20, "Archery/v_Archery_g02_c01.avi": 20})
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 3\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g02_c01.avi\n")
    dataset = open_dataset("ucf101", root=str(root), split="train", clip=ClipSpec(17, 32))
    assert [source.name for source in dataset.sources] == ["v_Archery_g01_c01.avi"]


def test_a_folder_that_is_not_ucf101_is_refused(tmp_path):
    root = folder_of(tmp_path, {"holiday.mp4": 20})
    with pytest.raises(InputError, match="neither its folder nor its name"):
        open_dataset("ucf101", root=str(root))


def test_realestate10k_reads_clips_and_frame_folders_in_time_order(tmp_path):
    root = folder_of(tmp_path, {"clip.mp4": 20})
    (root / "flight").mkdir()
    for stamp in range(18):
        Image.new("RGB", (40, 40), (10 * stamp, 0, 0)).save(root / "flight" / f"{stamp * 1000}.png")
    dataset = open_dataset("realestate10k", root=str(root), clip=ClipSpec(17, 32, window="first"))
    assert [source.name for source in dataset.sources] == ["clip.mp4", "flight"] and dataset.num_classes == 0
    assert dataset[1]["video"][0, :, 0, 0].tolist() == [10 * stamp for stamp in range(17)]


def test_images_are_clips_of_one_frame(tmp_path):
    Image.new("RGB", (60, 40), (1, 2, 3)).save(tmp_path / "a.png")
    dataset = open_dataset("images", root=str(tmp_path), clip=ClipSpec(1, 32))
    assert dataset[0]["video"].shape == (3, 1, 32, 32) and dataset[0]["video"][:, 0, 5, 5].tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="1 frame"):
        open_dataset("images", root=str(tmp_path), clip=ClipSpec(17, 32))


def test_folders_train_and_test_are_the_splits(tmp_path):
    root = folder_of(tmp_path, {"train/a.mp4": 20, "test/b.mp4": 20})
    assert [s.name for s in open_dataset("videos", root=str(root), split="test", clip=ClipSpec(17, 32)).sources] == [
        "b.mp4"
    ]
    assert len(open_dataset("videos", root=str(root), clip=ClipSpec(17, 32))) == 2


def test_links_that_lead_out_of_the_folder_are_left_out(tmp_path):
    outside = folder_of(tmp_path / "outside", {"secret.mp4": 20})
    root = folder_of(tmp_path / "root", {"a.mp4": 20})
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    assert len(open_dataset("videos", root=str(root), clip=ClipSpec(17, 32))) == 1


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("ucf1O1", "x", "did you mean ucf101"),
        ("ucf101", None, "needs --root"),
        ("videos", "/no/such", "no such folder"),
    ],
)
def test_unknown_data_sets_and_folders_are_refused(name, root, message):
    with pytest.raises(InputError, match=message):
        open_dataset(name, root=root)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing of data set"):
        open_dataset("videos", root=str(tmp_path))


class TestReal:
    """Original clips, where a folder of them is named."""

    pytestmark = real

    def test_ucf101_originals_read_with_official_labels(self):
        dataset = open_dataset("ucf101", root=str(REAL / "ucf101"), clip=ClipSpec(17, 64, frame_stride=3))
        assert len(dataset) > 100 and not dataset.skipped
        item = dataset[0]
        assert (
            item["video"].shape == (3, 17, 64, 64)
            and CLASSES[item["label"]] in item["name"]
            and item["video"].std() > 5
        )

    def test_official_lists_divide_the_small_clips(self):
        train, test = (
            open_dataset("ucf101", root=str(REAL / "ucf101_96"), split=s, clip=ClipSpec(17, 32))
            for s in ("train", "test")
        )
        assert len(train) > 400 and not set(train.sources) & set(test.sources)

    def test_realestate10k_clips_of_16_frames_are_too_short_for_17_and_fit_13(self):
        with pytest.raises(InputError, match="no file is long enough"):
            open_dataset("realestate10k", root=str(REAL / "realestate10k" / "clips"), clip=ClipSpec(17, 64))
        dataset = open_dataset("realestate10k", root=str(REAL / "realestate10k" / "clips"), clip=ClipSpec(13, 64))
        assert len(dataset) == 7 and dataset[0]["video"].shape == (3, 13, 64, 64)

    def test_sequential_decoding_agrees_with_a_second_decoder(self):
        import av

        path = sorted((REAL / "ucf101").rglob("*.avi"))[0]
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        ours = read_video(path, [0, 7, 16])
        # The two libraries convert YUV to RGB with slightly different rounding.
        assert np.abs(ours.astype(int) - np.stack([frames[i] for i in (0, 7, 16)])).mean() < 3
