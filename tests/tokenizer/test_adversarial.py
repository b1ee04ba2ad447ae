"""The discriminators, their spectral norm, and the adversary that trains them."""

import threading

import pytest
import torch
from torch.nn.utils import parametrize

from runtime.checkpoint import load_checkpoint, save_checkpoint
from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig, adversarial
from tokenizer.adversarial import Adversary
from tokenizer.discriminator import Discriminator, DiscriminatorConfig, SpectralNorm
from tokenizer.losses import adaptive_weight, pixel_loss

TINY = DiscriminatorConfig(channels=8, max_channels=16, layers=2)


def clips(frames: int = 5, size: int = 16, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny_discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(TINY)


def tiny_adversary(**rest) -> Adversary:
    return Adversary(TINY, **{"seed": 0, "start": 0, "learning_rate": 2e-3, **rest})


def tensors_of(adversary: Adversary) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in adversary.discriminator.state_dict().items()}


def buffers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if name.endswith((".u", ".v"))}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "frames", "size", "frame_cells", "clip_cells"),
    [(3, 17, 32, (17, 4, 4), (3, 4, 4)), (2, 17, 32, (17, 8, 8), (5, 8, 8)), (3, 1, 256, (1, 32, 32), (1, 32, 32))],
)
def test_every_frame_and_every_clip_gets_a_map_of_logits(layers, frames, size, frame_cells, clip_cells):
    network = Discriminator(DiscriminatorConfig(channels=4, layers=layers))
    of_frames, of_clips = network(clips(frames, size))
    assert of_frames.shape == (2, *frame_cells) and of_clips.shape == (2, *clip_cells)
    assert of_frames.dtype == of_clips.dtype == torch.float32


@pytest.mark.parametrize(("layers", "patch"), [(2, 26), (3, 54)])
def test_a_logit_judges_a_patch_of_the_documented_size(layers, patch):
    network = Discriminator(DiscriminatorConfig(channels=4, layers=layers))
    image = clips(1, 128, batch=1).requires_grad_()
    for logits in network(image):
        middle = logits.shape[-1] // 2
        (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], image, retain_graph=True)
        assert int((gradient.abs().amax((0, 1, 2, 3)) > 0).sum()) == patch


def test_frames_are_judged_one_by_one_and_clips_by_their_order():
    network, video = tiny_discriminator(), clips()
    forward, backward = network(video), network(video.flip(2))
    assert torch.allclose(forward[0].flip(1), backward[0], atol=1e-6)
    assert (forward[1] - backward[1]).abs().max() > 1e-3


def test_no_clip_sees_another_of_its_batch():
    network, video = tiny_discriminator(), clips()
    for together, alone in zip(network(video), network(video[:1]), strict=True):
        assert torch.allclose(together[:1], alone, atol=1e-6)


def test_frames_too_small_for_the_layers_are_refused():
    with pytest.raises(InputError, match="at least 8 pixels a side, got 16x4; take fewer layers"):
        Discriminator(DiscriminatorConfig(channels=4))(torch.zeros(1, 3, 1, 16, 4))
    with pytest.raises(InputError, match="at least 1"):
        DiscriminatorConfig(layers=0)


# -- spectral norm ----------------------------------------------------------------------------------------------------


def test_iterated_spectral_norm_makes_the_largest_singular_value_one():
    torch.manual_seed(0)
    weight = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    norm = SpectralNorm(weight).double()
    for _ in range(500):
        norm.iterate(weight)
    assert float(torch.linalg.matrix_norm(norm(weight).flatten(1), 2)) == pytest.approx(1.0, abs=1e-9)


def test_gradient_through_the_spectral_norm_is_the_closed_form():
    torch.manual_seed(0)
    weight, upstream = (torch.randn(6, 5, dtype=torch.float64) for _ in range(2))
    norm = SpectralNorm(weight).double()
    weight.requires_grad_()
    (norm(weight) * upstream).sum().backward()
    size = norm.u @ weight.detach() @ norm.v
    normalised = weight.detach() / size
    expected = (upstream - (upstream * normalised).sum() * torch.outer(norm.u, norm.v)) / size
    assert torch.allclose(weight.grad, expected, atol=1e-12)


def test_every_convolution_is_normalised_and_nothing_pools_over_the_batch():
    network = tiny_discriminator()
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    assert len(convolutions) == 2 * (TINY.layers + 2)
    for layer in convolutions:
        assert parametrize.is_parametrized(layer, "weight")
        # Within a few per cent after the iterations of the start; the initial weights are of norm 0.5 to 2.
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1.0, abs=0.1)
    assert not [m for m in network.modules() if "Norm" in type(m).__name__ and not isinstance(m, SpectralNorm)]


def test_looking_does_not_move_the_spectral_norm_and_an_update_moves_it_by_one_iteration_of_the_new_weights():
    adversary, video = tiny_adversary(), clips()
    before = tensors_of(adversary)
    adversary.discriminator.train()
    for _ in range(3):
        adversary.generator_loss(video)
    assert same(tensors_of(adversary), before)
    adversary.discriminator_step(video, clips(seed=1))
    after = tensors_of(adversary)
    for name, u in buffers(before).items():
        if name.endswith(".u"):
            stem = name.removesuffix("0.u")
            matrix = after[stem + "original"].flatten(1)
            assert not torch.equal(matrix, before[stem + "original"].flatten(1))
            v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
            assert torch.allclose(after[stem + "0.v"], v, atol=1e-6)
            assert torch.allclose(after[name], torch.nn.functional.normalize(matrix @ v, dim=0), atol=1e-6)


# -- learning ---------------------------------------------------------------------------------------------------------


def test_the_discriminator_learns_to_tell_two_distributions_apart():
    adversary = tiny_adversary()
    for step in range(60):
        real, fake = clips(seed=2 * step) * 0.5, clips(seed=2 * step + 1)  # the same mean, half the contrast
        values = adversary.discriminator_step(real, fake)
        if step == 0:
            assert values["discriminator_loss"] == pytest.approx(1.0, abs=0.05)  # it knows nothing yet
    assert values["discriminator_loss"] < 0.5 and values["real_logits"] > 0.4 and values["fake_logits"] < -0.4


def test_only_the_3d_discriminator_hears_of_the_order_of_frames():
    adversary = tiny_adversary()
    ramp = torch.linspace(-1, 1, 5).view(1, 1, 5, 1, 1)
    for step in range(80):
        video = 0.1 * clips(seed=step) + ramp
        adversary.discriminator_step(video, video.flip(2))
    real, fake = (adversary.discriminator(clip) for clip in (video, video.flip(2)))
    assert abs(float((real[0].mean() - fake[0].mean()).detach())) < 1e-4
    assert float((real[1].mean() - fake[1].mean()).detach()) > 1.0


def test_the_generator_loss_moves_an_output_towards_the_real_clips():
    adversary = tiny_adversary()
    output = torch.full((2, 3, 5, 16, 16), -0.6).requires_grad_()
    optimizer = torch.optim.Adam([output], lr=0.03)
    for step in range(60):
        real = 0.5 + 0.1 * clips(seed=step)
        decoded = output + 0.1 * clips(seed=1000 + step)
        adversary.generator_loss(decoded).backward()
        optimizer.step()
        optimizer.zero_grad()
        adversary.discriminator_step(real, decoded)
    assert abs(float(output.detach().mean()) - 0.5) < 0.5  # from 1.1 away


def test_a_tokenizer_learns_from_it_and_the_adaptive_weight_balances_its_last_layer():
    torch.manual_seed(0)
    vae = PVVAE(PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4)).train()
    adversary, video, last = tiny_adversary(), clips(size=32), vae.decoder.conv_out.weight
    output, _ = vae(video, dropped=1)
    reconstruction, loss = pixel_loss(output, video), adversary.generator_loss(output)
    factor = adaptive_weight(reconstruction, loss, last)
    (weighted,) = torch.autograd.grad(factor * loss, last, retain_graph=True)
    (pull,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    assert float(weighted.norm()) == pytest.approx(float(pull.norm()), rel=1e-5)
    adversary.discriminator_step(video, output)  # the order of the two updates is free
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())
    assert float(vae.encoder.conv_out.weight.grad.abs().sum()) > 0


def test_the_generator_loss_is_minus_the_mean_logit_and_leaves_the_discriminator_alone():
    adversary, output = tiny_adversary(), clips().requires_grad_()
    before = tensors_of(adversary)
    loss = adversary.generator_loss(output)
    frames, of_clips = adversary.discriminator(output)
    assert float(loss.detach()) == pytest.approx(-0.5 * float((frames.mean() + of_clips.mean()).detach()), rel=1e-5)
    loss.backward()
    assert same(tensors_of(adversary), before) and all(p.grad is None for p in adversary.parameters)
    step = 1e-2 * output.grad / output.grad.norm()
    moved = adversary.generator_loss(output.detach() - step) - loss.detach()
    # The leaky ReLUs bend a little within the step.
    assert float(moved) == pytest.approx(-1e-2 * float(output.grad.norm()), rel=0.05)


def test_a_discriminator_step_sends_no_gradient_to_the_output_and_keeps_none():
    adversary, output = tiny_adversary(), clips(seed=1).requires_grad_()
    adversary.discriminator_step(clips(), output * 1.0)
    assert output.grad is None and all(p.grad is None and not p.requires_grad for p in adversary.parameters)


def test_a_step_in_parts_is_the_same_step_with_fewer_clips_at_a_time(monkeypatch):
    found, sizes = [], []
    judge = Discriminator.forward
    monkeypatch.setattr(Discriminator, "forward", lambda self, video: sizes.append(len(video)) or judge(self, video))
    keep = dict(average_gradients=lambda parameters: found.append([one.grad.clone() for one in parameters]))
    video, output = clips(batch=4), clips(batch=4, seed=1)
    values = [tiny_adversary(**keep).discriminator_step(video, output, parts=parts) for parts in (1, 2)]
    assert sizes == [8, 4, 4] and values[0] == pytest.approx(values[1], rel=1e-4)
    whole, summed = (torch.cat([one.flatten() for one in gradients]) for gradients in found)
    assert (whole - summed).norm() < 1e-3 * whole.norm()


@pytest.mark.parametrize("frames", [1, 5])
def test_every_parameter_gets_a_gradient_also_from_images(frames):
    found = []

    def spy(parameters):
        found.extend(parameter.grad for parameter in parameters)

    adversary = tiny_adversary(average_gradients=spy)
    adversary.discriminator_step(clips(frames), clips(frames, seed=1))
    assert len(found) == len(adversary.parameters) and all(gradient is not None for gradient in found)


def test_the_learning_rate_and_the_clip_act():
    still, slow, clipped = tiny_adversary(), tiny_adversary(), tiny_adversary(gradient_clip=1e-12)
    start = tensors_of(still)
    still.discriminator_step(clips(), clips(seed=1), learning_rate=0.0)
    slow.discriminator_step(clips(), clips(seed=1), learning_rate=1e-5)
    clipped.discriminator_step(clips(), clips(seed=1))
    moved = {
        who: max(float((tensors_of(a)[n] - start[n]).abs().max()) for n in start if n.endswith(("original", "bias")))
        for who, a in {"still": still, "slow": slow, "clipped": clipped}.items()
    }
    assert moved["still"] == 0.0 and moved["slow"] == pytest.approx(1e-5, rel=0.05)  # Adam's first step is its rate
    assert moved["clipped"] < 1e-6  # below Adam's eps


def test_it_takes_part_from_its_start_on():
    adversary = tiny_adversary(start=5000)
    assert [adversary.is_active(step) for step in (0, 4999, 5000, 9000)] == [False, False, True, True]


@pytest.mark.bf16
def test_bfloat16_convolutions_keep_float32_logits_and_weights():
    adversary, plain = tiny_adversary(dtype=torch.bfloat16), tiny_adversary()
    loss = adversary.generator_loss(clips())
    assert loss.dtype == torch.float32 and loss != plain.generator_loss(clips())
    assert float(loss) == pytest.approx(float(plain.generator_loss(clips())), abs=5e-3)
    adversary.discriminator_step(clips(), clips(seed=1))
    assert {value.dtype for value in tensors_of(adversary).values()} == {torch.float32}


# -- resume, processes, accidents -------------------------------------------------------------------------------------


def test_a_resumed_adversary_goes_on_bit_for_bit(tmp_path):
    whole, first = tiny_adversary(), tiny_adversary()
    log = []
    for step in range(6):
        log.append(whole.discriminator_step(clips(seed=2 * step), clips(seed=2 * step + 1)))
    for step in range(3):
        assert first.discriminator_step(clips(seed=2 * step), clips(seed=2 * step + 1)) == log[step]
    state = first.state_dict()
    path = save_checkpoint(tmp_path, 3, tensors={"discriminator": state["tensors"]}, optimizer=state["optimizer"])
    read = load_checkpoint(path, names=("discriminator",), optimizer=True)
    second = tiny_adversary(seed=7)
    second.load_state_dict({"tensors": read.tensors["discriminator"], "optimizer": read.optimizer})
    for step in range(3, 6):
        assert second.discriminator_step(clips(seed=2 * step), clips(seed=2 * step + 1)) == log[step]
    assert same(tensors_of(whole), tensors_of(second))


def test_the_state_of_another_size_is_refused():
    other = Adversary(DiscriminatorConfig(channels=4, layers=2), seed=0)
    with pytest.raises(InputError, match="discriminator: the weights do not fit"):
        tiny_adversary().load_state_dict(other.state_dict())


def test_weights_depend_on_the_seed_and_not_on_what_was_drawn_before():
    first = tensors_of(tiny_adversary())
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    assert same(first, tensors_of(tiny_adversary())) and torch.equal(torch.rand(1), expected)
    assert not same(first, tensors_of(tiny_adversary(seed=1)))


def test_a_loss_that_is_not_finite_skips_the_update_and_is_counted():
    adversary, broken = tiny_adversary(), clips(seed=1)
    adversary.discriminator_step(clips(), clips(seed=1))
    broken[0, 0, 0, 0, 0] = float("nan")
    before, optimizer = tensors_of(adversary), adversary.optimizer.state_dict()
    for count in (1, 2):
        assert adversary.discriminator_step(clips(), broken)["discriminator_skipped"] == count
    assert same(tensors_of(adversary), before) and adversary.optimizer.state_dict()["state"] == optimizer["state"]
    assert adversary.discriminator_step(clips(), clips(seed=1))["discriminator_skipped"] == 0
    assert (adversary.skipped, adversary.skipped_in_a_row) == (2, 0)
    assert all(torch.isfinite(value).all() for value in tensors_of(adversary).values())


def test_a_loss_that_is_not_finite_is_seen_even_when_its_gradient_is(monkeypatch):
    """Rounding may overflow in the loss alone; only gradients are averaged, so they have to carry the news."""
    adversary, heard = tiny_adversary(average_gradients=lambda ps: heard.append(ps[0].grad.isnan().any())), []
    genuine = adversarial.hinge_discriminator_loss
    monkeypatch.setattr(adversarial, "hinge_discriminator_loss", lambda *logits: genuine(*logits) + float("inf"))
    assert adversary.discriminator_step(clips(), clips(seed=1))["discriminator_skipped"] == 1
    assert heard == [True] and same(tensors_of(adversary), tensors_of(tiny_adversary()))


def in_two_threads(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[Adversary]:
    """One step of two adversaries that average their gradients, as two processes would."""
    meeting, gradients = threading.Barrier(2), [None, None]
    adversaries = []

    def averaging(rank):
        def average_gradients(parameters):
            gradients[rank] = [parameter.grad.clone() for parameter in parameters]
            meeting.wait(timeout=30)
            for parameter, a, b in zip(parameters, *gradients, strict=True):
                parameter.grad.copy_((a + b) / 2)
            meeting.wait(timeout=30)

        return average_gradients

    adversaries = [tiny_adversary(average_gradients=averaging(rank)) for rank in range(2)]
    threads = [
        threading.Thread(target=adversary.discriminator_step, args=batch)
        for adversary, batch in zip(adversaries, batches, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return adversaries


def test_processes_that_average_gradients_stay_equal_and_learn_as_one_with_the_whole_batch():
    real, fake = clips(batch=4), clips(batch=4, seed=1)
    a, b = in_two_threads([(real[:2], fake[:2]), (real[2:], fake[2:])])
    assert same(tensors_of(a), tensors_of(b))
    alone = tiny_adversary()
    alone.discriminator_step(real, fake)
    first = alone.optimizer.state_dict()["state"]
    for index, state in a.optimizer.state_dict()["state"].items():
        assert torch.allclose(state["exp_avg"], first[index]["exp_avg"], atol=1e-7)  # float32 sums in another order


def test_what_is_not_finite_in_one_process_is_skipped_by_all():
    real, fake = clips(batch=4), clips(batch=4, seed=1)
    fake[3] = float("inf")
    a, b = in_two_threads([(real[:2], fake[:2]), (real[2:], fake[2:])])
    assert (a.skipped, b.skipped) == (1, 1)
    assert same(tensors_of(a), tensors_of(b)) and same(tensors_of(a), tensors_of(tiny_adversary()))


@pytest.mark.gpu
def test_a_gpu_takes_the_step_that_the_cpu_takes():
    here, there = tiny_adversary(), tiny_adversary(device="cuda")
    expected = here.discriminator_step(clips(), clips(seed=1))
    found = there.discriminator_step(clips().cuda(), clips(seed=1).cuda())
    assert found == pytest.approx(expected, abs=1e-2)  # TF32 in the convolutions
    assert all(value.is_cuda for value in tensors_of(there).values())
