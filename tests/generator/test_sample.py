import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import generator.loading as loading
from generator.rectified_flow import integrate
from generator.sample import SampleConfig, sample, sample_attributes, sample_path
from generator.train import TrainConfig, train
from latents_cache import create_latents, open_latents
from runtime.errors import InputError
from runtime.processes import World
from runtime.records import read_json, write_json
from runtime.seeds import normal_rows

SHAPE, CLASSES = (6, 3, 2, 2), 4


@pytest.fixture
def run(latents_file, tiny_demo):
    return train(
        TrainConfig(
            latents=str(latents_file),
            preset="demo",
            runs_dir=str(latents_file.parent / "runs"),
            name="run",
            device="cpu",
            dtype="float32",
            steps=6,
            keep_every=3,
            batch_size=8,
            learning_rate=1e-2,
            ema_decay=0.9,
        )  # fmt: skip
    )


def configure(run, /, **changes):
    values = {"run": str(run), "runs_dir": str(run.parent), "samples": 8, "steps": 3, "batch_size": 4, "device": "cpu",
              "dtype": "float32"}  # fmt: skip
    return SampleConfig(**{**values, **changes})


def contents(path):
    """Every byte of the datasets, and the attributes."""
    with h5py.File(path, "r") as file:
        return {name: file[name][()].tobytes() for name in file} | dict(file.attrs)


def test_samples_are_raw_latents_of_the_averaged_weights(run):
    path = sample(configure(run))
    assert path == sample_path(run, 6, 3, 1.0, 0) and path.name == "step_00000006_euler3_guidance1_seed0.h5"
    found = loading.load_generator(run)
    noise = normal_rows(0, "sample", 0, range(4), SHAPE)
    normal = integrate(found.model, noise, torch.arange(4), steps=3)
    mean, std = (torch.tensor(found.latents[name]).view(-1, 1, 1, 1) for name in ("mean", "std"))
    with open_latents(path) as reader:
        np.testing.assert_array_equal(reader.batch(range(4))["mean"], (normal * std + mean).half().numpy())
        assert not reader.has_logvar and len(reader) == 8 and reader.shape == SHAPE
        assert reader.labels.tolist() == [i % CLASSES for i in range(8)]


def test_classes_that_no_latents_had_are_not_asked_for(tmp_path, tiny_demo, write_latents):
    path = write_latents(tmp_path / "few.h5", num_classes=9, label=lambda row: (2, 5, 7)[row % 3])
    flags = {"preset": "demo", "runs_dir": str(tmp_path / "runs"), "name": "few", "device": "cpu", "dtype": "float32"}
    run = train(TrainConfig(latents=str(path), steps=1, batch_size=4, **flags))
    with open_latents(sample(configure(run, samples=7))) as reader:
        assert reader.labels.tolist() == [2, 5, 7, 2, 5, 7, 2]
    state = run / "checkpoints" / "step_00000001" / "state.json"
    record = read_json(state)
    write_json(state, record | {"latents": record["latents"] | {"classes": [2, 9]}})
    with pytest.raises(InputError, match="classes of the latents must lie in 0…8"):
        loading.load_generator(run)


def test_every_process_samples_the_checkpoint_that_the_main_one_chose(run, monkeypatch):
    def told(self, value, same=World.same):
        return (str(run), 3) if value == (str(run), 6) else same(self, value)

    monkeypatch.setattr(World, "same", told)
    with open_latents(sample(configure(run))) as reader:
        assert reader.attributes["step"] == 3


def test_a_samples_file_says_what_it_is(run):
    with open_latents(sample(configure(run, guidance_scale=2.0))) as reader:
        found = reader.attributes
    expected = {
        "kind": "samples", "step": 6, "steps": 3, "nfe": 3, "rows_per_call": 2, "guidance_scale": 2.0, "seed": 0,
        "generator_run": "run", "untrained": 0, "encoder_hash": "e" * 16, "num_classes": CLASSES,
        "data": "moving_shapes",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_converted_weights_change_no_sample_and_no_call_converts_them_again(run, monkeypatch, tmp_path):
    import generator.sample as module

    converted = []

    class Conversions(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
                converted.append(args[0].shape)
            return function(*args, **(kwargs or {}))

    def counted(*args, real=module.sample_rows):
        with Conversions():
            return real(*args)

    monkeypatch.setattr(module, "sample_rows", counted)
    flags = {"dtype": "bfloat16", "guidance_scale": 2.0}
    once = sample(configure(run, **flags))
    assert converted == []
    monkeypatch.setattr(module, "convert_weights", lambda model, dtype: None)
    again = sample(configure(run, **flags, out=str(tmp_path / "again.h5")))
    assert len(converted) > 20  # weights and biases, in every call
    assert contents(once) == contents(again)


def test_classes_may_be_drawn_and_stay_when_there_are_more(run):
    few = sample(configure(run, samples=40, labels="drawn", untrained=True))
    assert few.name == "untrained_euler3_guidance1_labelsdrawn_seed0.h5"
    with open_latents(few) as reader:
        first, attributes = reader.labels.tolist(), reader.attributes
    assert set(first) == set(range(CLASSES)) and first != [i % CLASSES for i in range(40)]
    assert attributes["labels"] == "drawn"
    sample(configure(run, samples=400, labels="drawn", untrained=True))
    with open_latents(few) as reader:
        drawn = reader.labels.tolist()
    # 400 draws of 4 classes: a count's standard error is 8.7.
    assert drawn[:40] == first and max(abs(drawn.count(label) - 100) for label in range(CLASSES)) < 40


def test_guidance_in_an_interval_gives_other_samples_in_another_file(run, tmp_path):
    out = str(tmp_path / "out.h5")
    plain = sample(configure(run, guidance_scale=3.0, steps=4))
    part = sample(configure(run, guidance_scale=3.0, steps=4, guidance_interval=(0.25, 0.5)))
    assert part.name == "step_00000006_euler4_guidance3_interval0.25-0.5_seed0.h5"
    with open_latents(plain) as a, open_latents(part) as b:
        assert "guidance_interval" not in a.attributes and b.attributes["guidance_interval"] == [0.25, 0.5]
        assert not np.array_equal(a.batch([0])["mean"], b.batch([0])["mean"])
    assert sample(configure(run, guidance_interval=(0.25, 0.5))) == sample(configure(run))  # without guidance
    sample(configure(run, guidance_scale=3.0, guidance_interval=(0.25, 0.5), out=out))
    with pytest.raises(InputError, match="guidance_interval"):
        sample(configure(run, guidance_scale=3.0, out=out))


def test_eight_then_twelve_samples_equal_twelve_at_once(run, tmp_path):
    grown = sample(configure(run, samples=8))
    assert sample(configure(run, samples=12)) == grown
    at_once = sample(configure(run, samples=12, out=str(tmp_path / "at-once.h5")))
    assert contents(grown) == contents(at_once)
    assert sorted(path.name for path in grown.parent.iterdir()) == [grown.name]


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("finishes", [False, True])
def test_a_file_that_another_command_fills_is_waited_for(first, finishes, run, monkeypatch, tmp_path, capsys):
    """As two arms of a study do that have one generator: the other is killed, or finishes."""
    whole = sample(configure(run, out=str(tmp_path / "whole.h5")))
    path = sample_path(run, 6, 3, 1.0, 0)
    if first:
        sample(configure(run, samples=first))
    attributes = sample_attributes(configure(run), loading.load_generator(run), "torch.float32")
    target = path.with_name(f"{path.stem}.growing.h5") if first else path
    other = create_latents(target, 8, SHAPE, attributes, has_logvar=False)

    def sleep(seconds):
        monkeypatch.undo()
        other.close()
        if finishes:
            sample(configure(run))

    monkeypatch.setattr("generator.sample.time.sleep", sleep)
    assert sample(configure(run)) == path and contents(path) == contents(whole)
    assert f"waiting for another process that fills {target}" in capsys.readouterr().err
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_long_wait_is_told_of_once(run, monkeypatch, capsys):
    path = sample_path(run, 6, 3, 1.0, 0)
    attributes = sample_attributes(configure(run), loading.load_generator(run), "torch.float32")
    other, looks = create_latents(path, 8, SHAPE, attributes, has_logvar=False), []
    monkeypatch.setattr("generator.sample.time.sleep", lambda s: looks.append(s) or len(looks) > 2 and other.close())
    assert sample(configure(run)) == path and len(looks) == 3
    assert capsys.readouterr().err.count("waiting for another process") == 1


def test_a_grown_file_that_another_command_names_first_is_taken(run, monkeypatch):
    path = sample(configure(run, samples=4))
    growing = path.with_name(f"{path.stem}.growing.h5")
    whole = sample(configure(run, samples=8))
    os.rename(whole, growing)
    sample(configure(run, samples=4))
    rename = os.replace

    def named_by_another(old, new):
        rename(old, new)
        if str(old) == str(growing):
            raise FileNotFoundError(old)

    monkeypatch.setattr(os, "replace", named_by_another)
    assert sample(configure(run, samples=8)) == path and len(open_latents(path)) == 8


def test_samples_of_other_weights_under_the_same_name_are_refused(run, tmp_path):
    """As of a run that was removed and trained anew."""
    out = str(tmp_path / "samples.h5")
    sample(configure(run, out=out, samples=4))
    file = run / "checkpoints" / "step_00000006" / "ema.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(file).items()}, file)
    with pytest.raises(InputError, match="holds other samples.*generator_hash"):
        sample(configure(run, out=out))
    with h5py.File(out, "a") as samples:  # as an earlier version wrote them
        del samples.attrs["generator_hash"]
    assert sample(configure(run, out=out, samples=4)) == tmp_path / "samples.h5"
    sample(configure(run, out=out, samples=8))
    assert "generator_hash" not in open_latents(out).attributes  # whose weights the first rows are of nobody knows


def test_samples_that_an_earlier_version_began_go_on(run, monkeypatch, tmp_path):
    import generator.sample as module

    whole = sample(configure(run, out=str(tmp_path / "whole.h5")))
    attributes = {name: value for name, value in sample_attributes(
        configure(run), loading.load_generator(run), "torch.float32").items() if name != "generator_hash"}  # fmt: skip
    path = sample_path(run, 6, 3, 1.0, 0)
    with create_latents(path, 8, SHAPE, attributes, has_logvar=False) as begun:
        raw, labels = module.sample_rows(configure(run), loading.load_generator(run), range(4), "cpu", torch.float32)
        for row in range(4):
            begun.write(row, raw[row], label=labels[row], name=f"sample-{row:06d}")
    assert sample(configure(run)) == path
    ours, theirs = contents(path), contents(whole)
    assert theirs.pop("generator_hash") and ours == theirs
    assert sample(configure(run)) == path


def test_guidance_is_refused_of_a_generator_that_never_learned_without_a_class(run):
    config = read_json(run / "config.json")
    write_json(run / "config.json", config | {"class_dropout": 0.0})
    sample(configure(run, samples=4))
    with pytest.raises(InputError, match="--guidance-scale 2: .* was trained with --class-dropout 0"):
        sample(configure(run, samples=4, guidance_scale=2.0))


def test_fewer_samples_than_there_are_change_nothing(run):
    path = sample(configure(run, samples=8))
    before = os.stat(path)
    assert sample(configure(run, samples=3)) == path
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns and len(open_latents(path)) == 8


def test_a_killed_growth_keeps_the_smaller_file_and_goes_on(run, monkeypatch, tmp_path):
    import generator.sample as module

    path = sample(configure(run, samples=8))
    before = path.read_bytes()
    calls = []

    def dying(config, generator, rows, *rest, sample_rows=module.sample_rows):
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample_rows(config, generator, rows, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "sample_rows", dying)
        sample(configure(run, samples=20))
    assert path.read_bytes() == before
    monkeypatch.setattr(module, "sample_rows", dying)
    sample(configure(run, samples=20))
    assert calls == [range(8, 12), range(12, 16), range(12, 16), range(16, 20)]
    assert contents(path) == contents(sample(configure(run, samples=20, out=str(tmp_path / "whole.h5"))))


def test_a_batch_cut_by_a_kill_is_computed_whole_again(run, monkeypatch, tmp_path):
    from latents_cache import LatentsWriter

    def dying(self, row, *rest, write=LatentsWriter.write, **more):
        if row == 6:
            raise KeyboardInterrupt
        write(self, row, *rest, **more)
        self.flush()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LatentsWriter, "write", dying)
        sample(configure(run))
    path = sample(configure(run))
    assert contents(path) == contents(sample(configure(run, out=str(tmp_path / "whole.h5"))))


def test_seeds_guidance_steps_and_checkpoints_give_other_samples_in_other_files(run):
    changes = ({}, {"seed": 1}, {"guidance_scale": 3.0}, {"steps": 4}, {"step": 3}, {"untrained": True})
    paths = [sample(configure(run, **change)) for change in changes]
    assert len(set(paths)) == 6
    first = {open_latents(path).batch([0])["mean"].tobytes() for path in paths}
    assert len(first) == 6


def test_untrained_samples_are_the_noise_as_the_untrained_network_would_leave_it(run):
    path = sample(configure(run, untrained=True))
    found = loading.load_generator(run)
    noise = normal_rows(0, "sample", 0, range(8), SHAPE)
    untrained = type(found.model)(found.config)
    assert torch.equal(integrate(untrained, noise, torch.arange(8) % CLASSES, steps=3, guidance_scale=2.0), noise)
    with open_latents(path) as reader:
        np.testing.assert_array_equal(reader.batch(range(8))["mean"], found.denormalize(noise).half().numpy())
        assert reader.attributes["nfe"] == 0 and reader.attributes["step"] == 0


def test_without_a_run_the_newest_generator_is_sampled(run):
    assert sample(configure(run, run=None)).parent.parent.name == "run"
    shutil.rmtree(run)
    with pytest.raises(InputError, match="no generator run"):
        sample(configure(run, run=None))


def test_an_unconditional_generator_samples_without_labels(tmp_path, tiny_demo, write_latents):
    path = write_latents(tmp_path / "plain.h5", num_classes=0)
    run = train(TrainConfig(latents=str(path), preset="demo", runs_dir=str(tmp_path / "runs"), steps=2, batch_size=4,
                            device="cpu"))  # fmt: skip
    assert open_latents(sample(configure(run, samples=3))).labels.tolist() == [-1] * 3
    with pytest.raises(InputError, match="has no classes"):
        sample(configure(run, guidance_scale=2.0))


def test_a_file_of_other_samples_is_refused_and_stays(run, tmp_path):
    out = str(tmp_path / "out.h5")
    before = sample(configure(run, out=out)).read_bytes()
    with pytest.raises(InputError, match="seed: 0, now 1"):
        sample(configure(run, out=out, seed=1))
    assert (tmp_path / "out.h5").read_bytes() == before


def test_load_generator_gives_averaged_or_raw_weights_of_any_checkpoint(run):
    averaged, raw, early = (
        loading.load_generator(run, step, ema=ema) for step, ema in ((None, True), (6, False), (3, True))
    )
    assert (averaged.step, raw.step, early.step) == (6, 6, 3)
    weights = [found.model.final.weight for found in (averaged, raw, early)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not averaged.model.training and not weights[0].requires_grad
    assert averaged.dir == run and averaged.latents["encoder_hash"] == "e" * 16


def test_a_shipped_generator_loads_from_bfloat16_weights(run, monkeypatch, tmp_path):
    found = loading.load_generator(run)
    folder = tmp_path / "pretrained"
    folder.mkdir()
    for name in ("config.json", "state.json"):
        shutil.copy(run / "checkpoints" / "step_00000006" / name, folder)
    tensors = load_file(run / "checkpoints" / "step_00000006" / "ema.safetensors")
    save_file({name: value.bfloat16() for name, value in tensors.items()}, folder / "model.safetensors")
    monkeypatch.setitem(loading.SHIPPED, "moving-shapes", folder)
    shipped = loading.load_generator("moving-shapes")
    assert shipped.model.final.weight.dtype == torch.float32
    torch.testing.assert_close(shipped.model.final.weight, found.model.final.weight, atol=1e-4, rtol=1e-2)
    path = sample(configure(run, run="moving-shapes"))
    assert path == sample_path(run.parent / "shipped-moving-shapes", 6, 3, 1.0, 0)
    with pytest.raises(InputError, match="step 6 only"):
        loading.load_generator("moving-shapes", 5)


def test_generators_that_cannot_be_loaded_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="moving-shapes"):
        loading.load_generator("moving-shape")
    with pytest.raises(InputError, match="no checkpoint of step 5; it has 3, 6"):
        loading.load_generator(run, 5)
    with pytest.raises(InputError, match="not a run directory"):
        loading.load_generator(tmp_path)
    weights = run / "checkpoints" / "step_00000006" / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="not readable as safetensors"):
        loading.load_generator(run)


def test_sampling_the_same_run_by_another_path_finds_the_same_file(run, monkeypatch):
    path = sample(configure(run))
    monkeypatch.chdir(run.parent)
    again = sample(replace(configure(run), run="run", runs_dir="."))
    assert again.resolve() == path and read_json("run/manifest.json")["kind"] == "generator"
