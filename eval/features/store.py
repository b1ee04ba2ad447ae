"""Kept features, from which every number can be computed again without pixels or network.

A `FeatureStore` is a folder for one network on one kind of picture, which grows as clips are asked for: segments, each
a finished row file of the clips that were missing then, and sets, each a small JSON file that names clips in an order.
Datasets of a segment, one row a clip: `features` float32 [N, d], `probabilities` float32 [N, K] (where the network
classifies), `label` int32, `clip` bytes (which clip it is), `crc32` uint32, `done` uint8; attributes `format_version`
and `key`, everything that the features depend on, as JSON. Earlier versions kept each set in one such file.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from latents_cache.row_file import DAMAGE, RowFile, Types, header
from runtime.errors import InputError
from runtime.files import replacing
from runtime.records import check_fields, parse_json

FORMAT_VERSION = 1
_VALUES = ("features", "probabilities")  # float32 [N, d], [N, K]; the second where the network classifies
_FACTS = {"label": np.dtype("<i4"), "crc32": np.dtype("<u4"), "done": np.dtype("u1")}  # and `clip`, of any length


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

    def take(self, rows: Sequence[int]) -> FeatureSet:
        """These rows, in this order."""
        columns = (self.features, self.probabilities, self.labels, self.clips)
        return FeatureSet(*(None if column is None else column[rows] for column in columns), self.path, self.key)


def join(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Batches of one set, in order; InputError without any, or when they are of different sizes."""
    if not parts:
        raise InputError("there are no clips to extract features of")
    columns = [[getattr(part, name) for part in parts] for name in ("features", "probabilities", "labels", "clips")]
    for column in columns:
        if len({None if values is None else values.shape[1:] for values in column}) > 1:
            raise InputError("features of some clips have other sizes than those of others")
    return FeatureSet(*(None if column[0] is None else np.concatenate(column) for column in columns))


class FeatureStore:
    """Kept features of one network on one kind of picture: a folder of segments and sets, shared by all runs.

    Args:
        root: Where such folders lie. Nothing is made until something is written.
        name: Begins the folder's name.
        key: Everything that the features depend on but the clip (JSON values); its digest ends the folder's name.

    Raises:
        InputError: From every method, when a segment is damaged.
    """

    def __init__(self, root: str | Path, name: str, key: dict):
        self.key = json.loads(key_text(key))
        self.folder = Path(root) / f"{name}-{digest(self.key)}"
        self._segments: list[Path] = []
        self._places: dict[bytes, tuple[Path, int]] = {}

    def missing(self, clips: Sequence[str]) -> list[int]:
        """Places in `clips` that no finished segment holds, in order."""
        found = self._scan()
        return [place for place, clip in enumerate(clips) if _encoded(clip) not in found]

    def segment(self, clips: Sequence[str]) -> Segment:
        """Begin to fill these clips, those that `missing` named, or go on with the unfinished segment of the same ones.

        Raises:
            InputError: If there are none, another process fills them, or the unfinished segment is damaged.
        """
        return Segment(self.folder / f"segment-{digest(list(clips))}.h5", self.key, clips)

    def gather(self, clips: Sequence[str]) -> FeatureSet:
        """Features of these clips, in this order, checksums compared; `path` is the set file that names them.

        Raises:
            InputError: If clips are missing or damaged.
        """
        path = self.folder / f"set-{digest(list(clips))}.json"
        found = self._read(clips, path)
        text = json.dumps({"key": self.key, "clips": list(clips)}).encode()
        if not path.is_file() or path.read_bytes() != text:
            with replacing(path, "features") as partial:
                partial.write_bytes(text)
        return found

    def _scan(self) -> dict[bytes, tuple[Path, int]]:
        """Segment and row of every clip; of a clip that is there twice, the first."""
        segments = sorted(self.folder.glob("segment-*.h5"))
        if segments != self._segments:
            places: dict[bytes, tuple[Path, int]] = {}
            for segment in segments:
                key, rows = _columns(segment)
                if key != self.key:
                    raise InputError(f"{segment}: features of other settings; remove it, and it is made again")
                for row, clip in enumerate(rows["clip"].tolist()):
                    places.setdefault(clip, (segment, row))
            self._segments, self._places = segments, places
        return self._places

    def _read(self, clips: Sequence[str], path: Path) -> FeatureSet:
        if missing := self.missing(clips):
            which = f"{len(missing)} of {len(clips)} clips are missing, the first is {clips[missing[0]]!r}"
            raise InputError(f"{path}: features of {which}; the command that needs them makes them")
        places = [self._places[_encoded(clip)] for clip in clips]
        order = sorted(range(len(places)), key=places.__getitem__)
        by_segment = groupby((places[place] for place in order), lambda place: place[0])
        parts = [_read(segment, [row for _, row in those]) for segment, those in by_segment]
        return replace(join(parts).take(np.argsort(order)), path=path, key=self.key)


class Segment(RowFile):
    """Fills one segment; see `FeatureStore.segment`. Also a context manager that gives it up, unfinished or not.

    The first batch that is written decides the number of features and classes. When `finish` has given the segment its
    name, the store finds it.
    """

    POINTS = {"draft": "features.begin", "synced": "features.batch", "whole": "features.written",
              "named": "features.renamed"}  # fmt: skip

    def __init__(self, path: Path, key: dict, clips: Sequence[str]):
        self._clips = np.array([_encoded(clip) for clip in clips], "S")
        if not len(clips) or len(set(clips)) < len(clips):
            raise InputError(f"{path}: there are no clips to extract features of, or some are there twice")
        super().__init__(path, len(clips), {"format_version": FORMAT_VERSION, "key": key_text(key)})

    def _row_types(self, attributes: dict, datasets: Types) -> Types | None:
        return _types({name: shape for name, (_, shape) in datasets.items()}, self._clips.dtype) if datasets else None

    def missing(self) -> list[int]:
        """Rows that are not there yet, in order; a row whose checksum is wrong is not there."""
        if self._types is not None and "left_out" not in self._attributes:
            rows = _mapped(self.partial, self._datasets(self._types), self._offsets) | {"clip": self._clips}
            self._mark(np.flatnonzero(rows["done"] & (_checksums(rows) != rows["crc32"])), b"\0")
        return super().missing()

    def write(self, rows: Sequence[int], batch: FeatureSet) -> None:
        """Store a batch; it survives a kill from then on. Rows that are there already stay as they are.

        Args:
            rows: Which of 0 … N - 1 they are.
            batch: As many features, labels and (in every batch or in none) probabilities.

        Raises:
            InputError: If features are not finite, or shapes differ from those before.
        """
        rows = np.asarray(rows, np.int64)
        values = {"features": np.asarray(batch.features, "<f4"), "label": np.asarray(batch.labels, "<i4")}
        if batch.probabilities is not None:
            values["probabilities"] = np.asarray(batch.probabilities, "<f4")
        shapes = {name: value.shape for name, value in values.items()}
        types = self._types or _types(shapes, self._clips.dtype)
        if shapes != {name: (len(rows), *types[name][1]) for name in types.keys() - {"clip", "crc32", "done"}}:
            found = {name: list(shape) for name, shape in shapes.items()}
            raise InputError(f"{self.partial}: a batch of {len(rows)} clips does not fit the file: {found}")
        if not np.isfinite(values["features"]).all():
            raise InputError("some clips have features that are not finite")
        if self._types is None:
            self._lay_out(types)
        values["clip"] = self._clips[rows]
        values["crc32"] = _checksums(values)
        for place in np.flatnonzero(self._done()[rows] == 0):
            self._put(int(rows[place]), {name: value[place] for name, value in values.items()})
        self.flush()


def load_feature_set(path: str | Path) -> FeatureSet:
    """Read a set file of a store, with the segments beside it, or one feature file; every checksum is compared.

    Raises:
        InputError: If the file is absent or damaged, or clips that it names are.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such feature file")
    if path.suffix != ".json":
        found = _read(path)
        return replace(found, key={"network": found.key.get("features")} | found.key)  # as earlier versions call it
    try:
        about = parse_json(path.read_bytes(), path)
        check_fields(about, {"key": dict, "clips": list[str]}, path)
        store = FeatureStore(path.parent.parent, "", about["key"])
    except (InputError, RecursionError) as error:
        raise _damaged(path, error) from error
    store.folder = path.parent  # whatever it is called now
    return store._read(about["clips"], path)


def key_text(key: object) -> str:
    """A key as the text that is stored and compared."""
    return json.dumps(key, sort_keys=True, default=str)


def digest(value: object) -> str:
    """16 hex digits of a key, or of other JSON values."""
    return hashlib.sha256(key_text(value).encode()).hexdigest()[:16]


def _encoded(clip: str) -> bytes:
    return clip.encode("utf-8", "surrogatepass")  # names of files can be any bytes


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path}: damaged feature file ({why}); remove it, and it is made again")


def _types(shapes: Mapping[str, tuple[int, ...]], clip: np.dtype) -> Types:
    """dtype and shape of a row, for datasets of these shapes; what it says of impossible ones fits none."""
    values = {name: shapes.get(name, ())[1:2] or (1,) for name in _VALUES if name in shapes or name == "features"}
    found = {name: (np.dtype("<f4"), shape) for name, shape in values.items()}
    return found | {name: (dtype, ()) for name, dtype in ({"clip": clip} | _FACTS).items()}


def _mapped(path: Path, datasets: Types, offsets: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Datasets that lie in one piece, read where they are used."""
    return {name: np.memmap(path, dtype, "r", offsets[name], shape) for name, (dtype, shape) in datasets.items()}


def _columns(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Key and datasets of a finished feature file; InputError when it is damaged."""
    try:
        attributes, datasets, offsets = header(path)
        clip, (count,) = datasets["clip"]
        types = _types({name: shape for name, (_, shape) in datasets.items()}, clip)
        if clip.kind != "S" or datasets != {name: (dtype, (count, *shape)) for name, (dtype, shape) in types.items()}:
            raise ValueError("its datasets")
        key, rows = parse_json(attributes["key"], "key"), _mapped(path, datasets, offsets)
        if not (isinstance(key, dict) and attributes["format_version"] == FORMAT_VERSION and rows["done"].all()):
            raise ValueError("key, version, or rows that are not done")
        return key, rows
    except DAMAGE as error:
        raise _damaged(path, error) from error


def _read(path: Path, rows: Sequence[int] | None = None) -> FeatureSet:
    """These rows of a finished feature file, or all; InputError where a checksum is wrong or a value not finite."""
    key, columns = _columns(path)
    columns = {name: np.array(values if rows is None else values[rows]) for name, values in columns.items()}
    if not (_checksums(columns) == columns["crc32"]).all():
        raise _damaged(path, "checksum")
    if not np.isfinite(columns["features"]).all():
        raise _damaged(path, "values that are not finite")
    facts = (columns["features"], columns.get("probabilities"), columns["label"], columns["clip"])
    return FeatureSet(*facts, path, key)


def _checksums(rows: dict[str, np.ndarray]) -> np.ndarray:
    """CRC-32 of every row: features, probabilities if there are any, label, clip; uint32 `[N]`."""
    columns = [np.ascontiguousarray(rows[n]) for n in (*_VALUES, "label", "clip") if n in rows]
    rows = (b"".join(value.tobytes() for value in row) for row in zip(*columns, strict=True))
    return np.array([zlib.crc32(row) for row in rows], "<u4")
