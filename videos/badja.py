"""BADJA: joints of animals in videos of DAVIS, marked by hand in about every fifth frame."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from runtime.errors import InputError
from runtime.records import check_fields, parse_json
from videos.frame_folders import number_of, numbered_images
from videos.motion import MotionClips, fit_points

_LARGEST = 100_000  # pixels, joints, marked frames


class BADJA(MotionClips):
    """One JSON file a video, in the root or its folder `joint_annotations`, and the pictures that it names, below the
    root, as in `DAVIS/JPEGImages/Full-Resolution/<video>/00000.jpg`.

    A file lists the marked frames, each with "image_path", "joints" ((row, column), in pixels of these pictures, so
    those of another resolution will not do) and "visibility". Every split gives all videos. With `truth`, items hold
    "tracks" float32 `[P, 1+T, 2]`, (x, y) in pixels of the clip, and "visible" bool `[P, 1+T]`: marked, and to be seen.
    """

    name = "badja"

    def list_sources(self) -> list[Path]:
        """The JSON files."""
        below = self.root / "joint_annotations"
        return sorted(path for path in (below if below.is_dir() else self.root).glob("*.json") if path.is_file())

    def frames_of(self, source: Path) -> list[Path]:
        """The pictures of the video that a file marks."""
        return numbered_images(self._folder(read_joints(source), source))

    def _folder(self, marked: list[dict], source: Path) -> Path:
        folder = self.root / PurePosixPath(marked[0]["image_path"]).parent
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise InputError(f"{source}: image_path leads out of the data set")
        if not folder.is_dir():
            raise InputError(f"{source}: the pictures that it marks are not there: {folder}")
        return folder

    def truth_of(self, index: int, frames: np.ndarray, source: tuple[int, int]) -> dict[str, np.ndarray]:
        """Points of the marked frames; all others count as not visible."""
        path = self.sources[index]
        marked = read_joints(path)
        numbers = [number_of(file) for file in self.frames_of(path)]
        places = {numbers[frame]: place for place, frame in enumerate(frames)}
        points = np.zeros((len(marked[0]["joints"]), len(frames), 2))
        visible = np.zeros(points.shape[:2], bool)
        for one in marked:
            place = places.get(number_of(Path(one["image_path"])))
            if place is not None:
                points[:, place] = np.array(one["joints"], float)[:, ::-1]
                visible[:, place] = one["visibility"]
        tracks, seen = fit_points(points, visible, source, self.clip.size)
        return {"tracks": tracks, "visible": seen}


def read_joints(path: Path) -> list[dict]:
    """The marked frames of a file.

    Raises:
        InputError: If it is damaged, its frames differ in joints or folder, or a joint is no place in a picture.
    """
    marked = parse_json(path.read_bytes(), path)
    if not isinstance(marked, list) or not 1 <= len(marked) <= _LARGEST:
        raise InputError(f"{path}: expected a list of marked frames")
    wanted = {"image_path": str, "joints": list[list[float]], "visibility": list[bool]}
    for number, one in enumerate(marked):
        where = f"{path}, marked frame {number}"
        check_fields(one, wanted, where)
        joints = one["joints"]
        if not len(joints) == len(one["visibility"]) == len(marked[0]["joints"]) <= _LARGEST or not joints:
            raise InputError(f"{where}: {len(joints)} joints, {len(one['visibility'])} of them with visibility")
        if not all(len(joint) == 2 and all(0 <= value <= _LARGEST for value in joint) for joint in joints):
            raise InputError(f"{where}: a joint that is no row and column of a picture")
        name, first = PurePosixPath(one["image_path"]), PurePosixPath(marked[0]["image_path"])
        if "\0" in one["image_path"] or name.parent != first.parent or number_of(Path(name.name)) < 0:
            raise InputError(f"{where}: image_path {one['image_path'][:60]!r} is no frame of the same video")
    return marked
