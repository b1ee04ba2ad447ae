"""TAP-Vid-DAVIS: 30 videos of DAVIS with points that people have followed through them, published as one pickle."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Hashable
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from videos.clip import ClipSpec, resize_and_crop
from videos.codec import check_picture
from videos.motion import fit_points, windows_of

FILE = "tapvid_davis.pkl"
_MAX_POINTS = 100_000


class TapVidDavis:
    """Consecutive windows of every video of `tapvid_davis.pkl` below the root, as `videos.motion.MotionClips` has them.

    The pickle is read by `videos.pickled_arrays`. It holds by name "video" uint8 `[N, H, W, 3]`, "points" float
    `[P, N, 2]`, (x, y) from 0 at one edge of the picture to 1 at the other, and "occluded" bool `[P, N]`. All of it is
    in memory (2.5 GB as published). There is no split: every one gives all videos.

    Items hold "tracks" float32 `[P, 1+T, 2]`, (x, y) in pixels of the clip, and "visible" bool `[P, 1+T]`.
    """

    name = "tapvid_davis"
    num_classes = 0
    class_names: tuple[str, ...] = ()
    num_enlarged = 0
    in_windows = True

    def __init__(self, root: str | Path, split: str, clip: ClipSpec):
        from videos.pickled_arrays import read_pickled_arrays

        found = sorted(path for path in Path(root).rglob(FILE)) if Path(root).is_dir() else []
        if not found:
            raise InputError(f"{root}: {FILE} is not there; --root is the folder that holds it")
        self.path = found[0]
        self._videos = check_videos(read_pickled_arrays(self.path), self.path)
        self._use(clip)

    def _use(self, clip: ClipSpec) -> None:
        self.clip = clip
        self.skipped: list[tuple[str, str]] = []
        self._items: list[tuple[str, int, int]] = []
        for name, video in self._videos.items():
            length = len(video["video"])
            stride = clip.fitting_stride(length)
            if stride == 0:
                self.skipped.append((name, f"{length} frames, a clip needs {clip.num_frames}"))
            else:
                self._items += [(name, stride, start) for start in windows_of(length, clip, stride)]
        if not self._items:
            raise InputError(f"{self.path}: no video is long enough for {clip.num_frames} frames")

    def with_clip(self, clip: ClipSpec, *, enlarge: bool = True) -> TapVidDavis:
        """The same videos as clips of another kind."""
        other = copy.copy(self)
        other._use(clip)
        return other

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        name, stride, start = self._items[index]
        frames, video = start + stride * np.arange(self.clip.num_frames), self._videos[name]
        pictures = video["video"][frames]
        points = video["points"][:, frames] * (pictures.shape[2], pictures.shape[1]) - 0.5
        tracks, visible = fit_points(points, ~video["occluded"][:, frames], pictures.shape[1:3], self.clip.size)
        pictures = resize_and_crop(pictures, self.clip.size)
        return {
            "video": np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)),
            "label": -1,
            "name": self.name_of(index),
            "tracks": tracks,
            "visible": visible,
        }

    def item(self, index: int, seed: int) -> dict:
        """As `[index]`: the windows are fixed."""
        return self[index]

    def name_of(self, index: int) -> str:
        """The video's name, and the first frame of the window."""
        return f"{self._items[index][0]}@{self._items[index][2]}"

    def labels(self) -> list[int]:
        """-1 for every item: there are no classes."""
        return [-1] * len(self)

    def classes(self) -> list[Hashable]:
        """The video of every item."""
        return [name for name, _, _ in self._items]

    def fingerprint(self) -> str:
        """Hash of names, sizes and points."""
        digest = hashlib.sha256()
        for name, video in self._videos.items():
            digest.update(f"{name} {video['video'].shape}\n".encode() + video["points"].tobytes())
        return digest.hexdigest()[:16]


def check_videos(value: object, source: Path) -> dict[str, dict[str, np.ndarray]]:
    """The videos by name, sorted; InputError unless all are as `TapVidDavis` says."""
    if not isinstance(value, dict) or not value:
        raise InputError(f"{source}: expected videos by name, as TAP-Vid-DAVIS has them")
    videos = {}
    for name in sorted(value, key=str):
        video, where = value[name], f"{source}, video {str(name)[:60]!r}"
        wanted = {"video": ("u1", 4), "points": ("f", 3), "occluded": ("b1", 2)}
        if not isinstance(video, dict) or not wanted.keys() <= video.keys():
            raise InputError(f"{where}: expected {', '.join(wanted)}")
        for field, (kind, axes) in wanted.items():
            array = video[field]
            if not isinstance(array, np.ndarray) or array.ndim != axes or array.dtype.kind != np.dtype(kind).kind:
                raise InputError(f"{where}: {field} is no array of {axes} axes of its type")
        frames, height, width, channels = video["video"].shape
        points = video["points"]
        if channels != 3 or video["video"].dtype.itemsize != 1 or not frames:
            raise InputError(f"{where}: video is {list(video['video'].shape)}, expected uint8 [N, H, W, 3]")
        check_picture(Path(where), height, width)
        if points.shape != (*video["occluded"].shape, 2) or points.shape[1] != frames or len(points) > _MAX_POINTS:
            raise InputError(f"{where}: points are {list(points.shape)} of {frames} frames, expected [P, {frames}, 2]")
        if not np.isfinite(points).all():
            raise InputError(f"{where}: points that are not finite")
        videos[str(name)] = {field: video[field] for field in wanted}
    return videos
