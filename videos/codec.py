"""Read and write video files. Reading goes through decord, with PyAV where decord fails; the number of frames is checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.errors import InputError

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg")


def _decord(path: Path):
    """A decord reader of one thread (so that many files can be read side by side); InputError when it is no video."""
    import decord

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        length = len(reader)
    except (decord.DECORDError, RuntimeError, OSError) as error:
        raise InputError(f"{path}: not a readable video ({_first_line(error)})") from error
    if length == 0:
        raise InputError(f"{path}: the video has no frames")
    return reader


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][-120:] if lines else type(error).__name__


def count_frames(path: str | Path) -> int:
    """Number of frames that the container promises; InputError when the file is not a video."""
    return len(_decord(Path(path)))


def frame_rate(path: str | Path) -> float:
    """Frames a second."""
    return float(_decord(Path(path)).get_avg_fps())


def read_video(path: str | Path, frames: Sequence[int] | None = None) -> np.ndarray:
    """Decode a video: uint8 RGB `[N, H, W, 3]`.

    Args:
        path: The file.
        frames: Indices of the frames to return, in that order; None: all.

    Raises:
        InputError: If the file is absent, empty, not a video, or does not hold the frames that it promises.
    """
    path = Path(path)
    reader = _decord(path)
    length = len(reader)
    wanted = list(range(length)) if frames is None else [int(i) for i in frames]
    if wanted and not (0 <= min(wanted) and max(wanted) < length):
        raise InputError(f"{path}: frames {min(wanted)}…{max(wanted)} asked, it has 0…{length - 1}")
    import decord

    try:
        # One pass from the first wanted frame on: seeking is where wrong frames come from.
        decoded = reader.get_batch(wanted).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        decoded = _read_with_av(path, wanted, error)
    if len(decoded) != len(wanted):
        raise InputError(f"{path}: {len(wanted)} frames asked, {len(decoded)} decoded; the file is damaged")
    return np.ascontiguousarray(decoded)


def _read_with_av(path: Path, wanted: list[int], cause: Exception) -> np.ndarray:
    """Decode from the start with PyAV, which tolerates containers that decord does not."""
    import av

    keep, found = set(wanted), {}
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in keep:
                    found[index] = frame.to_ndarray(format="rgb24")
                if index >= max(keep):
                    break
    except (av.FFmpegError, IndexError, OSError) as error:
        raise InputError(f"{path}: damaged video ({_first_line(error)})") from error
    lost = [index for index in wanted if index not in found]
    if lost:
        raise InputError(f"{path}: truncated, frame {lost[0]} cannot be decoded") from cause
    return np.stack([found[index] for index in wanted])


def write_video(path: str | Path, video: np.ndarray, fps: float, crf: int = 12) -> None:
    """Write uint8 RGB `[N, H, W, 3]` as H.264 (or what the suffix asks for), replaced at once.

    Odd sizes lose no pixel: the picture is padded by its last row or column to an even size, which the codec needs.

    Args:
        crf: Constant rate factor; lower is better and larger.
    """
    import av
    from fractions import Fraction

    path, video = Path(path), np.asarray(video)
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or len(video) == 0:
        raise InputError(f"a video to write is uint8 [N, H, W, 3] with N >= 1, got {video.dtype} {list(video.shape)}")
    if not fps > 0:
        raise InputError(f"frames a second must be positive, got {fps}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"{path}: a video file ends in one of {', '.join(VIDEO_SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder to write {path.name} to")
    video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode="edge")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with av.open(str(partial), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
            stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
            for picture in video:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
