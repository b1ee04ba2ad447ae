import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from generator.train import TrainConfig, preset_defaults, train
from runtime.checkpoint import find_checkpoint, list_checkpoints
from runtime.command import parse
from runtime.errors import InputError
from runtime.log import MEASURED
from runtime.processes import World
from runtime.records import read_json

SHAPE, CLASSES = (6, 3, 2, 2), 4

pytestmark = pytest.mark.usefixtures("tiny_demo")
ROOT = Path(__file__).parents[2]


def configure(latents_file, **changes):
    values = {
        "latents": str(latents_file), "preset": "demo", "runs_dir": str(latents_file.parent / "runs"), "name": "run",
        "device": "cpu", "dtype": "float32", "steps": 20, "batch_size": 8, "learning_rate": 1e-3, "ema_decay": 0.9,
        "save_every": 10,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", *MEASURED)} for line in lines]


def checkpoint_bytes(run, step):
    folder = find_checkpoint(run, step)
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "ema.safetensors", "state.json")}


def same_state(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    return a == b


def test_the_log_is_on_the_disk_before_a_checkpoint_is(latents_file, monkeypatch):
    """A power cut leaves no checkpoint of steps that the log knows nothing of."""
    from runtime.log import MetricsLog
    from runtime.trainer import Trainer

    order = []
    for one, name in ((MetricsLog, "sync"), (Trainer, "save")):
        genuine = getattr(one, name)
        monkeypatch.setattr(one, name, lambda *a, name=name, f=genuine, **k: order.append(name) or f(*a, **k))
    train(configure(latents_file, steps=4, save_every=2))
    assert order == ["sync", "save"] * (len(order) // 2) and len(order) >= 4


def test_ten_and_ten_steps_equal_twenty(latents_file):
    whole = train(configure(latents_file, name="whole"))
    resumed = train(configure(latents_file, name="resumed", steps=10))
    assert train(configure(latents_file, name="resumed")) == resumed
    assert metrics(whole) == metrics(resumed)
    assert [line["step"] for line in metrics(whole)] == list(range(1, 21))
    assert checkpoint_bytes(whole, 20) == checkpoint_bytes(resumed, 20)
    states = [torch.load(find_checkpoint(run) / "optimizer.pt", weights_only=True) for run in (whole, resumed)]
    assert same_state(*states)


def test_a_run_killed_after_a_checkpoint_repeats_the_lost_steps(latents_file, monkeypatch):
    whole = train(configure(latents_file, name="whole"))
    from runtime.log import MetricsLog

    def dying(self, step, values, write=MetricsLog.write):
        if step == 14:
            raise KeyboardInterrupt
        write(self, step, values)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "write", dying)
        train(configure(latents_file, name="killed"))
    assert len(metrics(latents_file.parent / "runs" / "killed")) == 13
    killed = train(configure(latents_file, name="killed"))
    assert metrics(whole) == metrics(killed)
    assert checkpoint_bytes(whole, 20) == checkpoint_bytes(killed, 20)


def test_every_process_goes_on_from_the_checkpoint_that_the_main_one_chose(latents_file, monkeypatch):
    """On a file system of several machines another process may see an older one, or a newer."""
    run = train(configure(latents_file))
    assert [step for step, _ in list_checkpoints(run)] == list(range(2, 21, 2))
    asked = []

    def told(self, value, same=World.same):
        asked.append(value)
        return str(find_checkpoint(run, 18)) if value == str(find_checkpoint(run, 20)) else same(self, value)

    monkeypatch.setattr(World, "same", told)
    train(configure(latents_file, steps=30))
    assert str(find_checkpoint(run, 20)) in asked
    assert metrics(run)[18]["step"] == 19 and len(metrics(run)) == 30


def test_a_run_that_draws_on_a_gpu_is_not_gone_on_with_elsewhere(latents_file):
    run = train(configure(latents_file, steps=4))
    manifest = read_json(run / "manifest.json")
    assert manifest["draws"] == "host"
    (run / "manifest.json").write_text(json.dumps(manifest | {"draws": "device"}))
    with pytest.raises(InputError, match="draws its noise on a GPU"):
        train(configure(latents_file))
    assert len(metrics(run)) == 4


def test_a_checkpoint_that_cannot_be_written_ends_training(latents_file, monkeypatch):
    from runtime import checkpoint

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train(configure(latents_file))
    assert len(metrics(latents_file.parent / "runs" / "run")) < 20


def test_the_loss_falls(latents_file):
    losses = [line["loss"] for line in metrics(train(configure(latents_file, steps=150, learning_rate=1e-2)))]
    assert sum(losses[-30:]) < 0.9 * sum(losses[:30])


def test_a_checkpoint_carries_config_and_facts_of_the_latents(latents_file):
    run = train(configure(latents_file, steps=2))
    config, state = (read_json(find_checkpoint(run) / name) for name in ("config.json", "state.json"))
    manifest = read_json(run / "manifest.json")
    assert (config["channels"], config["groups"], config["height"], config["width"]) == SHAPE
    assert config["num_classes"] == CLASSES and config == read_json(run / "config.json")["model"]
    assert state["latents"] == manifest["latents"]
    assert state["latents"]["encoder_hash"] == "e" * 16 and len(state["latents"]["mean"]) == SHAPE[0]
    assert manifest["parameters"] == sum(
        v.numel() for v in load_file(find_checkpoint(run) / "ema.safetensors").values()
    )


def test_a_tenth_of_the_run_lies_between_kept_checkpoints(latents_file):
    run = train(configure(latents_file, steps=20, save_every=3))
    kept = [step for step, path in list_checkpoints(run) if read_json(path / "state.json")["keep"]]
    assert kept == list(range(2, 21, 2))
    passing = {step for step, _ in list_checkpoints(run)} - set(kept)
    assert passing == {9, 15}


def test_kept_checkpoints_can_be_asked_for(latents_file):
    run = train(configure(latents_file, steps=9, save_every=100, keep_every=4))
    assert [step for step, _ in list_checkpoints(run)] == [4, 8, 9]


def test_a_run_says_on_what_it_trains(latents_file, capsys):
    """A GPU that is not seen is no error, and must not be found out after days."""
    train(configure(latents_file, steps=1, name="said"))
    assert "generator.train: on cpu in float32; 0" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(latents_file, capsys):
    run = train(configure(latents_file, steps=3))
    before = checkpoint_bytes(run, 3)
    train(configure(latents_file, steps=3))
    assert "is complete (3 steps)" in capsys.readouterr().out
    assert checkpoint_bytes(run, 3) == before and len(metrics(run)) == 3


def test_weights_differ_with_the_seed_and_averages_from_weights(latents_file):
    runs = [train(configure(latents_file, steps=3, name=f"seed{seed}", seed=seed)) for seed in (0, 1)]
    first, second = (load_file(find_checkpoint(run) / "model.safetensors") for run in runs)
    assert not torch.equal(first["embed.weight"], second["embed.weight"])
    average = load_file(find_checkpoint(runs[0]) / "ema.safetensors")
    assert not torch.equal(average["final.weight"], first["final.weight"])


def test_every_flag_of_training_acts(latents_file):
    flags = {
        "learning_rate": 2e-3, "schedule": "cosine", "warmup": 3, "betas": (0.5, 0.6), "weight_decay": 0.5,
        "gradient_clip": 1e-3, "ema_decay": 0.5, "class_dropout": 1.0, "optimizer": "muon", "batch_size": 4,
    }  # fmt: skip

    def average(name, **changes):
        return checkpoint_bytes(train(configure(latents_file, steps=3, name=name, **changes)), 3)["ema.safetensors"]

    plain = average("plain")
    assert not [name for name, value in flags.items() if average(name, **{name: value}) == plain]


def test_the_seed_is_also_that_of_the_batches(latents_file):
    runs = [train(configure(latents_file, steps=1, name=f"seed{seed}", seed=seed)) for seed in (0, 1)]
    first, second = (metrics(run)[0]["loss"] for run in runs)
    assert first != second  # a new model answers zero: the first loss is of the batch alone


def test_other_settings_are_refused_by_name_and_more_steps_are_not(latents_file):
    train(configure(latents_file, steps=2))
    with pytest.raises(InputError, match="learning_rate: was 0.001, now 0.002"):
        train(configure(latents_file, steps=4, learning_rate=2e-3))
    train(configure(latents_file, steps=4))


def test_under_cosine_the_number_of_steps_is_fixed(latents_file):
    run = train(configure(latents_file, steps=4, schedule="cosine"))
    rates = [line["learning_rate"] for line in metrics(run)]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True) and rates[-1] < rates[0]
    with pytest.raises(InputError, match="steps: was 4, now 8"):
        train(configure(latents_file, steps=8, schedule="cosine"))


def test_default_names_differ_with_what_changes_results(latents_file):
    names = {
        train(configure(latents_file, name=None, steps=1, **changes)).name
        for changes in ({}, {"save_every": 7}, {"seed": 1}, {"class_dropout": 0.2})
    }
    assert len(names) == 3 and all(name.startswith("demo-latents-") for name in names)


def test_a_non_finite_step_is_skipped_and_counted(latents_file, monkeypatch):
    import generator.rectified_flow as flow

    steps = []

    def broken(model, latents, labels, *, noise, t, flow_loss=flow.flow_loss):
        steps.append(len(steps))
        return flow_loss(model, latents, labels, noise=noise, t=t) * (float("nan") if steps[-1] in (1, 2) else 1.0)

    monkeypatch.setattr(flow, "flow_loss", broken)
    lines = metrics(train(configure(latents_file, steps=5)))
    assert [line["skipped"] for line in lines] == [0, 1, 2, 2, 2]
    assert [line["loss"] is None for line in lines] == [False, True, True, False, False]
    weights = load_file(find_checkpoint(latents_file.parent / "runs" / "run") / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_ten_non_finite_steps_in_a_row_stop_the_run_and_name_the_last_good_checkpoint(latents_file, monkeypatch):
    import generator.rectified_flow as flow

    train(configure(latents_file, steps=4))

    def broken(model, latents, labels, *, noise, t):
        return model(latents, t, labels).flatten(1).mean(1) * torch.inf

    monkeypatch.setattr(flow, "flow_loss", broken)
    with pytest.raises(
        InputError, match="10 steps in a row, up to step 14; the last good checkpoint is .*step_00000004"
    ):
        train(configure(latents_file, save_every=100, keep_every=100))


def test_numbers_that_arrive_later_are_logged_all_the_same(latents_file, monkeypatch):
    """As on a GPU, whose host runs ahead."""
    import generator.rectified_flow as flow
    import generator.train as module

    at_once = train(configure(latents_file, name="at-once"))
    monkeypatch.setitem(module.BEHIND, "cpu", 3)
    later = train(configure(latents_file, name="later"))
    assert metrics(later) == metrics(at_once)
    assert checkpoint_bytes(later, 20) == checkpoint_bytes(at_once, 20)
    calls = []

    def broken(model, latents, labels, *, noise, t, flow_loss=flow.flow_loss):
        calls.append(len(calls))
        return flow_loss(model, latents, labels, noise=noise, t=t) * (float("nan") if 4 <= calls[-1] < 14 else 1.0)

    monkeypatch.setattr(flow, "flow_loss", broken)
    with pytest.raises(InputError, match="10 steps in a row, up to step 14; the last good checkpoint is .*00000010"):
        train(configure(latents_file, name="broken", save_every=5, keep_every=100))
    assert len(calls) == 15 and metrics(latents_file.parent / "runs" / "broken")[-1]["skipped"] == 10


def test_a_step_asks_the_device_for_nothing(tmp_path):
    from torch.utils._python_dispatch import TorchDispatchMode

    from generator.step_numbers import step_sums
    from runtime.trainer import Trainer

    class Deaf(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function is not torch.ops.aten._local_scalar_dense.default, "a number was read"
            return function(*args, **(kwargs or {}))

    world, model = World(0, 1, torch.device("cpu")), torch.nn.Linear(3, 3)
    with Deaf(), pytest.raises(AssertionError, match="a number was read"):
        float(torch.ones(()))
    for optimizer in ("adamw", "muon"):
        trainer = Trainer(model, world, optimizer=optimizer, learning_rate=0.1, gradient_clip=1.0, ema_warmup=True)
        for step in range(2):
            with Deaf():
                losses = model(torch.ones(8, 3)).square().mean(1)
                losses.mean().backward()
                sums = step_sums(losses.detach(), torch.rand(8), trainer.clip(), world, None)
                trainer.update(step, 0.1, sums.isfinite().all(), tmp_path)


@pytest.mark.parametrize("on", [False, True])
def test_blocks_are_computed_again_and_kernels_deterministic_where_asked(on, latents_file, monkeypatch):
    import generator.rectified_flow as flow

    seen = []

    def watched(model, *given, flow_loss=flow.flow_loss, **named):
        seen.append((model.recomputed(), torch.are_deterministic_algorithms_enabled()))
        return flow_loss(model, *given, **named)

    monkeypatch.setattr(flow, "flow_loss", watched)
    train(configure(latents_file, steps=1, deterministic=on, checkpoint_blocks=on))
    assert seen == [("blocks" if on else "nothing", on)] and not torch.are_deterministic_algorithms_enabled()


def test_options_act_and_a_run_of_before_there_were_any_goes_on(latents_file):
    before = train(configure(latents_file, steps=2, name="before", ema_warmup=True))
    identity = read_json(before / "manifest.json")["identity"]
    assert not {"ema_warmup", "time_density", "time_shift", "qk_norm", "compile"} & {*identity, *identity["model"]}
    for changes in ({"time_density": "logit-normal"}, {"time_shift": 3.0}, {"qk_norm": True}, {"ema_warmup": False}):
        ((name, value),) = changes.items()
        other = train(configure(latents_file, steps=2, **{"name": name, "ema_warmup": True} | changes))
        assert read_json(other / "manifest.json")["identity"][name] == value
        assert checkpoint_bytes(other, 2)["ema.safetensors"] != checkpoint_bytes(before, 2)["ema.safetensors"]
        with pytest.raises(InputError, match=f"{name}: was None, now"):
            train(configure(latents_file, steps=4, **{"name": "before", "ema_warmup": True} | changes))


def test_sharded_bfloat16_is_refused_where_nothing_is_sharded_or_computed_in_it(latents_file):
    with pytest.raises(InputError, match="--shard-dtype bfloat16 is about sharded parameters: give --parallel fsdp"):
        configure(latents_file, shard_dtype="bfloat16")
    with pytest.raises(InputError, match="give --dtype bfloat16 too"):
        train(configure(latents_file, shard_dtype="bfloat16", parallel="fsdp"))
    assert not (latents_file.parent / "runs").exists()


def test_an_unconditional_file_trains_an_unconditional_generator(tmp_path, write_latents):
    path = write_latents(tmp_path / "plain.h5", num_classes=0, has_logvar=False)
    run = train(configure(path, steps=2))
    assert "classes.weight" not in load_file(find_checkpoint(run) / "model.safetensors")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"kind": "samples"}, "samples of a generator"),
        ({"label": 4}, "do not fit num_classes 4"),
        ({"label": -1}, "labels -1"),
    ],
)
def test_files_that_cannot_be_trained_on_are_refused(tmp_path, changes, words, write_latents):
    path = write_latents(tmp_path / "bad.h5", **changes)
    with pytest.raises(InputError, match=words):
        train(configure(path))
    assert not (tmp_path / "runs").exists()


def test_flags_follow_the_preset_and_the_command_line_wins():
    config = parse(["--latents", "x.h5", "--steps", "7"], TrainConfig, preset_defaults)
    assert (config.preset, config.steps, config.batch_size, config.learning_rate) == ("latte-xl", 7, 64, 1e-4)
    assert (config.warmup, config.weight_decay, config.ema_decay, config.betas) == (0, 0.0, 0.9999, (0.9, 0.999))
    config = parse(["--latents", "x.h5", "--betas", "0.9,0.95"], TrainConfig, preset_defaults)
    assert config.betas == (0.9, 0.95) and config.steps == 250_000


@pytest.mark.parametrize("words, said", [
    (["--latent", "x.h5"], "--latents"), ([], "--latents is needed"),
    (["--latents", "x.h5", "--preset", "latte"], "latte-"),
    (["--latents", "x.h5", "--betas", "0.9"], "--betas"), (["--latents", "x.h5", "--steps", "many"], "--steps"),
    (["--latents", "x.h5", "--class-dropout", "1.5"], "too large"),
])  # fmt: skip
def test_wrong_flags_are_refused_by_name(words, said):
    with pytest.raises(InputError, match=said):
        parse(words, TrainConfig, preset_defaults)


def test_the_command_refuses_a_missing_file_in_one_line_and_help_needs_no_torch(tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "generator.train", *words], cwd=ROOT, capture_output=True, text=True
        )

    refused = run("--latents", str(tmp_path / "none.h5"), "--runs-dir", str(tmp_path / "runs"))
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and refused.stderr.startswith("error: ")
    assert not (tmp_path / "runs").exists()
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "generator.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0 and "--keep-every" in shown.stdout
    assert not any(line.rstrip().endswith(" torch") for line in shown.stderr.splitlines())


@pytest.mark.slow
def test_two_processes_train_like_one(latents_file, monkeypatch):
    config = configure(latents_file, steps=4)
    alone = train(replace(config, name="alone"))
    script = latents_file.parent / "both.py"
    script.write_text(
        "import json, sys\n"
        "from generator.latte import LatteConfig\n"
        "from generator.presets import PRESETS, GeneratorPreset\n"
        "from generator.train import TrainConfig, train\n"
        "if __name__ == '__main__':\n"
        "    tiny = LatteConfig(hidden_size=16, depth=2, num_heads=2)\n"
        "    PRESETS['demo'] = GeneratorPreset(model=tiny, training={})\n"
        "    values = json.loads(sys.argv[1])\n"
        "    train(TrainConfig(**{**values, 'betas': tuple(values['betas'])}))\n"
    )
    values = json.dumps({**config.__dict__, "name": "both"})
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        str(script),
        values,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    both = latents_file.parent / "runs" / "both"
    for one, two in zip(metrics(alone), metrics(both), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    first, second = (load_file(find_checkpoint(run) / "model.safetensors") for run in (alone, both))
    for name, value in first.items():
        # AdamW turns a gradient near zero into a step of either sign: bounded by the rate, not by the rounding.
        torch.testing.assert_close(second[name], value, atol=4e-3, rtol=0)
        assert (second[name] - value).abs().mean() < 1e-4
