"""Feature networks: the published graph of I3D, and the judge of synthetic clips."""

import hashlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eval import I3D
from eval.features import load_features
from eval.features.i3d import MIXED, same_padding
from eval.features.i3d_files import name_in_our_layout
from eval.features.shapes import ShapesNet
from eval.train_features import TrainFeaturesConfig, measure, train_features
from runtime.errors import InputError
from videos import ClipSpec, open_dataset, to_float


@pytest.fixture(scope="module")
def i3d():
    """I3D with random weights and lively running statistics."""
    torch.manual_seed(0)
    network = I3D()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, torch.nn.Conv3d):
                torch.nn.init.kaiming_normal_(module.weight)
    return network.eval()


def test_i3d_has_the_published_parameters_and_names():
    with torch.device("meta"):
        state = I3D().state_dict()
    learned = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert sum(p.numel() for p in I3D().parameters()) == 12_697_264
    assert (len(state), len(learned)) == (344, 287)
    lines = sorted(f"{name}:{','.join(map(str, value.shape))}" for name, value in learned.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "3e7cbb13c0e870f641ed86b55bc658f18c1bd9700e15fe78093b707c91730476"
    assert all(m.eps == 1e-3 for m in I3D().modules() if isinstance(m, torch.nn.BatchNorm3d))
    assert {m.eps for m in I3D(bn_eps=1e-5).modules() if isinstance(m, torch.nn.BatchNorm3d)} == {1e-5}


def second_construction(state: dict, video: torch.Tensor) -> torch.Tensor:
    """I3D written anew as plain function calls, SAME padding from the remainder form."""

    def pad(x, kernel, stride):
        sides = []
        for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
            total = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
            sides += [total // 2, math.ceil(total / 2)]
        return F.pad(x, sides)

    def unit(x, name, stride=1):
        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(pad(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        mean, var, scale, shift = (
            state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        shape = (1, -1, 1, 1, 1)
        x = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + 1e-3) * scale.view(shape) + shift.view(shape)
        return x.clamp(min=0)

    def pool(x, kernel, stride):
        return F.max_pool3d(pad(x, kernel, stride), kernel, stride)

    def mixed(x, name):
        branches = [
            unit(x, f"{name}.b0"),
            unit(unit(x, f"{name}.b1a"), f"{name}.b1b"),
            unit(unit(x, f"{name}.b2a"), f"{name}.b2b"),
            unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"),
        ]
        return torch.cat(branches, 1)

    x = pool(unit(video, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for block in "bcdef":
        x = mixed(x, f"Mixed_4{block}")
    x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")
    x = x.unfold(2, 2, 1).mean((-1, 3, 4))  # [B, C, T'] : means over two frames and the whole picture
    return (
        torch.einsum("bct,kc->bkt", x, state["logits.conv3d.weight"][:, :, 0, 0, 0])
        + state["logits.conv3d.bias"][None, :, None]
    ).mean(2)


@pytest.mark.parametrize("frames", [9, 17])
def test_i3d_equals_a_second_construction(i3d, frames):
    video = torch.rand(1, 3, frames, 224, 224, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    with torch.no_grad():
        ours, theirs = i3d(video), second_construction(i3d.state_dict(), video)
    assert ours.shape == (1, 400)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(("frames", "steps"), [(9, 1), (10, 1), (16, 1), (17, 2), (32, 3), (33, 4)])
def test_i3d_averages_the_published_number_of_time_steps(frames, steps):
    length = frames
    for stride in (2, 2, 2):  # the stem, pool 4a, pool 5a: SAME, so rounded up
        length = -(-length // stride)
    assert length - 1 == steps
    with torch.device("meta"):
        assert I3D().eval()(torch.zeros(2, 3, frames, 224, 224)).shape == (2, 400)


def test_same_padding_puts_the_odd_zero_at_the_end():
    padded = same_padding(torch.ones(1, 1, 1, 1, 4), (1, 1, 3), (1, 1, 2))
    assert padded[0, 0, 0, 0].tolist() == [1, 1, 1, 1, 0]


def test_the_torchscript_layout_maps_onto_ours():
    for theirs, ours in {
        "conv3d_1a_7x7.conv3d.weight": "Conv3d_1a_7x7.conv3d.weight",
        "mixed_3b.branch_1.0.batch3d.running_mean": "Mixed_3b.b1a.bn.running_mean",
        "mixed_5c.branch_3.1.conv3d.weight": "Mixed_5c.b3b.conv3d.weight",
        "conv3d_0c_1x1.conv3d.bias": "logits.conv3d.bias",
    }.items():
        assert name_in_our_layout(theirs) == ours
        assert ours in I3D().state_dict()
    assert len(MIXED) == 9


def test_i3d_refuses_clips_that_do_not_fit_and_names_its_missing_file(monkeypatch, tmp_path):
    for shape in ((1, 3, 8, 224, 224), (1, 3, 9, 112, 112), (1, 1, 9, 224, 224)):
        with pytest.raises(InputError, match="I3D takes"):
            I3D()(torch.zeros(shape))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PVVAE_WEIGHTS", raising=False)
    with pytest.raises(InputError, match=r"i3d_torchscript\.pt .*51,235,320 bytes.*sha256"):
        load_features("i3d")
    with pytest.raises(InputError, match="not known"):
        load_features("resnet")


def test_the_shipped_judge_names_shape_and_motion_of_real_clips():
    judge = ShapesNet.from_file()
    accuracy = measure(
        judge, open_dataset("moving_shapes", split="test", clip=ClipSpec(17, 32)), 240, torch.device("cpu")
    )
    recipe = ShapesNet.recipe()
    # Measured 1.000 and 0.993 on 2,000 clips; 240 clips may miss a few.
    assert accuracy["shape"] >= 0.98 and accuracy["motion"] >= 0.97
    assert recipe["test_accuracy"]["moving_shapes"]["clips"] == 2000 and "train_features" in recipe["command"]


def test_the_judge_takes_any_size_and_does_not_depend_on_the_batch():
    judge = load_features("shapes")
    dataset = open_dataset("moving_shapes", clip=ClipSpec(17, 64))
    video = to_float(torch.stack([torch.as_tensor(dataset[i]["video"]) for i in range(3)]))
    features = judge.features(video)
    assert features.shape == (3, judge.dim) and len(judge.version_hash) == 12
    assert torch.allclose(features[1:2], judge.features(video[1:2]), atol=1e-4)
    assert torch.allclose(judge.probabilities(video).sum(1), torch.ones(3), atol=1e-5)
    assert judge.probabilities(video).argmax(1).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="shapes network takes"):
        judge.features(video[:, :, :5])


def test_the_judge_needs_the_frames_in_order():
    judge = load_features("shapes")
    dataset = open_dataset("moving_shapes", split="test", clip=ClipSpec(17, 32))
    video = to_float(torch.stack([torch.as_tensor(dataset[i]["video"]) for i in range(60)]))
    label = np.array([dataset[i]["label"] for i in range(60)]) % 4
    shuffled = video[:, :, torch.randperm(17, generator=torch.Generator().manual_seed(0))]
    right = [
        (judge.probabilities(v).argmax(1).numpy() % 4 == label).mean()
        for v in (video, shuffled, video[:, :, :1].expand_as(video))
    ]
    assert right[0] > 0.95 and right[1] < 0.8 and right[2] < 0.6


def test_training_the_judge_writes_weights_with_their_recipe(tmp_path, capsys):
    out = tmp_path / "judge.safetensors"
    train_features(TrainFeaturesConfig(steps=3, batch_size=4, test_clips=12, out=str(out), device="cpu"))
    assert ShapesNet.from_file(out).dim == 128 and ShapesNet.recipe(out)["flags"]["steps"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["judge.safetensors"]
    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(InputError, match="no weights of the shapes network"):
        ShapesNet.from_file(out)
