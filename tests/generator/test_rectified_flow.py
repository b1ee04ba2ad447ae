from types import SimpleNamespace

import pytest
import torch

from generator.rectified_flow import flow_loss, guided_velocity, integrate, interpolate, target_velocity
from runtime.errors import InputError


class Field:
    """A velocity that is a function of (x, t, labels), and what it was called with."""

    config = SimpleNamespace(num_classes=4)

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, x, t, y):
        self.calls.append((len(x), float(t[0])))
        return self.function(x, t, y)


def test_the_path_goes_from_noise_to_data():
    data, noise = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    assert torch.equal(interpolate(data, noise, torch.zeros(3)), noise)
    assert torch.equal(interpolate(data, noise, torch.ones(3)), data)
    t = torch.tensor([0.1, 0.5, 0.9])
    assert torch.allclose(interpolate(data, noise, t)[2], 0.1 * noise[2] + 0.9 * data[2])


def test_target_velocity_is_the_derivative_of_the_path():
    data, noise = torch.randn(2, 3, 2, dtype=torch.float64)
    t = torch.full((3,), 0.4, dtype=torch.float64)
    slope = (interpolate(data, noise, t + 1e-3) - interpolate(data, noise, t - 1e-3)) / 2e-3
    torch.testing.assert_close(slope, target_velocity(data, noise))


def test_flow_loss_by_hand():
    data = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    noise = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    seen = {}

    def model(x, t, y):
        seen.update(x=x, t=t, y=y)
        return torch.ones_like(x)

    t, labels = torch.tensor([0.25, 1.0]), torch.tensor([3, 0])
    loss = flow_loss(model, data, labels, noise=noise, t=t)
    # data - noise = (1, 1), (-2, 4); against (1, 1): 0 and (9 + 9) / 2.
    assert loss.tolist() == [0.0, 9.0]
    assert seen["x"].tolist() == [[0.25, 1.25], [0.0, 4.0]]
    assert seen["t"] is t and seen["y"] is labels


def test_flow_loss_is_one_float32_number_a_sample():
    latents = torch.randn(5, 3, 2, 2, 2)
    loss = flow_loss(lambda x, t, y: x.bfloat16(), latents, None, noise=torch.randn_like(latents), t=torch.rand(5))
    assert loss.shape == (5,) and loss.dtype == torch.float32


def test_integrate_makes_exactly_the_asked_number_of_calls_for_1_to_300_steps():
    for steps in range(1, 301):
        field = Field(lambda x, t, y: torch.ones_like(x))
        integrate(field, torch.zeros(1, 1), None, steps=steps)
        times = [t for _, t in field.calls]
        assert len(times) == steps
        torch.testing.assert_close(torch.tensor(times), torch.arange(steps) / steps)


def test_euler_is_exact_on_a_constant_velocity():
    noise, velocity = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    for steps in (1, 7, 100):
        arrived = integrate(Field(lambda x, t, y: velocity), noise, None, steps=steps)
        torch.testing.assert_close(arrived, noise + velocity, atol=1e-13, rtol=0)


def test_the_flow_of_gaussian_data_ends_at_its_mean_and_spread():
    # For data N(m, s^2), x_t is N(t m, v) with v = (1 - t)^2 + t^2 s^2, and E[data - noise | x_t] is linear in x_t.
    m, s = 3.0, 0.5

    def exact(x, t, y):
        t = t.view(-1, 1)
        variance = (1 - t) ** 2 + t**2 * s**2
        return m + (t * s**2 - (1 - t)) / variance * (x - t * m)

    noise = torch.randn(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = integrate(exact, noise, None, steps=300)
    # The exact flow maps x to m + s x; Euler's error at 300 steps is below a hundredth.
    assert (data - (m + s * noise)).abs().max() < 0.02
    assert abs(data.mean() - m) < 0.02 and abs(data.std() - s) < 0.02


def test_guidance_is_linear_between_unconditional_and_conditional(model):
    x, t, y = torch.randn(3, 6, 3, 2, 3), torch.rand(3), torch.tensor([0, 1, 3])
    conditional = model(x, t, y)
    unconditional = model(x, t, torch.full_like(y, 4))
    for scale in (0.0, 0.5, 1.0, 4.0):
        expected = unconditional + scale * (conditional - unconditional)
        torch.testing.assert_close(guided_velocity(model, x, t, y, scale), expected, atol=1e-4, rtol=1e-4)
    every_channel = (guided_velocity(model, x, t, y, 4.0) - conditional).flatten(2).abs().amax((0, 2))
    assert (every_channel > 1e-3).all()


@pytest.mark.parametrize("scale, rows", [(1.0, 2), (0.0, 4), (3.0, 4)])
def test_guidance_doubles_the_rows_and_not_the_calls(scale, rows):
    field = Field(lambda x, t, y: x)
    integrate(field, torch.zeros(2, 1), torch.tensor([0, 1]), steps=5, guidance_scale=scale)
    assert [n for n, _ in field.calls] == [rows] * 5


def test_the_state_stays_float32_under_a_half_precision_model():
    arrived = integrate(Field(lambda x, t, y: torch.full_like(x, 1e-3).bfloat16()), torch.ones(1, 1), None, steps=100)
    assert arrived.dtype == torch.float32
    # In bfloat16, 1 + 1e-5 would stay 1.
    assert abs(float(arrived) - 1.001) < 1e-5


def test_impossible_sampling_is_refused(model):
    with pytest.raises(InputError, match="at least 1 step"):
        integrate(model, torch.zeros(1, 6, 3, 2, 3), torch.tensor([0]), steps=0)
    with pytest.raises(InputError, match="no classes"):
        integrate(model, torch.zeros(1, 6, 3, 2, 3), None, steps=1, guidance_scale=2.0)
