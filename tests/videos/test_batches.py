import itertools

import numpy as np
import pytest
import torch

from runtime.errors import InputError
from videos import BatchLoader
from videos.batches import batch_indices, window_seed


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
    loader = BatchLoader(Numbered(7), 4, seed=5, **options)
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
def test_a_clip_that_cannot_be_decoded_stops_the_loader_instead_of_being_replaced(workers):
    class Broken(Numbered):
        def item(self, index: int, seed: int) -> dict:
            raise InputError(f"clip {index}: damaged")

    with pytest.raises(InputError, match="damaged"):
        next(iter(BatchLoader(Broken(7), 4, seed=5, workers=workers)))


@pytest.mark.parametrize("length, batch_size", [(0, 4), (7, 0)])
def test_nothing_to_load_is_refused(length, batch_size):
    with pytest.raises(InputError, match="at least 1"):
        BatchLoader(Numbered(length), batch_size, seed=0)
