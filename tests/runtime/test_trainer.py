"""Trainer: what goes on after a checkpoint, and which checkpoints it refuses."""

import copy
import dataclasses
import threading

import pytest
import torch

from runtime import checkpoint
from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from runtime.errors import InputError
from runtime.processes import World
from runtime.stopping import Stopped
from runtime.trainer import MAX_SKIPPED_IN_A_ROW, Trainer

ALONE = World(0, 1, torch.device("cpu"))


def trainer(width: int = 3, **changes) -> Trainer:
    torch.manual_seed(0)
    return Trainer(torch.nn.Linear(2, width), ALONE, learning_rate=0.1, gradient_clip=1.0, **changes)


def advance(trained: Trainer, step: int, run_dir, finite: bool | torch.Tensor = True) -> int:
    trained.network(torch.ones(4, 2)).square().mean().backward()
    trained.clip()
    return trained.update(step, 0.1, finite, run_dir)


def saved(tmp_path, steps: int = 2):
    trained = trainer()
    for step in range(steps):
        advance(trained, step, tmp_path)
    trained.save(tmp_path, steps, state={}, files={}, keep=False)
    return trained, load_checkpoint(find_checkpoint(tmp_path), optimizer=True)


def test_a_trainer_that_was_loaded_goes_on_bit_for_bit(tmp_path):
    first, checkpoint = saved(tmp_path)
    second = trainer()
    second.load(checkpoint)
    for each in (first, second):
        advance(each, 2, tmp_path)
    for name, value in first.ema.state_dict().items():
        assert torch.equal(value, second.ema.state_dict()[name])
        assert torch.equal(first.model.state_dict()[name], second.model.state_dict()[name])


def test_the_average_goes_by_updates_made_and_on_after_a_checkpoint(tmp_path):
    trained, step = trainer(), 0
    for finite in (True, False, True, False):
        step = advance(trained, step, tmp_path, finite)
    assert trained.ema.updates == 2
    trained.save(tmp_path, step, state={}, files={}, keep=False)
    checkpoint = load_checkpoint(find_checkpoint(tmp_path), optimizer=True)
    second = trainer()
    second.load(checkpoint)
    start = second.ema.average["weight"].clone()
    advance(second, step, tmp_path)
    expected = torch.lerp(start, second.model.weight.detach(), 1 / (1 + 0.9999 + 0.9999**2))
    torch.testing.assert_close(second.ema.average["weight"], expected, rtol=1e-6, atol=0)
    # Checkpoints of earlier versions do not say; there every step had moved it.
    checkpoint.state.pop("ema_updates")
    second.load(checkpoint)
    assert second.ema.updates == 4
    for name, value in (("ema_updates", "many"), ("ema_updates", -1), ("skipped", 2**63), ("skipped", 10**400)):
        wrong = dataclasses.replace(checkpoint, state=checkpoint.state | {"ema_updates": 4, name: value})
        with pytest.raises(InputError, match=f"state.json: {name} is {value!r:.9}"):
            second.load(wrong)


def test_an_update_is_adamws_of_the_clipped_gradient_at_the_rate_of_the_step(tmp_path):
    torch.manual_seed(0)
    how = {"betas": (0.5, 0.6), "weight_decay": 0.3}
    trained = Trainer(torch.nn.Linear(2, 3), ALONE, learning_rate=0.1, gradient_clip=0.5, ema_decay=0.5, **how)
    model = copy.deepcopy(trained.model)
    plain, average = torch.optim.AdamW(model.parameters(), lr=0.1, **how), 0.0
    for step, (rate, gain, share) in enumerate(((0.02, 10.0, 1.0), (0.07, 3.0, 1 / (1 + 0.5)))):
        for each in (trained.network, model):
            each(gain * torch.ones(4, 2)).square().mean().backward()
        assert trained.clip() > 0.5
        trained.update(step, rate, True, tmp_path)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        plain.param_groups[0]["lr"] = rate
        plain.step()
        plain.zero_grad()
        average = average + share * (model.weight.detach() - average)
    for found, expected in ((trained.model.weight, model.weight), (trained.ema.average["weight"], average)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # rounding of float32 sums


@pytest.mark.parametrize("file", ["model", "ema"])
def test_weights_of_another_model_or_without_finite_values_are_refused_by_the_files_name(file, tmp_path):
    _, checkpoint = saved(tmp_path)
    with pytest.raises(InputError, match="model.safetensors: the weights do not fit"):
        trainer(5).load(checkpoint)
    checkpoint.tensors[file]["bias"][1] = torch.nan
    with pytest.raises(InputError, match=f"{file}.safetensors: bias holds values that are no finite floats"):
        trainer().load(checkpoint)


def test_an_optimizer_state_of_other_weights_is_refused(tmp_path):
    _, checkpoint = saved(tmp_path)
    for change, words in (
        (lambda state: state["model"].pop("bias"), "no optimizer state of bias; remove"),
        (lambda state: state["model"]["bias"].update(exp_avg=torch.zeros(7)), r"exp_avg of bias is \[7\], not \[3\]"),
        (lambda state: state["model"].update(bias=[1]), "no optimizer state of bias"),
        (lambda state: state["model"]["bias"].pop("exp_avg_sq"), "exp_avg_sq of bias is NoneType"),
        (lambda state: state["model"]["bias"].update(step=1.0), "step of bias is float"),
        *(
            (lambda state, change=change: state["model"]["bias"].update(exp_avg=change(torch.zeros(3))), "no finite")
            for change in (torch.Tensor.long, torch.Tensor.cfloat, torch.Tensor.to_sparse, torch.Tensor.log)
        ),
        (lambda state: state.pop("model"), "model is missing"),
    ):
        state = copy.deepcopy(checkpoint.optimizer)
        change(state)
        with pytest.raises(InputError, match=words):
            trainer().load(dataclasses.replace(checkpoint, optimizer=state))


def test_skipped_steps_change_nothing_are_counted_and_end_the_run_naming_the_last_good_checkpoint(tmp_path):
    trained, checkpoint = saved(tmp_path)
    before = copy.deepcopy(trained.model.state_dict()), copy.deepcopy(trained.ema.state_dict())
    step = checkpoint.step
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        step = advance(trained, step, tmp_path, finite=False)
    assert trained.skipped == MAX_SKIPPED_IN_A_ROW - 1
    assert all(torch.equal(value, before[0][name]) for name, value in trained.model.state_dict().items())
    assert all(torch.equal(value, before[1][name]) for name, value in trained.ema.state_dict().items())
    with pytest.raises(InputError, match="the last good checkpoint is .*step_00000002; lower --learning-rate"):
        advance(trained, step, tmp_path, finite=False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("first", [False, True])
def test_a_step_is_skipped_on_the_device_as_if_it_had_not_been(optimizer, first, tmp_path):
    """Also the first one, whose moments are not there yet."""
    whole, broken = trainer(optimizer=optimizer), trainer(optimizer=optimizer)
    yes, no = torch.tensor(True), torch.tensor(False)
    for each, decisions in ((whole, [yes, yes]), (broken, [no, yes, yes] if first else [yes, no, no, yes])):
        for step, finite in enumerate(decisions):
            each.network(torch.ones(4, 2)).square().mean().backward()
            if not finite:
                each.model.weight.grad[0, 0] = torch.nan
            each.clip()
            each.update(step, 0.1, finite, tmp_path)
    assert broken.skips.tolist() == [1 if first else 2, 0] and broken.ema.updates == whole.ema.updates == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(broken.model.state_dict()[name], value)
        assert torch.equal(broken.ema.average[name], whole.ema.average[name])
    for ours, theirs in zip(broken.optimizers, whole.optimizers, strict=True):
        for state, expected in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_no_process_ends_before_the_last_checkpoint_is_on_the_disk(tmp_path, monkeypatch):
    """Else torchrun would end the one that writes, half a minute after the first that has nothing left to do."""
    found, begun, genuine = [], threading.Event(), checkpoint.save_checkpoint

    class Launch(World):
        def barrier(self) -> None:
            found.append([step for step, _ in list_checkpoints(tmp_path)])

    def slowly(*args, **rest) -> None:
        begun.wait()
        genuine(*args, **rest)

    monkeypatch.setattr(checkpoint, "save_checkpoint", slowly)
    trained = trainer()
    trained.world = Launch(0, 1, torch.device("cpu"))
    with trained.checkpoints:
        trained.save(tmp_path, 3, state={}, files={}, keep=False)
        assert not list_checkpoints(tmp_path)
        threading.Timer(0.2, begun.set).start()
        with pytest.raises(Stopped, match="another process"):
            trained.stop()
    assert found == [[3]]
