from contextlib import closing

import numpy as np
import pytest
import torch

from generator.batches import SMALLEST_STD, LatentBatches, batch_indices, channel_statistics
from latents_cache import open_latents

SHAPE, CLASSES = (6, 3, 2, 2), 4


def batches(reader, rows=range(8), **changes):
    return LatentBatches(reader, 8, rows=rows, **{"seed": 0, "num_classes": CLASSES, **changes})


def test_an_epoch_visits_every_row_once_and_the_next_in_another_order():
    visits = np.concatenate([batch_indices(10, 4, step, 0, range(4)) for step in range(5)])
    assert sorted(visits[:10]) == sorted(visits[10:]) == list(range(10))
    assert visits[:10].tolist() != visits[10:].tolist()


def test_a_batch_larger_than_the_file_spans_epochs():
    visits = batch_indices(3, 8, 0, 0, range(8))
    assert sorted(visits[:3]) == sorted(visits[3:6]) == [0, 1, 2]


def test_batches_do_not_depend_on_how_processes_split_them(latents_file):
    reader = open_latents(latents_file)
    whole = batches(reader).at(7)
    for size in (2, 4, 8):
        share = 8 // size
        parts = [batches(reader, range(rank * share, (rank + 1) * share)).at(7) for rank in range(size)]
        for name in whole._fields:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_a_step_depends_on_seed_and_step_alone(latents_file):
    reader = open_latents(latents_file)
    first, again = batches(reader).at(3), batches(reader).at(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (batches(reader).at(4), batches(reader, seed=1).at(3)):
        assert not any(torch.equal(getattr(first, name), getattr(other, name)) for name in ("latents", "noise", "t"))


def test_the_stream_repeats_from_any_step(latents_file):
    reader = open_latents(latents_file)
    with closing(batches(reader).stream(0, 6)) as stream:
        steps = list(stream)
    assert len(steps) == 6
    with closing(batches(reader).stream(4, 6)) as stream:
        later = list(stream)
    assert all(torch.equal(a, b) for x, y in zip(steps[4:], later, strict=True) for a, b in zip(x, y, strict=True))
    assert list(batches(reader).stream(6, 6)) == []


def test_latents_are_normalised_with_the_files_statistics(latents_file):
    reader = open_latents(latents_file)
    drawn = torch.cat([batches(reader).at(step).latents for step in range(200)])
    assert drawn.shape == (1600, *SHAPE) and drawn.dtype == torch.float32
    assert drawn.mean((0, 2, 3, 4)).abs().max() < 0.05
    assert (drawn.std((0, 2, 3, 4)) - 1).abs().max() < 0.05


def test_the_posterior_is_drawn_anew_with_its_own_spread(tmp_path, write_latents):
    reader = open_latents(write_latents(tmp_path / "one.h5", rows=1))
    drawn = torch.cat([batches(reader).at(step).latents for step in range(100)])
    spread = drawn.std(0) * torch.from_numpy(reader.std).view(-1, 1, 1, 1)
    assert (spread.mean() - np.exp(-1.0)).abs() < 0.02  # logvar is -2


def test_without_logvar_the_latents_are_the_stored_ones(tmp_path, write_latents):
    reader = open_latents(write_latents(tmp_path / "plain.h5", has_logvar=False))
    stored = reader.batch(batch_indices(40, 8, 2, 0, range(8)))["mean"].astype(np.float64)
    mean, std = (v.reshape(-1, 1, 1, 1) for v in (reader.mean, reader.std))
    np.testing.assert_allclose(batches(reader).at(2).latents, (stored - mean) / std, atol=1e-5)


def test_a_constant_channel_stays_finite(tmp_path, write_latents):
    reader = open_latents(write_latents(tmp_path / "constant.h5", rows=1, shape=(2, 1, 1, 1), has_logvar=False))
    assert channel_statistics(reader)[1].tolist() == [SMALLEST_STD] * 2
    assert torch.equal(batches(reader).at(0).latents.isfinite().all(), torch.tensor(True))


def test_labels_are_dropped_at_the_asked_rate_and_kept_otherwise(latents_file):
    reader = open_latents(latents_file)
    source = batches(reader, class_dropout=0.1)
    seen = torch.stack([source.at(step).labels for step in range(400)])
    true = np.stack([reader.labels[batch_indices(40, 8, step, 0, range(8))] for step in range(400)])
    dropped = seen == CLASSES
    # 3,200 draws at 0.1: the standard error is 0.0053.
    assert abs(dropped.float().mean() - 0.1) < 0.02
    assert torch.equal(seen[~dropped], torch.from_numpy(true)[~dropped].long())


@pytest.mark.parametrize("rate, count", [(0.0, 0), (1.0, 8)])
def test_label_dropout_can_be_off_or_total(latents_file, rate, count):
    labels = batches(open_latents(latents_file), class_dropout=rate).at(0).labels
    assert int((labels == CLASSES).sum()) == count


def test_an_unconditional_generator_gets_no_labels(latents_file):
    assert batches(open_latents(latents_file), num_classes=0).at(0).labels is None


def test_time_covers_the_unit_interval_evenly(latents_file):
    source = batches(open_latents(latents_file))
    t = torch.cat([source.at(step).t for step in range(250)])
    assert t.min() >= 0 and t.max() < 1
    assert (torch.histc(t, 4, 0, 1) / len(t) - 0.25).abs().max() < 0.04
