import itertools
import json

import numpy as np
import pytest
import torch

from runtime.errors import InputError
from videos import BatchLoader, Bucket
from videos.batches import batch_indices, window_seed
from videos.unreadable import UnreadableClip, UnreadableFiles


class Numbered:
    """Items whose pixels say which item and window seed they are."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def item(self, index: int, seed: int) -> dict:
        video = np.full((3, 1, 4, 4), index, np.uint8)
        video[0, 0, 0, 0] = seed % 251
        return {"video": video, "label": index % 3, "name": f"clip {index}"}


def first_batches(count: int = 6, **options) -> list[tuple[int, dict]]:
    loader = BatchLoader([Bucket(Numbered(7), 4)], seed=5, **options)
    return list(itertools.islice(iter(loader), count))


@pytest.mark.parametrize("workers, prefetch", [(0, 2), (1, 0), (2, 2), (5, 4)])
def test_threads_and_prefetch_do_not_change_batches(workers, prefetch):
    expected = first_batches(workers=1, prefetch=1)
    for (step, batch), (wanted_step, wanted) in zip(
        first_batches(workers=workers, prefetch=prefetch), expected, strict=True
    ):
        assert step == wanted_step and batch["names"] == wanted["names"]
        assert torch.equal(batch["video"], wanted["video"]) and torch.equal(batch["label"], wanted["label"])


def test_a_batch_has_the_promised_types():
    _, batch = first_batches(1)[0]
    assert batch["video"].dtype == torch.uint8 and batch["video"].shape == (4, 3, 1, 4, 4)
    assert batch["label"].dtype == torch.int64 and batch["label"].tolist() == [
        int(name.split()[1]) % 3 for name in batch["names"]
    ]


def test_a_batch_larger_than_the_data_set_repeats_whole_epochs():
    drawn = batch_indices(3, 9, step=0, seed=1)
    assert [sorted(drawn[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_seeds_give_other_orders_and_windows():
    assert batch_indices(50, 50, 0, 1).tolist() != batch_indices(50, 50, 0, 2).tolist()
    seeds = {window_seed(seed, step, row) for seed in range(5) for step in range(20) for row in range(8)}
    assert len(seeds) == 5 * 20 * 8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_cannot_be_decoded_ends_a_loader_that_has_no_record_of_them(workers):
    class Broken(Numbered):
        def item(self, index: int, seed: int) -> dict:
            raise UnreadableClip(f"clip {index}", "damaged")

    with pytest.raises(InputError, match="damaged"):
        next(iter(BatchLoader([Bucket(Broken(7), 4)], seed=5, workers=workers)))


@pytest.mark.parametrize("length, batch_size", [(0, 4), (7, 0)])
def test_nothing_to_load_is_refused(length, batch_size):
    with pytest.raises(InputError, match="at least 1"):
        BatchLoader([Bucket(Numbered(length), batch_size)], seed=0)


class Damaged(Numbered):
    """Of 200 items three cannot be decoded."""

    broken = frozenset({3, 50, 120})

    def item(self, index: int, seed: int) -> dict:
        if index in self.broken:
            raise UnreadableClip(f"v/{index}.avi", "damaged")
        return super().item(index, seed)


def damaged_batches(record, start: int = 0, count: int = 50, rows=None, **options) -> list[dict]:
    unreadable = UnreadableFiles(record, 400)
    loader = BatchLoader([Bucket(Damaged(200), 8, rows)], seed=5, start_step=start, unreadable=unreadable, **options)
    return [batch for _, batch in itertools.islice(iter(loader), count)]


def test_rows_of_undecodable_clips_are_drawn_again_alike_on_every_process_and_resume(tmp_path):
    whole = damaged_batches(tmp_path / "a", workers=2)
    assert sum(batch["redrawn"] for batch in whole) == 2 * len(Damaged.broken)  # two epochs
    sound = list(itertools.islice(iter(BatchLoader([Bucket(Numbered(200), 8)], seed=5)), 50))
    pairs = [
        (a, b)
        for one, (_, two) in zip(whole, sound, strict=True)
        for a, b in zip(one["names"], two["names"], strict=True)
    ]
    differing = sum(a != b for a, b in pairs)
    assert differing == 2 * len(Damaged.broken)  # the other rows are what they would have been
    halves = [damaged_batches(tmp_path / "b", rows=rows, workers=0) for rows in (range(4), range(4, 8))]
    resumed = damaged_batches(tmp_path / "c", start=20, count=30)
    for step, batch in enumerate(whole):
        left, right = (half[step] for half in halves)
        assert torch.equal(batch["video"], torch.cat([left["video"], right["video"]]))
        assert batch["redrawn"] == left["redrawn"] + right["redrawn"]
        if step >= 20:
            assert torch.equal(batch["video"], resumed[step - 20]["video"])


def test_each_undecodable_file_is_recorded_once_by_all_processes_and_sittings(tmp_path, capsys):
    (tmp_path / "record").write_bytes(b'{"path": "v/3.avi", "reason": "damaged"}\n{"path": "v/5')  # a kill
    for rows in (range(4), range(4, 8), None):
        damaged_batches(tmp_path / "record", rows=rows)
    lines = [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == ["v/120.avi", "v/3.avi", "v/50.avi"]
    assert {line["reason"] for line in lines} == {"damaged"}
    assert capsys.readouterr().err.count("left out") == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_one_percent_of_undecodable_files_ends_the_work_with_the_list(tmp_path, workers):
    loader = BatchLoader(
        [Bucket(Damaged(200), 8)], seed=5, workers=workers, unreadable=UnreadableFiles(tmp_path / "record", 200)
    )
    with pytest.raises(InputError, match="3 of 200 files cannot be read, more than 1 %: v/") as ended:
        list(itertools.islice(iter(loader), 60))
    assert all(f"v/{index}.avi" in str(ended.value) for index in Damaged.broken)
