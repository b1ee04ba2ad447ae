"""Which files are held out where nobody has said so, and draws that take classes in turns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from runtime.seeds import numpy_generator

TEST_SHARE = 0.05
# Names that tell which clips were cut from one video: UCF101's, and <YouTube id>_<first second>_<last second>.
_OF_ONE_SOURCE = (re.compile(r"(v_[A-Za-z]+_g\d+)_c\d+"), re.compile(r"(.+)_\d{6}_\d{6}"))


def split_folder(root: Path, split: str) -> Path:
    """`root/train` or `root/test` where the root has such a folder, else the root."""
    return root / split if split != "all" and (root / split).is_dir() else root


def sources_of_split(root: Path, split: str, list_below: Callable[[Path], list[Path]]) -> list[Path]:
    """Sources of a split: of the folders `train` and `test` below the root, or by their names.

    With a folder `test`, "train" is the folder `train`, or what lies outside of `test`. Without one, `held_out` decides
    within `train`, or within the root. "all" is everything.

    Args:
        list_below: All sources below a folder, in a fixed order.
    """
    if split == "all" or (root / split).is_dir() and (root / "test").is_dir():
        return list_below(split_folder(root, split))
    if (root / "test").is_dir():
        return [source for source in list_below(root) if not source.is_relative_to(root / "test")]
    sources = list_below(split_folder(root, "train"))
    return [
        source for source, out in zip(sources, held_out(root, sources), strict=True) if out in (split == "test", None)
    ]


def held_out(root: Path, sources: Sequence[Path]) -> list[bool | None]:
    """Whether each source is of the test split: one in twenty, by a hash of its name.

    Clips of one video stay together where their names show it (`source_name`), and no file changes sides when others
    come or go, but in folders so small that the hash would leave one side empty: then one video is on it. A single
    video is on both sides (None).
    """
    names = [source_name(source, root) for source in sources]
    places = {name: hashlib.blake2b(name.encode(errors="surrogateescape")).digest() for name in set(names)}
    if len(places) < 2:
        return [None] * len(names)
    limit = int(TEST_SHARE * 2**64).to_bytes(8, "big")
    test = {name for name, place in places.items() if place < limit} or {min(places, key=places.__getitem__)}
    if len(test) == len(places):
        test.remove(max(places, key=places.__getitem__))
    return [name in test for name in names]


def source_name(source: Path, root: Path) -> str:
    """Name of the video that a clip was cut from, where the clip's name shows it; else the clip's path below `root`."""
    matches = (pattern.fullmatch(source.stem) for pattern in _OF_ONE_SOURCE)
    return next((match[1] for match in matches if match), source.relative_to(root).as_posix())


def stratified_order(classes: Sequence[Hashable], seed: int) -> list[int]:
    """All items in a seeded order in which classes take turns: every prefix is as balanced as the data allow."""
    order = numpy_generator(seed, "reference").permutation(len(classes))
    by_class: dict[Hashable, list[int]] = {}
    for index in order:
        by_class.setdefault(classes[index], []).append(int(index))
    queues = [by_class[one] for one in sorted(by_class)]  # type: ignore[type-var]
    return [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
