"""Read and write video files: decord reads, PyAV reads what decord refuses, and the number of frames is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.files import replacing

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg")
H264_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".avi")
# Containers that hold their own pictures. FFmpeg also knows playlists, which make it open other files and addresses.
_FORMATS = "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ogg,flv,asf"
_DAMAGE = (OSError, ValueError, RuntimeError, LookupError, OverflowError, MemoryError)  # PyAV's own are among them
MAX_PIXELS, MAX_ASPECT = 2**26, 64  # of a picture: 8K film has half of that
MAX_BYTES = 16 * 2**30  # of decoded frames in memory at a time
MAX_FRAME_RATE = 1000.0


def count_frames(path: str | Path) -> int:
    """Number of frames in the file, at least 1, without decoding them.

    Raises:
        InputError: If the file is absent, empty, not a video, or ends before the frames that its header promises.
    """
    return _open(Path(path))[1]


def probe_video(path: str | Path) -> tuple[int, int, int]:
    """Frames, height and width of a file, without decoding it; errors as of `count_frames`."""
    return _open(Path(path))[1:]


def frame_rate(path: str | Path) -> float:
    """Frames a second, on average; InputError when the file is not a video."""
    path = Path(path)
    with _open_with_av(path) as container:
        rate = container.streams.video[0].average_rate
    if not rate or not 0 < rate <= MAX_FRAME_RATE:
        raise InputError(f"{path}: the file states no usable frame rate ({rate})")
    return float(rate)


def check_video(path: str | Path) -> None:
    """Decode every frame; InputError also on damage that decoding normally covers up."""
    import av

    path = Path(path)
    length = count_frames(path)
    try:
        with _open_with_av(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}
            decoded = sum(not frame.is_corrupt for frame in container.decode(stream))
    except (av.FFmpegError, *_DAMAGE) as error:
        raise InputError(f"{path}: damaged inside ({_reason(error)})") from error
    if decoded < length:
        raise InputError(f"{path}: damaged inside, {decoded} of {length} frames can be decoded")


def read_video(path: str | Path, frames: Sequence[int] | None = None) -> np.ndarray:
    """Decode a video: uint8 RGB `[N, H, W, 3]`.

    Args:
        path: The file.
        frames: Indices of the frames to return, in that order; None: all.

    Raises:
        InputError: If the file is absent, empty, not a video, or does not hold the frames that it promises.
    """
    path = Path(path)
    reader, length, height, width = _open(path)
    wanted = list(range(length)) if frames is None else _indices(path, frames)
    if not wanted:
        raise InputError(f"{path}: no frames asked, it has 0…{length - 1}")
    if not (min(wanted) >= 0 and max(wanted) < length):
        raise InputError(f"{path}: frames {min(wanted)}…{max(wanted)} asked, it has 0…{length - 1}")
    if 3 * height * width * len(wanted) > MAX_BYTES:
        raise InputError(
            f"{path}: {len(wanted)} frames of {width}x{height} pixels do not fit into memory; cut the video"
        )
    decoded = None if reader is None else _read_with_decord(reader, wanted)
    if decoded is None:
        decoded = _read_with_av(path, wanted)
    if len(decoded) != len(wanted):
        raise InputError(f"{path}: {len(wanted)} frames asked, {len(decoded)} decoded; the file is damaged")
    return np.ascontiguousarray(decoded)


def _indices(path: Path, frames: Sequence[int]) -> list[int]:
    found = np.asarray(frames)
    if found.size and (found.ndim != 1 or found.dtype.kind not in "iu"):  # a mask would pass for frames 0 and 1
        raise InputError(f"{path}: frames are a list of whole numbers, got {found.dtype} {list(found.shape)}")
    return found.tolist()


def _open(path: Path) -> tuple[object | None, int, int, int]:
    """A decord reader (None where PyAV has to read), the number of frames, which is held against the header, and their
    height and width.

    What was cut without encoding it anew holds frames that an edit list says not to show: from a key frame to the cut,
    and after the end. decord counts those too, and repeats another one in their stead; PyAV leaves them out.
    """
    # PyAV looks first: decord prints to stderr about what is no video, and cannot be told not to.
    with _reading(path) as container:
        stream = container.streams.video[0]
        promised, height, width = stream.frames, stream.height, stream.width  # 0 frames: the container does not say
        # The index of a mov or mp4 file is that of its header; others have one of what was read.
        entries = list(stream.index_entries) if promised and "mov" in container.format.name else []
    check_picture(path, height, width)
    reader = None if any(entry.is_discard for entry in entries) else _decord(path)
    held, length = _count_with_av(path) if reader is None else (len(reader), len(reader))
    promised = len(entries) or promised
    if length == 0:
        raise InputError(f"{path}: the video has no frames")
    if held < promised:
        raise InputError(f"{path}: truncated, it promises {promised} frames and holds {held}")
    return reader, length, height, width


def check_picture(path: Path, height: int, width: int) -> None:
    """Refuse pictures that no camera takes and that would fill the memory once they are resized."""
    if not (0 < height * width <= MAX_PIXELS and max(height, width) <= MAX_ASPECT * min(height, width)):
        raise InputError(
            f"{path}: pictures of {width}x{height}; at most {MAX_PIXELS} pixels and 1:{MAX_ASPECT} are read"
        )


def _decord(path: Path):
    """A decord reader; None where there is no decord (it has no wheels for Arm and macOS), or when it refuses the file
    (it does so for sound fragmented mp4 files, too).

    One thread a reader, so that many files can be read side by side.
    """
    try:
        import decord
    except ImportError:
        return None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(str(path.absolute()), num_threads=1)
    except (decord.DECORDError, RuntimeError, OSError):
        return None


def _read_with_decord(reader, wanted: list[int]) -> np.ndarray | None:
    """The frames in one pass (seeking between them is where wrong frames come from); None when decord gives up."""
    import decord

    try:
        frames = reader.get_batch(wanted)  # of the kind that the caller's decord.bridge.set_bridge asks for
        return frames.asnumpy() if hasattr(frames, "asnumpy") else frames.numpy()
    except (decord.DECORDError, RuntimeError, IndexError):
        return None


def _open_with_av(path: Path):
    """A PyAV container with at least one video stream."""
    import av

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        # "file:", since FFmpeg takes a name such as "http:a.mp4" for an address.
        container = av.open(f"file:{path}", options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    except (av.FFmpegError, *_DAMAGE) as error:
        raise InputError(f"{path}: not a readable video ({_reason(error)})") from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        what = "unknown codec" if container.streams.video else "no picture stream"
        container.close()
        raise InputError(f"{path}: not a readable video ({what})")
    return container


@contextmanager
def _reading(path: Path) -> Iterator:
    """A PyAV container to read from; what goes wrong with the file in the with-block is an InputError that names it."""
    import av

    try:
        with _open_with_av(path) as container:
            yield container
    except InputError:
        raise
    except (av.FFmpegError, *_DAMAGE) as error:
        raise InputError(f"{path}: damaged video ({_reason(error)})") from error


def _count_with_av(path: Path) -> tuple[int, int]:
    """Frames that a file holds, and those of them that are shown."""
    with _reading(path) as container:
        shown = [not packet.is_discard for packet in container.demux(video=0) if packet.size > 0]
    return len(shown), sum(shown)


def iterate_video(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video one after the other, uint8 RGB `[H, W, 3]`, for files that are too long for the memory.

    Raises:
        InputError: As `read_video`, for damage when it is reached.
    """
    path = Path(path)
    length, shape = count_frames(path), None
    found = 0
    with _reading(path) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="rgb24")
            if picture.shape != (shape or picture.shape):
                raise InputError(f"{path}: its frames differ in size")
            shape, found = picture.shape, found + 1
            yield picture
    if found < length:
        raise InputError(f"{path}: truncated or damaged, frame {found} cannot be decoded")


def _read_with_av(path: Path, wanted: list[int]) -> np.ndarray:
    """Decode from the start; slower than decord, but right for what decord refuses."""
    keep, last, found = set(wanted), max(wanted), {}
    with _reading(path) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in keep:
                found[index] = frame.to_ndarray(format="rgb24")
            if index >= last:
                break
    lost = sorted(keep - found.keys())
    if lost:
        raise InputError(f"{path}: truncated or damaged, frame {lost[0]} cannot be decoded")
    if len({picture.shape for picture in found.values()}) > 1:
        raise InputError(f"{path}: its frames differ in size")
    return np.stack([found[index] for index in wanted])


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def write_video(path: str | Path, video: np.ndarray, fps: float, crf: int = 12) -> None:
    """Write a video as H.264, yuv420p; the file gets its name once it is whole.

    The codec needs even sizes: an odd picture is padded by repeating its last row or column, so that no pixel is lost.

    Args:
        path: Ends in one of `H264_SUFFIXES`; its folder exists.
        video: uint8 RGB `[N, H, W, 3]`, N >= 1.
        fps: Frames a second.
        crf: Constant rate factor; lower is better and larger.

    Raises:
        InputError: If an argument is none of the above.
    """
    with video_writer(path, fps, crf) as write:
        write(video)


@contextmanager
def video_writer(path: str | Path, fps: float, crf: int = 12) -> Iterator[Callable[[np.ndarray], None]]:
    """`write_video` for frames that come in parts: gives a function that takes `[N, H, W, 3]`, of one size.

    The file gets its name when the with-block ends well.
    """
    path = Path(path)
    if not 0 < fps <= MAX_FRAME_RATE:
        raise InputError(f"frames a second must be positive and at most {MAX_FRAME_RATE:g}, got {fps}")
    if path.suffix.lower() not in H264_SUFFIXES:
        raise InputError(f"{path}: a video to write ends in one of {', '.join(H264_SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder to write {path.name} to")
    rate = Fraction(fps).limit_denominator(1001)
    with replacing(path, "video") as partial, _encoder(partial, rate, crf) as write:
        yield write


@contextmanager
def _encoder(path: Path, rate: Fraction, crf: int) -> Iterator[Callable[[np.ndarray], None]]:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.pix_fmt = "yuv420p"
        begun = False

        def write(video: np.ndarray) -> None:
            nonlocal begun
            video = np.asarray(video)
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
                found = f"{video.dtype} {list(video.shape)}"
                raise InputError(f"a video to write is uint8 [N, H, W, 3] with N >= 1, got {found}")
            video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode="edge")
            if not begun:
                stream.height, stream.width = video.shape[1:3]
                begun = True
            for picture in video:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

        yield write
        container.mux(stream.encode())
