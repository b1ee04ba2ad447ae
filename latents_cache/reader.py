"""Read a latents file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from latents_cache.layout import FORMAT_VERSION, plain, row_checksum
from runtime.errors import InputError


def open_latents(path: str | Path) -> LatentsReader:
    """Open a whole latents file for reading; InputError says what is wrong with one that is not."""
    return LatentsReader(Path(path))


class LatentsReader:
    """Rows of a latents file.

    Attributes:
        path: The file.
        shape: (C, G, h, w) of a row.
        mean: float64 `[C]`, per-channel mean of the sampled latents; `std` likewise.
        attributes: Small facts, plain Python values.
        labels: int32 `[N]`.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            if path.with_name(path.name + ".partial").is_file():
                raise InputError(f"{path} is not complete: only {path.name}.partial is there; run the same tokenizer.encode again")
            raise InputError(f"{path}: no such latents file; python -m tokenizer.encode writes one")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise InputError(f"{path}: not a whole HDF5 file ({error}); encode it again") from error
        try:
            self._read_header()
        except InputError:
            self._file.close()
            raise

    def _read_header(self) -> None:
        file, path = self._file, self.path
        absent = [name for name in ("mean", "label", "latents_mean", "latents_std") if name not in file]
        if absent:
            raise InputError(f"{path}: not a latents file (no dataset {', '.join(absent)})")
        self.attributes = {name: plain(value) for name, value in file.attrs.items()}
        version = self.attributes.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise InputError(f"{path}: format version {version!r}; this program reads up to {FORMAT_VERSION}: update it")
        if file["mean"].ndim != 5 or "logvar" in file and file["logvar"].shape != file["mean"].shape:
            raise InputError(f"{path}: mean must be [N, C, G, h, w], and logvar alike")
        if "done" in file and not file["done"][:].all():
            raise InputError(f"{path}: {int((file['done'][:] == 0).sum())} rows were never finished; encode it again")
        self.shape = tuple(file["mean"].shape[1:])
        self.has_logvar = "logvar" in file
        self.labels = file["label"][:]
        self.mean, self.std = file["latents_mean"][:], file["latents_std"][:]
        size = path.stat().st_size
        self._maps = {}
        for name in ("mean", "logvar") if self.has_logvar else ("mean",):
            dataset = file[name]
            offset = dataset.id.get_offset()
            # A chunked or compressed file from elsewhere has no offset: read through h5py, slower.
            if offset is not None and dataset.dtype == np.dtype("<f2"):
                if offset + dataset.nbytes > size:
                    raise InputError(f"{path}: truncated ({size} bytes, {name} needs {offset + dataset.nbytes}); encode it again")
                self._maps[name] = np.memmap(path, dtype="<f2", mode="r", offset=offset, shape=dataset.shape)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Clip names, in row order."""
        return [name.decode() for name in self._file["name"][:]] if "name" in self._file else [""] * len(self)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict:
        """Rows in the order asked: {"mean": float16 `[n, C, G, h, w]`, "logvar": likewise or None, "label": int32 `[n]`}."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            raise InputError(f"{self.path}: rows {indices.min()}…{indices.max()} asked, it has 0…{len(self) - 1}")
        return {"mean": self._rows("mean", indices), "logvar": self._rows("logvar", indices) if self.has_logvar else None,
                "label": self.labels[indices]}

    def _rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        if name in self._maps:
            return self._maps[name][indices]
        unique, back = np.unique(indices, return_inverse=True)  # h5py wants increasing indices
        return self._file[name][unique].astype("<f2")[back]

    def damaged_rows(self) -> list[int]:
        """Rows whose bytes do not match their checksum (reads everything)."""
        if "crc32" not in self._file:
            raise InputError(f"{self.path}: it has no checksums")
        stored = self._file["crc32"][:]
        bad = []
        for row in range(len(self)):
            values = self.batch([row])
            logvar = values["logvar"][0] if self.has_logvar else None
            if row_checksum(values["mean"][0], logvar) != stored[row]:
                bad.append(row)
        return bad

    def close(self) -> None:
        """Close the file."""
        self._maps.clear()
        self._file.close()

    def __enter__(self) -> LatentsReader:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()
