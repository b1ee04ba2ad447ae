"""The paper's presets at full size: they build, and a training step reaches every parameter."""

import pytest
import torch

from tokenizer.presets import PRESETS
from tokenizer.pvvae import PVVAE
from videos import ClipSpec, open_dataset, to_float


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "paper-transformer"])
def test_forward_and_backward_give_every_parameter_a_finite_gradient(preset):
    # In float32, which every CPU multiplies at its best, at the smallest size with more than one latent cell.
    torch.manual_seed(0)
    vae = PVVAE(PRESETS[preset].model)
    finite = {}

    def note(name: str):
        def after(parameter: torch.Tensor) -> None:
            # Let go at once: all gradients together would take as much memory as the weights, 4.5 GiB of the largest.
            finite[name] = torch.isfinite(parameter.grad).all()
            parameter.grad = None

        return after

    for name, parameter in vae.named_parameters():
        parameter.register_post_accumulate_grad_hook(note(name))
    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(num_frames=17, size=32))
    video = to_float(torch.as_tensor(dataset[0]["video"])[None])
    noise = torch.randn(1, *vae.spec.latent_shape(*video.shape[2:]))
    output, posterior = vae(video, dropped=(3, 4), noise=noise)  # of five groups
    assert output.shape == video.shape and posterior.mean.shape == (1, 64, 3, 2, 2)
    ((output - video).square().mean() + 1e-6 * posterior.kl().mean()).backward()
    assert [name for name, _ in vae.named_parameters() if name not in finite] == []
    assert all(finite.values())
