"""Features of a set of clips in one HDF5 file, from which every number can be computed again without pixels or network.

A file belongs to one set of clips, one feature network and one hash of its weights. Contiguous datasets, one row a
clip: `features` float32 [N, d], `probabilities` float32 [N, K] (where the network classifies), `label` int32, `clip`
bytes (which clip it is), `crc32` uint32, `done` uint8; attributes `format_version` and `key`, everything that the
features depend on, as JSON.

While it is filled the file is `<path>.partial`, laid out whole and closed: HDF5 never opens it for writing again. Rows
go to their places through a memory map and only then count as done, so a kill at any moment loses at most the batch at
hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from latents_cache.heap import check_heaps, lies_within
from latents_cache.layout import DAMAGE, partial_path
from runtime.errors import InputError
from runtime.faults import reach
from runtime.files import disk_errors, sync
from runtime.records import parse_json

FORMAT_VERSION = 1
# Type and number of axes of each dataset.
_KINDS = {
    "features": ("<f4", 2),
    "probabilities": ("<f4", 2),
    "label": ("<i4", 1),
    "clip": ("S", 1),
    "crc32": ("<u4", 1),
    "done": ("u1", 1),
}
_NEEDED = _KINDS.keys() - {"probabilities"}


@dataclass(frozen=True)
class FeatureSet:
    """Features float32 `[N, d]`, class probabilities `[N, K]` (or None) and labels `[N]` of one set of clips.

    `clips` bytes `[N]` says which clip each row is of, where that is known. A set that was read knows its file and key.
    """

    features: np.ndarray
    probabilities: np.ndarray | None
    labels: np.ndarray
    clips: np.ndarray | None = None
    path: Path | None = None
    key: dict | None = None

    @property
    def is_constant(self) -> bool:
        """Whether all clips have the same features, as those of a collapsed generator."""
        return bool((self.features == self.features[:1]).all())


def join(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Batches of one set, in order; InputError without any."""
    if not parts:
        raise InputError("there are no clips to extract features of")
    probabilities = [part.probabilities for part in parts]
    return FeatureSet(
        np.concatenate([part.features for part in parts]),
        None if probabilities[0] is None else np.concatenate(probabilities),
        np.concatenate([part.labels for part in parts]),
    )


class FeatureStore:
    """Fills one feature file, or goes on filling it. A context manager that gives up the file, unfinished or not.

    The first batch that is written decides the number of features and classes.

    Args:
        path: Final name of the file; its folder is made.
        key: Everything that the features depend on (JSON values); a file to go on with must have the same.
        clips: Which clip each row is of, N words or numbers.

    Raises:
        InputError: If another process fills the file, or what is there is damaged or something else.
    """

    def __init__(self, path: str | Path, key: dict, clips: Sequence[object]):
        self.path, self.partial = Path(path), partial_path(Path(path))
        self._key = key_text(key)
        self._clips = np.array([str(clip).encode() for clip in clips], dtype="S")
        if not len(self._clips):
            raise InputError(f"{self.path}: there are no clips to extract features of")
        self._rows: dict[str, np.memmap] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")
        self._lock = open(self._lock_path, "a")  # noqa: SIM115 - held as long as the store is open
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"{self.partial} is being written by another process; wait for it") from error
            if self.partial.exists():
                self._map_rows()
        except BaseException:
            self._lock.close()
            raise

    def missing(self) -> list[int]:
        """Rows that are not there yet, in order; a row whose checksum is wrong is not there."""
        if not self._rows:
            return list(range(len(self._clips)))
        return np.flatnonzero((self._rows["done"] == 0) | (_checksums(self._rows) != self._rows["crc32"])).tolist()

    def write(self, rows: Sequence[int], batch: FeatureSet) -> None:
        """Store a batch; it survives a kill from then on.

        Args:
            rows: Which of 0 … N - 1 they are.
            batch: As many features, labels and (in every batch or in none) probabilities.

        Raises:
            InputError: If features are not finite, or shapes differ from those before.
        """
        features = np.asarray(batch.features, dtype=np.float32)
        if not np.isfinite(features).all():
            raise InputError("some clips have features that are not finite")
        values = {"features": features, "label": np.asarray(batch.labels)}
        if batch.probabilities is not None:
            values["probabilities"] = np.asarray(batch.probabilities, dtype=np.float32)
        if not self._rows:
            self._lay_out({name: value.shape[1:] for name, value in values.items()})
            self._map_rows()
        names = self._rows.keys() - {"clip", "crc32", "done"}
        shapes = {name: (len(rows), *self._rows[name].shape[1:]) for name in names}
        if shapes != {name: value.shape for name, value in values.items()}:
            found = {name: list(value.shape) for name, value in values.items()}
            raise InputError(f"{self.partial}: a batch of {len(rows)} clips does not fit the file: {found}")
        rows = np.asarray(rows)
        self._rows["done"][rows] = 0
        for name, value in values.items():
            self._rows[name][rows] = value
        self._rows["crc32"][rows] = _checksums({name: value[rows] for name, value in self._rows.items()})
        for name in (*values, "crc32"):
            self._rows[name].flush()
        reach("features.batch")
        self._rows["done"][rows] = 1
        self._rows["done"].flush()

    def finish(self) -> FeatureSet:
        """Give the file its name, and return what is in it; InputError when rows are missing."""
        missing = self.missing()
        if missing:
            raise InputError(
                f"{self.partial}: {len(missing)} of {len(self._clips)} clips are missing, the first is {missing[0]}"
            )
        self._rows.clear()
        reach("features.written")
        os.replace(self.partial, self.path)
        sync(self.path.parent)
        reach("features.renamed")
        self._lock_path.unlink(missing_ok=True)
        self.close()
        return load_feature_set(self.path)

    def close(self) -> None:
        """Give up the file; what was written stays for the next time."""
        self._rows.clear()
        self._lock.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _lay_out(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Write the file with zeros in it under a name that nobody looks for, then rename it to `.partial`.

        Raises:
            OSError: When the disk is full or broken.
        """
        count = len(self._clips)
        draft = self.path.with_name(f".{self.path.name}.new")
        # In memory: of a full disk HDF5 complains at length, also long after it was told.
        with h5py.File(draft, "w", libver="earliest", driver="core", backing_store=False) as file:
            file.attrs["format_version"], file.attrs["key"] = FORMAT_VERSION, self._key
            for name, shape in shapes.items():
                file.create_dataset(name, data=np.zeros((count, *shape), _KINDS[name][0]))
            file.create_dataset("clip", data=self._clips)
            file.create_dataset("crc32", data=np.zeros(count, "<u4"))
            file.create_dataset("done", data=np.zeros(count, "u1"))
            file.flush()
            image = file.id.get_file_image()
        try:
            with disk_errors(self.path):
                reach("features.begin")
                draft.write_bytes(image)
                sync(draft)
                os.replace(draft, self.partial)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def _map_rows(self) -> None:
        """Map the datasets of the partial file; refuse one of other settings."""
        try:
            with h5py.File(self.partial, "r") as file:
                datasets = _datasets(file, self.partial)
                same = file.attrs["key"] == self._key and np.array_equal(file["clip"][:], self._clips)
                places = {name: (rows.dtype, rows.shape, rows.id.get_offset()) for name, rows in datasets.items()}
            self._rows = {
                name: np.memmap(self.partial, dtype, "r+", offset, shape)
                for name, (dtype, shape, offset) in places.items()
            }
        except InputError as error:
            raise InputError(f"{error}; remove it") from error
        except DAMAGE as error:
            raise InputError(f"{self.partial}: damaged feature file ({error}); remove it") from error
        if not same:
            self._rows.clear()
            raise InputError(f"{self.partial} was begun with other clips or settings; remove it")


def _datasets(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """The datasets by name, each of its type, one row a clip, in one piece of the file; InputError otherwise."""
    check_heaps(file, path)
    found = {name: file.get(name) for name in file}
    damaged = sorted(_NEEDED - found.keys()) + [name for name in found if name not in _KINDS]
    for name, rows in found.items():
        if name in damaged:
            continue
        kind, ndim = _KINDS[name]
        fits = isinstance(rows, h5py.Dataset) and rows.ndim == ndim and rows.shape[0] == found["clip"].shape[0]
        if not (fits and (rows.dtype.kind == "S" if kind == "S" else rows.dtype == kind) and lies_within(rows, path)):
            damaged.append(name)
    if damaged:
        raise InputError(f"{path}: damaged feature file ({damaged[0]})")
    return found


def load_feature_set(path: str | Path, key: dict | None = None) -> FeatureSet:
    """Read a finished feature file, every checksum compared.

    Args:
        path: Of the file.
        key: What its features must depend on; None takes any.

    Raises:
        InputError: If the file is absent, damaged, or of another key.
    """
    try:
        with h5py.File(path, "r") as file:
            datasets = _datasets(file, path)
            version, found = int(file.attrs["format_version"]), str(file.attrs["key"])
            rows = {name: values[:] for name, values in datasets.items()}
        whole = version == FORMAT_VERSION and rows["done"].all() and (_checksums(rows) == rows["crc32"]).all()
        features, labels, clips = rows["features"], rows["label"], rows["clip"]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such feature file") from error
    except InputError as error:
        raise InputError(f"{error}; remove it, and it is made again") from error
    except DAMAGE as error:
        raise InputError(f"{path}: damaged feature file ({error}); remove it, and it is made again") from error
    if not whole:
        raise InputError(f"{path}: damaged feature file (checksum); remove it, and it is made again")
    if not np.isfinite(features).all():
        raise InputError(f"{path}: damaged feature file (values that are not finite); remove it, and it is made again")
    if key is not None and found != key_text(key):
        raise InputError(f"{path}: it holds features of other clips or settings; remove it")
    about = parse_json(found, path)
    if not isinstance(about, dict):
        raise InputError(f"{path}: damaged feature file (key); remove it, and it is made again")
    return FeatureSet(features, rows.get("probabilities"), labels, clips, Path(path), about)


def key_text(key: dict) -> str:
    """A key as the text that is stored and compared."""
    return json.dumps(key, sort_keys=True, default=str)


def _checksums(rows: dict[str, np.ndarray]) -> np.ndarray:
    """CRC-32 of every row: features, probabilities if there are any, label, clip; uint32 `[N]`."""
    columns = [np.ascontiguousarray(rows[n]) for n in ("features", "probabilities", "label", "clip") if n in rows]
    sums = np.zeros(len(columns[0]), dtype="<u4")
    for row in range(len(sums)):
        checksum = 0
        for column in columns:
            checksum = zlib.crc32(column[row].tobytes(), checksum)
        sums[row] = checksum
    return sums
