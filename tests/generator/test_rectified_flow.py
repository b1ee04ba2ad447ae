from types import SimpleNamespace

import pytest
import torch

from generator.rectified_flow import (
    flow_loss,
    guided_velocity,
    integrate,
    interpolate,
    shaped_time,
    target_velocity,
)
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


def test_time_is_not_rounded_with_the_latents():
    data, noise, t = (
        torch.ones(1, 1, dtype=torch.bfloat16),
        torch.zeros(1, 1, dtype=torch.bfloat16),
        torch.tensor([0.3]),
    )
    assert torch.equal(interpolate(data, noise, t), t[:, None])


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


def test_sampling_reads_nothing_back_from_the_device():
    """A tensor without numbers cannot be read: one look at it, as at a time that lies beside it, is an error."""
    field = SimpleNamespace(config=Field.config)
    calls = []

    def model(x, t, y):
        assert t.device == y.device == x.device == torch.device("meta") and t.shape == x.shape[:1]
        calls.append(len(x))
        return x * t.view(-1, 1)

    model.config = field.config
    noise, labels = torch.empty(2, 3, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    found = integrate(model, noise, labels, steps=10, guidance_scale=2.0, guidance_interval=(0.2, 0.5))
    assert found.device.type == "meta" and found.shape == (2, 3) and type(found) is torch.Tensor
    assert calls == [2] * 2 + [4] * 3 + [2] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_solver_takes_eulers_steps_to_the_bit(dtype):
    """Against the loop written out, with times beside the state."""
    noise, steps = torch.randn(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0)), 37
    times, x = torch.linspace(0.0, 1.0, steps + 1, dtype=dtype), noise

    def model(x, t, y):
        return torch.sin(3 * x) * (t.view(-1, 1) - 0.3)

    for before, after in zip(times[:-1], times[1:], strict=True):
        x = x + (after - before) * model(x, before.expand(3), None)
    assert torch.equal(integrate(model, noise, None, steps=steps), x)


def test_guidance_outside_its_interval_is_off(model):
    noise, labels = torch.randn(2, 6, 3, 2, 3), torch.tensor([1, 3])
    plain = integrate(model, noise, labels, steps=6)
    always, never, late = (
        integrate(model, noise, labels, steps=6, guidance_scale=3.0, guidance_interval=interval)
        for interval in ((0.0, 1.0), (0.9, 1.0), (0.5, 1.0))
    )
    assert torch.equal(always, integrate(model, noise, labels, steps=6, guidance_scale=3.0))
    assert torch.equal(never, plain)
    assert not torch.equal(late, plain) and not torch.equal(late, always)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_that_begins_at_an_end_of_the_guidance_interval(dtype):
    """Belongs to it at the lower and not at the upper, whatever that time is when rounded."""
    for place in range(1, 50):
        for interval in ((place / 50, 1.0), (0.0, place / 50)):
            field = Field(lambda x, t, y: x)
            noise, labels = torch.zeros(1, 1, dtype=dtype), torch.tensor([0])
            integrate(field, noise, labels, steps=50, guidance_scale=2.0, guidance_interval=interval)
            below, above = (1, 2) if interval[0] else (2, 1)
            assert [rows for rows, _ in field.calls] == [below] * place + [above] * (50 - place)


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


def test_euler_reproduces_mean_and_covariance_of_a_linear_gaussian_flow_at_first_order():
    """For data N(m, Σ), x_t is N(t m, V) with V = (1 - t)² I + t² Σ, and E[data - noise | x_t] is
    m + (t Σ - (1 - t) I) V⁻¹ (x_t - t m): an affine map of x, which carries noise N(0, I) over to N(m, Σ). Twice the
    steps make half the error."""
    dims = 4
    root = torch.randn(dims, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance, mean = root @ root.T / dims + 0.1 * torch.eye(dims), torch.tensor([3.0, -1.0, 0.5, 2.0]).double()
    identity = torch.eye(dims, dtype=torch.float64)

    def exact(x, t, y):
        t = t[0]
        spread = (1 - t) ** 2 * identity + t**2 * covariance
        return mean + (x - t * mean) @ torch.linalg.solve(spread, t * covariance - (1 - t) * identity)

    # An affine map is known from what it does to zero and to the unit vectors: no sampling error.
    probes = torch.cat([torch.zeros(1, dims, dtype=torch.float64), identity])
    errors = []
    for steps in (50, 100, 200, 400):
        arrived = integrate(exact, probes, None, steps=steps)
        linear = arrived[1:] - arrived[0]
        errors.append([float((arrived[0] - mean).norm()), float((linear.T @ linear - covariance).norm())])
    of_mean, of_covariance = zip(*errors, strict=True)
    assert of_covariance[-1] < 0.05 * float(covariance.norm()) and max(of_mean) < 1e-12
    for coarse, fine in zip(of_covariance, of_covariance[1:], strict=False):
        assert coarse / fine == pytest.approx(2, rel=0.1)


def test_times_follow_their_density_and_shift():
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    assert shaped_time(uniform) is uniform
    normal = torch.logit(shaped_time(uniform, "logit-normal").double())
    assert abs(normal.mean()) < 1e-3 and normal.std() == pytest.approx(1, abs=2e-3)
    for density in ("uniform", "logit-normal"):
        t = shaped_time(uniform, density, 3.0)
        assert t.min() >= 0 and t.max() <= 1 and (t.diff() >= 0).all()
        assert t[4999:5001].mean() == pytest.approx(1 / 4, abs=1e-3)  # of the middle 1/2: 1/2 / (1/2 + 3/2)
    ends = shaped_time(torch.tensor([0.0, 1.0]), "logit-normal", 2.0)
    assert ends.tolist() == [0.0, 1.0]
