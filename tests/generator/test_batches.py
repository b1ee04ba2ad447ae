import json
from contextlib import closing

import numpy as np
import pytest
import torch

from generator.batches import READ_AHEAD, SMALLEST_STD, LatentBatches, batch_indices, channel_statistics, draws_of
from latents_cache import LatentsReader, open_latents
from runtime.errors import InputError

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


@pytest.mark.parametrize("draws", ["host", "device"])
def test_batches_do_not_depend_on_how_processes_split_them(latents_file, draws):
    reader = open_latents(latents_file)
    whole = batches(reader, draws=draws).at(7)
    for size in (2, 4, 8):
        share = 8 // size
        parts = [batches(reader, range(rank * share, (rank + 1) * share), draws=draws).at(7) for rank in range(size)]
        for name in whole._fields:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


@pytest.mark.parametrize("draws", ["host", "device"])
def test_a_step_depends_on_seed_and_step_alone(latents_file, draws):
    reader = open_latents(latents_file)
    first, again = batches(reader, draws=draws).at(3), batches(reader, draws=draws).at(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (batches(reader, draws=draws).at(4), batches(reader, seed=1, draws=draws).at(3)):
        assert not any(torch.equal(getattr(first, name), getattr(other, name)) for name in ("latents", "noise", "t"))


@pytest.mark.parametrize("draws", ["host", "device"])
def test_the_stream_repeats_from_any_step(latents_file, draws):
    reader = open_latents(latents_file)
    with closing(batches(reader, draws=draws).stream(0, 6)) as stream:
        steps = list(stream)
    assert len(steps) == 6
    with closing(batches(reader, draws=draws).stream(4, 6)) as stream:
        later = list(stream)
    assert all(torch.equal(a, b) for x, y in zip(steps[4:], later, strict=True) for a, b in zip(x, y, strict=True))
    assert list(batches(reader, draws=draws).stream(6, 6)) == []


@pytest.mark.parametrize("draws", ["host", "device"])
def test_latents_are_normalised_with_the_files_statistics(latents_file, draws):
    reader = open_latents(latents_file)
    drawn = torch.cat([batches(reader, draws=draws).at(step).latents for step in range(200)])
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


@pytest.mark.parametrize("draws", ["host", "device"])
def test_noise_is_normal_and_another_one_than_the_posteriors(latents_file, draws):
    source = batches(open_latents(latents_file), draws=draws)
    found = [source.at(step) for step in range(100)]
    noise = torch.cat([batch.noise for batch in found]).flatten()
    # 57,600 draws: standard errors 0.004, 0.003 and 0.02.
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.015 and abs((noise**4).mean() - 3) < 0.1
    together = torch.corrcoef(torch.stack([noise, torch.cat([batch.latents for batch in found]).flatten()]))
    assert abs(together[0, 1]) < 0.02


def test_a_run_draws_where_it_began_to(tmp_path):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert draws_of(tmp_path, cpu) == "host" and draws_of(tmp_path, gpu) == "device"
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")  # of an earlier version
    assert draws_of(tmp_path, cpu) == draws_of(tmp_path, gpu) == "host"
    manifest.write_text(json.dumps({"draws": "host"}))
    assert draws_of(tmp_path, gpu) == "host"
    manifest.write_text(json.dumps({"draws": "device"}))
    assert draws_of(tmp_path, gpu) == "device"
    with pytest.raises(InputError, match="draws its noise on a GPU"):
        draws_of(tmp_path, cpu)
    manifest.write_text(json.dumps({"draws": "moon"}))
    with pytest.raises(InputError, match="draws is 'moon'"):
        draws_of(tmp_path, gpu)


def test_every_row_is_asked_for_steps_before_it_is_read(latents_file, monkeypatch):
    asked, read = [], []
    real = LatentsReader.batch
    monkeypatch.setattr(LatentsReader, "prefetch", lambda self, rows: asked.append(rows.tolist()))
    monkeypatch.setattr(
        LatentsReader, "batch", lambda self, rows: (read.append((rows.tolist(), len(asked))), real(self, rows))[1]
    )
    with closing(batches(open_latents(latents_file)).stream(3, 25)) as stream:
        assert len(list(stream)) == 22
    assert asked == [rows for rows, _ in read] and len(asked) == 22
    assert [count for _, count in read] == [min(number + 1 + READ_AHEAD, 22) for number in range(22)]


@pytest.mark.parametrize("draws", ["host", "device"])
def test_time_covers_the_unit_interval_evenly(latents_file, draws):
    source = batches(open_latents(latents_file), draws=draws)
    t = torch.cat([source.at(step).t for step in range(250)])
    assert t.min() >= 0 and t.max() < 1
    assert (torch.histc(t, 4, 0, 1) / len(t) - 0.25).abs().max() < 0.04
