"""Files are opened once, whoever asks; nothing that was kept is believed unless it fits."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError
from videos import ClipSpec, folders, images, open_dataset, write_video
from videos.listing import ListedFile, read_listing, write_listing

CLIP = ClipSpec(5, 32)


@pytest.fixture
def probed(tmp_path, monkeypatch):
    """A folder of three videos, a cache of its own, and the names of the files that were opened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    for number in range(3):
        write_video(tmp_path / "data" / f"{number}.mp4", np.zeros((6, 32, 48, 3), np.uint8), 8)
    opened = []
    genuine = folders.probe_video
    monkeypatch.setattr(folders, "probe_video", lambda path: (opened.append(path.name), genuine(path))[1])
    return opened


def open_all(tmp_path, split: str = "all", size: int = 32):
    return open_dataset("videos", root=str(tmp_path / "data"), split=split, clip=ClipSpec(5, size))


def kept(tmp_path):
    (path,) = (tmp_path / "cache" / "pvvae" / "probes").glob("*.json")
    return path


def test_a_file_is_opened_once_for_all_splits_sizes_and_runs_until_it_changes(probed, tmp_path):
    dataset = open_all(tmp_path)
    assert sorted(probed) == ["0.mp4", "1.mp4", "2.mp4"]
    assert dataset.files[0] == ListedFile("0.mp4", (tmp_path / "data" / "0.mp4").stat().st_size, 6, 32, 48)
    for split in ("all", "train", "test"):
        assert open_all(tmp_path, split, size=16)[0]["video"].shape == (3, 5, 16, 16)
    assert dataset.with_clip(ClipSpec(2, 16)).lengths == [6, 6, 6] and len(probed) == 3
    write_video(tmp_path / "data" / "1.mp4", np.zeros((7, 32, 48, 3), np.uint8), 8)
    assert open_all(tmp_path).lengths == [6, 7, 6] and probed[3:] == ["1.mp4"]
    os.utime(tmp_path / "data" / "2.mp4")
    open_all(tmp_path)
    assert probed[4:] == ["2.mp4"]


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"format": 1}',
        '{"format": 1, "files": []}',
        '{"format": 2, "files": {"0.mp4": [1, 2, 3, 4, 5]}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_of_what_was_found_is_made_anew(probed, tmp_path, text):
    open_all(tmp_path)
    whole = kept(tmp_path).read_text()
    kept(tmp_path).write_text(text)
    assert open_all(tmp_path).lengths == [6, 6, 6] and len(probed) == 6
    assert json.loads(kept(tmp_path).read_text()) == json.loads(whole)


@pytest.mark.parametrize("values", [[1, 2], "text", None, [1, 2, 3, 4, "5"], [1, 2, True, 4, 5], [1, 2, 0, 4, 5]])
def test_a_damaged_entry_is_not_believed(probed, tmp_path, values):
    open_all(tmp_path)
    found = json.loads(kept(tmp_path).read_text())
    if isinstance(values, list) and len(values) == 5:
        values = [*found["files"]["0.mp4"][:2], *values[2:]]
    found["files"]["0.mp4"] = values
    kept(tmp_path).write_text(json.dumps(found))
    assert open_all(tmp_path).lengths == [6, 6, 6] and probed[3:] == ["0.mp4"]


def test_what_cannot_be_read_is_looked_at_again(probed, tmp_path):
    for number in range(3, 110):
        (tmp_path / "data" / f"{number}.mp4").write_bytes((tmp_path / "data" / "0.mp4").read_bytes())
    bad = tmp_path / "data" / "bad.mp4"
    bad.write_text("text")
    assert len(open_all(tmp_path).skipped) == 1
    del probed[:]
    assert len(open_all(tmp_path).skipped) == 1 and probed == ["bad.mp4"]


def test_a_home_that_cannot_be_written_to_costs_time_alone(probed, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("videos.listing.replacing", refuse)
    assert len(open_all(tmp_path)) == 3 and len(open_all(tmp_path)) == 3 and len(probed) == 6


def test_a_cache_folder_that_is_a_file_costs_time_alone(probed, tmp_path):
    (tmp_path / "cache").write_text("")
    assert len(open_all(tmp_path)) == 3 and len(open_all(tmp_path)) == 3 and len(probed) == 6


COUNT_OPENED = """
import sys
from videos import ClipSpec, folders, open_dataset
genuine, opened = folders.probe_video, []
folders.probe_video = lambda path: (opened.append(path), genuine(path))[1]
open_dataset("videos", root=sys.argv[1], clip=ClipSpec(5, 32))
print(len(opened))
"""


def test_processes_that_begin_together_open_each_file_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    for number in range(20):
        write_video(tmp_path / "data" / f"{number}.mp4", np.zeros((6, 32, 48, 3), np.uint8), 8)
    words = [sys.executable, "-c", COUNT_OPENED, str(tmp_path / "data")]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = [int(process.communicate()[0]) for process in processes]
    assert sum(counts) == 20 and sorted(counts) == [0, 0, 20]


def test_images_and_frame_folders_are_opened_once_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "flight").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 30)).save(tmp_path / "flight" / f"{number}.png")
    opened = []
    genuine = images.open_image
    monkeypatch.setattr(images, "open_image", lambda path: (opened.append(path.name), genuine(path))[1])
    for _ in range(2):
        assert len(open_dataset("images", root=str(tmp_path), clip=ClipSpec(1, 32))) == 6
        flights = open_dataset("realestate10k", root=str(tmp_path), clip=CLIP)
        assert flights.files[0][2:] == (6, 30, 40)
    assert len(opened) == 7


def test_a_listing_reads_back_and_odd_names_survive(tmp_path):
    listing = {"video": [ListedFile("a/\udcff.mp4", 5, 6, 7, 8)], "images": []}
    write_listing(tmp_path / "files.json", listing)
    assert read_listing(tmp_path / "files.json") == listing and read_listing(tmp_path / "none.json") == {}
    (tmp_path / "files.json").write_text('{"video": [["a", 5, 6, 7]]}')
    with pytest.raises(InputError, match="damaged"):
        read_listing(tmp_path / "files.json")
