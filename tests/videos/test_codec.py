import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from packaging.requirements import Requirement

from runtime.errors import InputError
from videos import read_video, write_video
from videos.codec import check_video, count_frames, frame_rate, iterate_video

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def read_with_av(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mov", ".m4v"])
def test_a_written_video_reads_back_frame_by_frame(make_video, which_frames, suffix):
    path = make_video("clip" + suffix, num_frames=30)
    assert count_frames(path) == 30
    video = read_video(path)
    assert video.shape == (30, 48, 64, 3) and video.dtype == np.uint8
    assert which_frames(video) == list(range(30))


@pytest.mark.parametrize("frames", [[5], [0, 1, 2], [29, 28], [3, 10, 17, 24], [7, 7]])
def test_the_asked_frames_come_in_the_asked_order(make_video, which_frames, frames):
    assert which_frames(read_video(make_video("clip.mp4", num_frames=30), frames)) == frames


def test_colours_survive_writing(tmp_path):
    colours = np.array([[200, 30, 40], [20, 180, 60], [40, 60, 210], [230, 230, 20]], np.uint8)
    video = np.broadcast_to(colours[:, None, None], (4, 32, 32, 3))
    write_video(tmp_path / "colours.mp4", video, 8)
    # 4:2:0 and limited range cost a few of 255 levels on flat colour; a swapped channel or matrix costs far more.
    assert np.abs(read_video(tmp_path / "colours.mp4").astype(int) - video).max() <= 6


def test_an_odd_picture_loses_no_pixel(tmp_path):
    video = np.full((3, 33, 47, 3), 90, np.uint8)
    write_video(tmp_path / "odd.mp4", video, 8)
    back = read_video(tmp_path / "odd.mp4")
    assert back.shape == (3, 34, 48, 3) and np.abs(back.astype(int) - 90).max() <= 3


@pytest.mark.parametrize("fps", [8, 25, 29.97, 0.5])
def test_the_frame_rate_is_kept(tmp_path, fps):
    write_video(tmp_path / "rate.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps)
    assert frame_rate(tmp_path / "rate.mp4") == pytest.approx(fps, rel=1e-4)  # stored in whole time-base ticks


def test_a_file_that_decord_refuses_is_read_with_av(make_video, monkeypatch, which_frames):
    path = make_video("clip.mp4", num_frames=12)
    monkeypatch.setattr("videos.codec._decord", lambda path: None)
    assert count_frames(path) == 12
    assert which_frames(read_video(path)) == list(range(12))
    assert which_frames(read_video(path, [9, 4])) == [9, 4]


def test_a_file_that_decord_gives_up_on_while_decoding_is_read_with_av(make_video, monkeypatch, which_frames):
    path = make_video("clip.mp4", num_frames=12)
    monkeypatch.setattr("videos.codec._read_with_decord", lambda reader, wanted: None)
    assert which_frames(read_video(path, [9, 4])) == [9, 4]


def cut_without_encoding(source: Path, start: int) -> Path:
    """A copy that begins at a frame: from the key frame before it, and an edit list hides those between."""
    path = source.with_name(f"from-{start}.mp4")
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        offset = int(start / 25 / stream.time_base)
        given.seek(offset, stream=stream)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
                made.mux(packet)
    return path


def numbered(path: Path, count: int, **options: str) -> Path:
    """Frames of which each tells its number, a key frame every twelve."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12", "bf": "2", "crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(count):
            frame = np.full((48, 64, 3), 4 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def shown(video: np.ndarray) -> list[int]:
    """The numbers of frames."""
    return np.round(video.reshape(len(video), -1).mean(1) / 4).astype(int).tolist()


def test_a_file_that_was_cut_without_encoding_shows_what_was_kept(tmp_path):
    """decord counts the hidden frames, and repeats the last one in their stead."""
    source = numbered(tmp_path / "whole.mp4", 60)
    assert shown(read_video(source)) == list(range(60))
    for start in (18, 30):
        path, kept = cut_without_encoding(source, start), list(range(start, 60))
        assert count_frames(path) == len(kept) and shown(read_video(path)) == kept
        assert shown(read_video(path, range(20, 28))) == kept[20:28]
        assert shown(np.stack(list(iterate_video(path)))) == kept
        check_video(path)


def edited(source: Path, first: int, count: int) -> Path:
    """A copy whose edit list shows so many frames from one on."""
    raw = bytearray(source.read_bytes())
    scales = [int.from_bytes(raw[(at := raw.index(box)) + 16 : at + 20]) for box in (b"mvhd", b"mdhd")]
    at = raw.index(b"elst")
    begin = int.from_bytes(raw[at + 16 : at + 20])
    raw[at + 12 : at + 16] = (count * scales[0] // 25).to_bytes(4)
    raw[at + 16 : at + 20] = (begin + first * scales[1] // 25).to_bytes(4)
    path = source.with_name(f"{first}-{count}.mp4")
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(("first", "count"), [(0, 36), (0, 18), (12, 24), (15, 21), (15, 9)])
def test_an_edit_list_says_what_is_shown(first, count, tmp_path):
    """Also where it begins at a later key frame, and where it ends before the frames do."""
    path, kept = edited(numbered(tmp_path / "whole.mp4", 36), first, count), list(range(first, first + count))
    assert (count_frames(path), shown(read_video(path))) == (count, kept)
    assert shown(np.stack(list(iterate_video(path)))) == kept
    check_video(path)


def test_a_truncated_file_with_an_edit_list_is_no_sound_one(tmp_path):
    path = edited(numbered(tmp_path / "whole.mp4", 36, movflags="faststart"), 15, 21)
    path.write_bytes(path.read_bytes()[:-150])
    with pytest.raises(InputError, match="truncated|damaged|cannot be decoded"):
        read_video(path)


def damaged(folder: Path, kind: str, whole: bytes) -> Path:
    content = {
        "text.avi": b"this is no video\n" * 50,
        "zero.avi": b"",
        "truncated.avi": whole[: (whole.index(b"movi") + whole.rindex(b"idx1")) // 2],
        "header.avi": whole[:300],
    }[kind]
    path = folder / kind
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("text.avi", "not a readable video"),
        ("zero.avi", "empty"),
        ("truncated.avi", "truncated, it promises 40 frames"),
        ("header.avi", "video"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(make_video, tmp_path, kind, reason):
    path = damaged(tmp_path, kind, make_video("whole.avi", num_frames=40).read_bytes())
    for read in (count_frames, read_video):
        with pytest.raises(InputError, match=reason) as refused:
            read(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_damaged_file_prints_nothing_of_its_own(make_video, tmp_path):
    whole = make_video("whole.avi", num_frames=40).read_bytes()
    paths = [damaged(tmp_path, kind, whole) for kind in ("text.avi", "zero.avi", "truncated.avi", "header.avi")]
    code = (
        "import sys\nfrom videos import read_video\n"
        "for path in sys.argv[1:]:\n try: read_video(path)\n except ValueError: pass"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_sound_file_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="no picture stream"):
        count_frames(tmp_path / "sound.mp4")


@pytest.mark.parametrize("frames", [[20], [-1], [0, 99], []])
def test_frames_that_are_not_there_are_refused(make_video, frames):
    with pytest.raises(InputError, match="it has 0…19"):
        read_video(make_video("clip.mp4"), frames)


@pytest.mark.parametrize("frames", [np.arange(20) % 5 == 0, [1.5], 3])
def test_what_is_no_list_of_frames_is_refused(make_video, frames):
    with pytest.raises(InputError, match="a list of whole numbers, got"):
        read_video(make_video("clip.mp4"), frames)


def test_without_decord_everything_is_read_with_av(make_video, monkeypatch, which_frames):
    """As on Arm and macOS, for which there are no wheels of it."""
    monkeypatch.setitem(sys.modules, "decord", None)
    path = make_video("clip.mp4")
    assert count_frames(path) == 20 and which_frames(read_video(path, [9, 4])) == [9, 4]


@pytest.mark.parametrize(
    ("system", "processor", "wanted"),
    [("linux", "x86_64", True), ("linux", "aarch64", False), ("darwin", "arm64", False), ("darwin", "x86_64", False)],
)
def test_decord_is_asked_for_where_it_has_wheels(system, processor, wanted):
    requirements = map(Requirement, tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"])
    (marker,) = (each.marker for each in requirements if each.name == "decord")
    assert marker.evaluate({"sys_platform": system, "platform_machine": processor}) is wanted


def test_frames_are_those_of_numpy_whatever_the_caller_wants_decord_to_return(make_video):
    decord, path = pytest.importorskip("decord"), make_video("clip.mp4")
    before = read_video(path)
    decord.bridge.set_bridge("torch")
    try:
        assert np.array_equal(read_video(path), before)
    finally:
        decord.bridge.reset_bridge()


@pytest.mark.parametrize(
    "name, video, fps",
    [
        ("a.mp4", np.zeros((2, 16, 16, 3), np.float32), 8),
        ("a.mp4", np.zeros((0, 16, 16, 3), np.uint8), 8),
        ("a.mp4", np.zeros((16, 16, 3), np.uint8), 8),
        ("a.mp4", np.zeros((2, 16, 16, 3), np.uint8), 0),
        ("a.mp4", np.zeros((2, 16, 16, 3), np.uint8), float("inf")),
        ("a.gif", np.zeros((2, 16, 16, 3), np.uint8), 8),
        ("nowhere/a.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, name, video, fps):
    with pytest.raises(InputError):
        write_video(tmp_path / name, video, fps)
    assert list(tmp_path.rglob("*")) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(make_video, monkeypatch):
    path = make_video("clip.mp4")
    before = path.read_bytes()

    @contextmanager
    def broken(partial, *rest):
        partial.write_bytes(b"half")
        yield lambda video: 1 / 0

    monkeypatch.setattr("videos.codec._encoder", broken)
    with pytest.raises(ZeroDivisionError):
        write_video(path, np.zeros((2, 16, 16, 3), np.uint8), 8)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.real
@pytest.mark.parametrize("pattern", ["ucf101/*/*.avi", "ucf101_mp4/*/*.mp4", "realestate10k/clips/*.mp4", "kinetics/*"])
def test_frames_from_the_middle_are_those_of_decoding_from_the_start(real_data, pattern):
    files = sorted(real_data.glob(pattern))
    if not files:
        pytest.skip(f"no {pattern} in the folder of real clips")
    for path in files[:: max(1, len(files) // 4)]:
        every = read_with_av(path)
        assert count_frames(path) == len(every)
        frames = range(len(every) // 3, min(len(every), len(every) // 3 + 17))
        difference = np.abs(read_video(path, frames).astype(int) - every[frames.start : frames.stop])
        # Each library brings its own FFmpeg, whose inverse transforms differ in a rare last bit; a wrong frame is >> 1.
        assert difference.max() <= 4 and difference.mean() < 0.01


def test_playlists_are_not_followed_to_other_files(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.mp4\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "hls.mp4"):
        with pytest.raises(InputError, match="not a readable video"):
            count_frames(tmp_path / name)


def test_a_name_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8)
    (tmp_path / "a.mp4").rename(tmp_path / "http:a.mp4")
    assert read_video("http:a.mp4").shape == (4, 32, 32, 3)


def test_pictures_of_absurd_size_are_refused(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((2, 2, 512, 3), np.uint8), 8)
    with pytest.raises(InputError, match="pictures of 512x2; at most"):
        read_video(tmp_path / "a.mp4")


def test_damage_that_players_cover_up_is_found_by_decoding_all(tmp_path):
    clip = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "a.mp4", clip, 8)
    check_video(tmp_path / "a.mp4")
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 64)
    content[middle] = bytes(byte ^ 0xFF for byte in content[middle])
    (tmp_path / "a.mp4").write_bytes(content)
    assert count_frames(tmp_path / "a.mp4") == 8
    with pytest.raises(InputError, match="damaged inside"):
        check_video(tmp_path / "a.mp4")
