import pytest
import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch import nn

from runtime.muon import ADAMW_RMS, COEFFICIENTS, ITERATIONS, Muon, build_optimizers, orthogonalize


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 8, 3), nn.Flatten(), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 4))


@pytest.mark.parametrize("shape", [(8, 8), (5, 70), (70, 5), (1, 9)])
def test_orthogonalize_is_the_iteration_of_timm(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    theirs = zeropower_via_newtonschulz(matrix, ITERATIONS, [COEFFICIENTS], dtype=torch.float32)
    torch.testing.assert_close(orthogonalize(matrix), theirs, rtol=1e-4, atol=1e-5)


def test_orthogonalize_keeps_the_directions_and_evens_out_their_lengths():
    left, _ = torch.linalg.qr(torch.randn(12, 6, generator=torch.Generator().manual_seed(1)))
    right, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))
    lengths = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.05, 0.02])
    found = left.T @ orthogonalize(left @ lengths.diag() @ right.T) @ right
    assert (found.diag() > 0.6).all() and (found.diag() < 1.25).all()
    assert (found - found.diag().diag()).abs().max() < 1e-4


def test_a_zero_gradient_changes_nothing_and_gives_no_nan():
    weight = nn.Parameter(torch.ones(4, 5))
    weight.grad = torch.zeros(4, 5)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(4, 5))


def test_steps_are_as_long_as_those_of_adamw():
    weight = nn.Parameter(torch.zeros(16, 16, 3, 3))
    weight.grad = torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.5).step()
    # The step has 16 directions of length 0.7 to 1.2.
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.5 * ADAMW_RMS, rel=0.3)


def test_weight_decay_is_decoupled():
    weight = nn.Parameter(torch.ones(4, 5))
    weight.grad = torch.zeros(4, 5)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 5), 0.95))


def test_layers_go_to_muon_and_everything_else_to_adamw():
    model = nn.ModuleDict({"net": a_network(), "classes": nn.Embedding(3, 4)})
    model["net"][4].weight.requires_grad_(False)
    names = {parameter: name for name, parameter in model.named_parameters()}
    adamw, muon = build_optimizers(model, "muon", learning_rate=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    assert {names[p] for p in muon.param_groups[0]["params"]} == {"net.0.weight", "net.2.weight"}
    others = {"net.0.bias", "net.2.bias", "net.3.weight", "net.3.bias", "net.4.bias", "classes.weight"}
    assert {names[p] for p in adamw.param_groups[0]["params"]} == others


def test_adamw_takes_every_trained_parameter():
    model = a_network()
    (only,) = build_optimizers(model, "adamw", learning_rate=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    assert set(only.param_groups[0]["params"]) == set(model.parameters())


def test_it_learns_a_linear_map():
    generator = torch.Generator().manual_seed(0)
    inputs, map_ = torch.randn(256, 16, generator=generator), torch.randn(16, 16, generator=generator)
    model = nn.Linear(16, 16, bias=False)
    (optimizer,) = build_optimizers(model, "muon", learning_rate=1.0, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / 100)
        model.zero_grad()
        loss = (model(inputs) - inputs @ map_.T).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]
