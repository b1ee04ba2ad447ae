"""C3D: TGANv2's graph and preprocessing held to a second construction, and its two NumPy archives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eval.features import load_features
from eval.features.c3d import C3D, read_mean, read_weights
from runtime.errors import InputError
from runtime.published_weights import locate
from runtime.weights import load_strictly

# The layers of the archive: weights' shape, in Caffe's order.
LAYERS = {
    "conv1a": (64, 3, 3, 3, 3),
    "conv2a": (128, 64, 3, 3, 3),
    "conv3a": (256, 128, 3, 3, 3),
    "conv3b": (256, 256, 3, 3, 3),
    "conv4a": (512, 256, 3, 3, 3),
    "conv4b": (512, 512, 3, 3, 3),
    "conv5a": (512, 512, 3, 3, 3),
    "conv5b": (512, 512, 3, 3, 3),
    "fc6": (4096, 8192),
    "fc7": (4096, 4096),
    "fc8": (101, 4096),
}


@pytest.fixture(scope="module")
def c3d():
    """C3D with random weights that keep activations alive, and a mean clip that differs everywhere."""
    torch.manual_seed(0)
    network = C3D()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.uniform_(-((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5)
                module.bias.uniform_(-0.1, 0.1)
        network.mean.uniform_(80, 120)
    return network.requires_grad_(False)


def clips(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_parameters_and_names_are_the_published_ones():
    with torch.device("meta"):
        network = C3D()
    assert sum(p.numel() for p in network.parameters()) == 78_409_573
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {f"{layer}.weight": shape for layer, shape in LAYERS.items()} | {
        f"{layer}.bias": shape[:1] for layer, shape in LAYERS.items()
    }


def test_every_layer_has_the_published_shape():
    with torch.device("meta"):
        network, clip = C3D(), torch.zeros(2, 3, 16, 112, 112)
    found = {}
    for name, part in network.named_children():
        part.register_forward_hook(lambda _, __, output, name=name: found.__setitem__(name, tuple(output.shape[1:])))
    assert network(clip).shape == (2, 101)
    assert found == {
        "conv1a": (64, 16, 112, 112),
        "conv2a": (128, 16, 56, 56),
        "conv3a": (256, 8, 28, 28),
        "conv3b": (256, 8, 28, 28),
        "conv4a": (512, 4, 14, 14),
        "conv4b": (512, 4, 14, 14),
        "conv5a": (512, 2, 7, 7),
        "conv5b": (512, 2, 7, 7),
        "fc6": (4096,),
        "fc7": (4096,),
        "fc8": (101,),
    }


def second_preparation(video: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """RGB [-1, 1] -> blue first, 0..255 minus the mean, by interpolation matrices over `linspace(0, n - 1, 112)`."""

    def weights(size):
        places = np.linspace(0, size - 1, 112)
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)[None]))

    rows, columns = weights(video.shape[3]), weights(video.shape[4])
    bytes_ = video[:, [2, 1, 0], :16] * 128 + 128
    return np.einsum("ih,jw,bcthw->bctij", rows, columns, bytes_, optimize=True) - mean


def second_construction(state: dict, x: torch.Tensor) -> torch.Tensor:
    """The graph anew: convolutions on explicitly padded input, pooling as maxima over reshaped, completed windows."""

    def conv(x, name):
        x = F.conv3d(F.pad(x, (1,) * 6), state[f"{name}.weight"])
        return (x + state[f"{name}.bias"].view(1, -1, 1, 1, 1)).clamp(min=0)

    def pool(x, time):
        _, _, frames, height, width = x.shape
        x = F.pad(x, (0, width % 2, 0, height % 2, 0, frames % time), value=-torch.inf)
        windows = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, time))
        return windows.amax((3, 5, 7))

    for layers, time in (("1a", 1), ("2a", 2), ("3a 3b", 2), ("4a 4b", 2), ("5a 5b", 2)):
        for layer in layers.split():
            x = conv(x, f"conv{layer}")
        x = pool(x, time)
    x = x.reshape(len(x), -1)  # channels, then time, then rows, then columns
    for layer in ("fc6", "fc7", "fc8"):
        x = x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        x = x if layer == "fc8" else x.clamp(min=0)
    return x


def test_preparation_equals_a_second_construction(c3d):
    video = clips(2, 3, 17, 20, 150)
    expected = second_preparation(video.double().numpy(), c3d.mean.double().numpy())
    found = c3d.prepare(video)
    assert found.shape == (2, 3, 16, 112, 112) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=5e-3)  # of 255


def test_red_becomes_the_last_channel_and_grey_lies_at_128():
    video = torch.zeros(1, 3, 16, 8, 8)
    video[:, 0] = 1.0
    levels = C3D().prepare(video)
    assert levels.mean((0, 2, 3, 4)).tolist() == [128.0, 128.0, 256.0]


def test_logits_equal_a_second_construction_whatever_the_batch(c3d):
    video = clips(2, 3, 17, 64, 64)
    with torch.no_grad():
        ours = c3d.features(video)
        theirs = second_construction(c3d.state_dict(), c3d.prepare(video[1:]))
    assert ours.shape == (2, c3d.dim) and float(theirs.std()) > 0.1
    # float32 through eleven layers, once as a batch of two, once alone
    assert torch.allclose(ours[1:], theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    assert not torch.allclose(ours[:1], theirs, rtol=1e-2)
    chances = c3d.classify(ours)
    assert torch.allclose(chances.sum(1), torch.ones(2), atol=1e-5)
    assert torch.equal(chances.argmax(1), ours.argmax(1))


def test_only_the_first_sixteen_frames_are_seen(c3d):
    video = clips(1, 3, 17, 16, 16)
    other = video.clone()
    other[:, :, 16] = 0.0
    assert torch.equal(c3d.prepare(video), c3d.prepare(other))
    with pytest.raises(InputError, match="C3D takes .*T >= 16"):
        c3d.probabilities(video[:, :, :15])


# --- published files --------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The folder where files are looked for, with a mean clip in it; emptied afterwards, for the files are large."""
    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mean = np.random.default_rng(0).uniform(0, 255, (3, 16, 128, 171)).astype(np.float32)
    np.savez(tmp_path / "mean2.npz", mean=mean)
    yield tmp_path
    for path in tmp_path.glob("*.npz"):
        path.unlink()


WEIGHTS = "conv3d_deepnetA_ucf.npz"


def arrays_of(network: nn.Module) -> dict[str, np.ndarray]:
    """The archive of a network's weights, in chainer's names."""
    names = {"weight": "W", "bias": "b"}
    return {
        f"{layer}/{names[kind]}": value.numpy()
        for (layer, kind), value in ((name.split("."), value) for name, value in network.state_dict().items())
    }


def small_arrays(**changes) -> dict[str, np.ndarray]:
    """An archive with the right names, whose first layer fits; what fails there never reads the large layers."""
    arrays = {f"{layer}/{part}": np.zeros(1, np.float32) for layer in LAYERS for part in "Wb"}
    arrays["conv1a/W"], arrays["conv1a/b"] = np.zeros(LAYERS["conv1a"], np.float32), np.zeros(64, np.float32)
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def test_the_archive_and_its_mean_load_into_the_same_network(shelf, c3d):
    np.savez(shelf / WEIGHTS, **arrays_of(c3d))
    network = load_features("c3d")
    for name, value in network.state_dict().items():
        assert torch.equal(value, c3d.state_dict()[name]), name
    with np.load(shelf / "mean2.npz") as found:
        assert np.array_equal(network.mean.numpy(), found["mean"][:, :, 8:120, 8:120])
    assert not any(p.requires_grad for p in network.parameters()) and len(network.version_hash) == 12
    # Preprocessing that was saved along with the weights is left aside; files are known by their contents.
    np.savez(shelf / WEIGHTS, **arrays_of(c3d), **{"pre/W": np.zeros((3, 3, 1, 1, 1), np.float32)})
    again = C3D.from_file(shelf / WEIGHTS)
    assert torch.equal(again.fc8.weight, c3d.fc8.weight) and again.version_hash != network.version_hash


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fc7/W": None}, "missing or unknown arrays: fc7/W"),
        ({"fc9/W": np.zeros(1, np.float32)}, "missing or unknown arrays: fc9/W"),
        ({}, r"conv2a.weight is \[1\], not \[128, 64, 3, 3, 3\]"),
        ({"conv1a/b": np.zeros(64, np.int64)}, "conv1a/b is of type int64, not floats"),
        ({"conv1a/b": np.array([{}] * 64, dtype=object)}, "not readable as a NumPy archive"),
    ],
)
def test_archives_that_do_not_fit_are_refused(changes, words, shelf):
    np.savez(shelf / WEIGHTS, **small_arrays(**changes))
    with torch.device("meta"):
        network = C3D()
    with pytest.raises(InputError, match=words):
        load_strictly(network, read_weights(shelf / WEIGHTS, network), WEIGHTS)


def test_truncated_foreign_and_misshapen_archives_are_refused(shelf):
    path = shelf / WEIGHTS
    np.savez(path, **small_arrays())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=f"{WEIGHTS}: not readable as a NumPy archive"):
        load_features("c3d")
    np.save(shelf / "array.npy", np.zeros(3))
    (shelf / "array.npy").rename(path)
    with pytest.raises(InputError, match="it is no .npz archive"):
        load_features("c3d")
    np.savez(shelf / "mean2.npz", mean=np.zeros((3, 16, 112, 112), np.float32))
    with pytest.raises(InputError, match=r"mean clip must be finite and \[3, 16, 128, 171\], got \[3, 16, 112, 112\]"):
        read_mean(shelf / "mean2.npz")
    (shelf / "mean2.npz").unlink()
    with pytest.raises(InputError, match=r"mean2\.npz is not here"):
        load_features("c3d")


# --- with the published weights ---------------------------------------------------------------------------------


@pytest.mark.skipif(
    locate("c3d_ucf101") is None or locate("c3d_mean") is None,
    reason="conv3d_deepnetA_ucf.npz or mean2.npz is not here; python -m runtime.check --download c3d_ucf101,c3d_mean",
)
def test_the_published_files_fit_and_subtract_the_mean_of_natural_pictures():
    network = load_features("c3d")
    with torch.no_grad():
        chances = network.probabilities(torch.zeros(1, 3, 16, 64, 64))
    assert torch.isfinite(chances).all()
    assert 60 < float(network.mean.mean()) < 130  # bytes of natural pictures
