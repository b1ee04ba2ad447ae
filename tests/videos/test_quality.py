from types import SimpleNamespace

import pytest
import torch

from runtime.errors import InputError
from runtime.published_weights import PublishedFile
from runtime.run import file_sha256
from videos import lpips, psnr, quality, ssim


def noisy_pair(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 2, size, size, generator=generator)
    return x, (x + 0.2 * torch.rand(x.shape, generator=generator)).clamp(0, 1)


def test_psnr_averages_over_frames_and_not_over_errors():
    x = torch.zeros(1, 3, 2, 16, 16, dtype=torch.float64)
    y = x.clone()
    y[:, :, 0], y[:, :, 1] = 0.1, 0.01  # 20 dB and 40 dB; the error of the whole clip would give 23 dB
    assert float(psnr(x, y)) == pytest.approx(30.0, abs=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_each_video_is_judged_alone(measure):
    x, y = noisy_pair()
    together = measure(x, y)
    assert together.dtype == torch.float64 and together.shape == (2,)
    for i in range(2):
        assert float(measure(x[i : i + 1], y[i : i + 1])) == pytest.approx(float(together[i]), abs=1e-12)


@pytest.mark.parametrize("measure", [psnr, ssim, lpips])
def test_bytes_are_not_taken_for_values_up_to_one(measure):
    x = torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8)
    with pytest.raises(InputError, match="floats"):
        measure(x, x)


@pytest.mark.parametrize("measure", [psnr, ssim, lpips])
def test_videos_from_minus_one_to_one_are_not_taken_for_those_from_zero(measure):
    x, y = noisy_pair()
    with pytest.raises(InputError, match="far below"):
        measure(2 * x - 1, 2 * y - 1)
    assert psnr(x - 0.1, y).shape == (2,)  # a decoder's, not clamped


@pytest.fixture
def random_alexnet(tmp_path, monkeypatch):
    """A random AlexNet as the published file; gives its state dict."""
    pytest.importorskip("lpips")
    import torchvision

    torch.manual_seed(0)
    weights = torchvision.models.alexnet(weights=None).state_dict()
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save(weights, path)
    published = PublishedFile(path.name, path.stat().st_size, file_sha256(path), "https://example.org/alexnet.pth")
    monkeypatch.setattr("runtime.published_weights.PUBLISHED", {"alexnet": published})
    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(quality, "_networks", {})
    return SimpleNamespace(weights=weights, path=path)


def test_lpips_says_below_which_size_nothing_is_left_of_a_frame(random_alexnet):
    x, y = noisy_pair(quality.LPIPS_SMALLEST["alex"])
    assert torch.isfinite(lpips(x, y)).all()
    with pytest.raises(InputError, match="at least 31 pixels, got 30x31"):
        lpips(x[..., 1:, :], y[..., 1:, :])


def test_lpips_takes_every_layer_of_the_file_and_the_published_heads(random_alexnet):
    network = quality.lpips_network("alex")
    convolutions = {name: layer for name, layer in network.net.named_modules() if isinstance(layer, torch.nn.Conv2d)}
    assert len(convolutions) == 5
    for name, layer in convolutions.items():
        index = name.split(".")[-1]
        assert torch.equal(layer.weight, random_alexnet.weights[f"features.{index}.weight"])
        assert torch.equal(layer.bias, random_alexnet.weights[f"features.{index}.bias"])
    heads = torch.cat([head.model[-1].weight.flatten() for head in network.lins])
    assert (heads >= 0).all()  # the published heads were trained under that constraint; random ones are not
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_lpips_is_zero_for_equal_videos_and_grows_with_the_difference(random_alexnet):
    x, y = noisy_pair()
    assert lpips(x, x).abs().max() == 0
    assert (lpips(x, y) > 0).all() and (lpips(x, y) > lpips(x, (x + y) / 2)).all()


def test_lpips_equals_the_package_with_the_same_backbone(random_alexnet):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's deprecation notes inside lpips
        import lpips as package

        theirs = package.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    layers = {f"features.{name.split('.')[-1]}": layer for name, layer in theirs.net.named_modules() if "." in name}
    for name, layer in layers.items():
        if isinstance(layer, torch.nn.Conv2d):
            layer.load_state_dict({k: random_alexnet.weights[f"{name}.{k}"] for k in ("weight", "bias")})
    x, y = noisy_pair()
    with torch.no_grad():
        expected = [
            theirs(a, b, normalize=True).mean() for a, b in zip(x.transpose(1, 2), y.transpose(1, 2), strict=True)
        ]
    assert torch.allclose(lpips(x, y).float(), torch.stack(expected), rtol=1e-6, atol=0)


def test_a_changed_weight_file_is_refused(random_alexnet):
    random_alexnet.path.write_bytes(random_alexnet.path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="sha256"):
        lpips(*noisy_pair())
