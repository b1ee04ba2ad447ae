import json

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError
from videos import ClipSpec, open_dataset
from videos.datasets import FILE_DATASETS, open_files
from videos.folders import ClipDataset

CLIP = ClipSpec(17, 32)


@pytest.mark.parametrize("name", FILE_DATASETS)
def test_every_name_opens_the_class_that_calls_itself_so(name, monkeypatch):
    opened = []
    monkeypatch.setattr(ClipDataset, "__init__", lambda self, *_, **__: opened.append(self.name))
    open_files(name, "", "all", CLIP)
    assert opened == [name]


def test_one_percent_unreadable_is_skipped_and_listed_and_more_stops(make_video, tmp_path):
    whole = make_video("000.mp4").read_bytes()
    for i in range(1, 99):
        (tmp_path / f"{i:03d}.mp4").write_bytes(whole)
    (tmp_path / "bad.avi").write_bytes(b"no video")
    dataset = open_dataset("videos", root=str(tmp_path), clip=CLIP)
    assert len(dataset) == 99
    assert [path for path, _ in dataset.skipped] == [str(tmp_path / "bad.avi")]
    (tmp_path / "worse.avi").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 of 101 files cannot be read, more than 1 %") as refused:
        open_dataset("videos", root=str(tmp_path), clip=CLIP)
    message = str(refused.value)
    assert "bad.avi" in message and "worse.avi" in message and "videos.check" in message and "\n" not in message


def test_short_videos_do_not_count_as_unreadable(make_video):
    root = make_video("long.mp4", num_frames=20).parent
    make_video("short.mp4", num_frames=5)
    dataset = open_dataset("videos", root=str(root), clip=CLIP)
    assert len(dataset) == 1 and dataset.skipped == [(str(root / "short.mp4"), "5 frames, a clip needs 17")]


def test_a_long_list_of_unreadable_files_is_cut_and_counted(make_video, tmp_path):
    make_video("good.mp4")
    for i in range(15):
        (tmp_path / f"bad{i:02d}.avi").write_bytes(b"text")
    with pytest.raises(InputError, match="15 of 16 files") as refused:
        open_dataset("videos", root=str(tmp_path), clip=CLIP)
    assert "bad09.avi" in str(refused.value) and "bad10.avi" not in str(refused.value)
    assert "and 5 more" in str(refused.value)


def test_items_are_the_windows_of_their_seed(make_video, which_frames):
    root = make_video("a.mp4", num_frames=60, height=32, width=32).parent
    dataset = open_dataset("videos", root=str(root), clip=ClipSpec(17, 32, frame_stride=2))
    for seed in range(4):
        video = dataset.item(0, seed)["video"]
        assert video.shape == (3, 17, 32, 32) and video.dtype == np.uint8
        assert which_frames(video.transpose(1, 2, 3, 0)) == dataset.clip.frame_indices(60, seed).tolist()
    assert (dataset[0]["video"] == dataset.item(0, 0)["video"]).all()


def test_an_index_past_the_end_stops_iteration(make_video):
    root = make_video("a.mp4").parent
    assert len(list(open_dataset("videos", root=str(root), clip=CLIP))) == 1


def test_hidden_files_are_not_data(make_video):
    root = make_video("a.mp4").parent
    make_video(".b.partial.mp4")
    assert len(open_dataset("videos", root=str(root), clip=CLIP)) == 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_kind_of_image_becomes_rgb_and_needs_no_clip(tmp_path, mode):
    grey = Image.new("RGB", (300, 280), (90, 90, 90)).convert(mode, palette=Image.Palette.ADAPTIVE)
    grey.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    item = open_dataset("images", root=str(tmp_path))[0]
    assert item["video"].shape == (3, 1, 256, 256) and np.abs(item["video"].astype(int) - 90).max() <= 3


def test_sixteen_bit_grey_is_rounded_to_eight_and_not_cut_off(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    read = open_dataset("images", root=str(tmp_path), clip=ClipSpec(1, 256))[0]["video"][:, 0]
    assert np.array_equal(read[0], read[1]) and np.array_equal(read[0], read[2])
    assert np.array_equal(read[0], np.round(values / 257).astype(np.uint8)) and read[0, 0, 0] == 0


def test_a_text_named_png_is_unreadable(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(InputError, match="1 of 1 files cannot be read"):
        open_dataset("images", root=str(tmp_path))


def test_a_frame_folder_changes_its_fingerprint_with_its_frames(tmp_path):
    flight = tmp_path / "flight"
    flight.mkdir()

    def save(number: int, size: int = 32) -> None:
        Image.new("RGB", (size, size), (number, 0, 0)).save(flight / f"frame{number}.png")

    def opened():
        return open_dataset("realestate10k", root=str(tmp_path), clip=ClipSpec(12, 32, window="first"))

    for number in range(12):
        save(number)
    before = opened().fingerprint()
    assert opened()[0]["video"][0, :, 0, 0].tolist() == list(range(12))  # frame10 after frame9, not after frame1
    save(12)
    assert opened().fingerprint() != before
    save(3, size=48)
    with pytest.raises(InputError, match="differ in size"):
        opened()[0]


def test_an_item_can_be_described_in_json(make_video):
    root = make_video("sub/a.mp4").parents[1]
    item = open_dataset("videos", root=str(root), clip=CLIP)[0]
    assert json.loads(json.dumps({"label": item["label"], "name": item["name"]})) == {"label": -1, "name": "sub/a.mp4"}


@pytest.mark.real
def test_real_estate_clips_are_read_at_their_16_frames(real_data):
    root = str(real_data / "realestate10k")
    dataset = open_dataset("realestate10k", root=root, clip=ClipSpec(16, (64, 96)))
    assert len(dataset) == 7 and not dataset.skipped and dataset[0]["video"].shape == (3, 16, 64, 96)
