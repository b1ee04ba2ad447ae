"""Feature networks by name, what they all refuse, and the judge of synthetic clips."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from benchmarks.train_judge import TrainJudgeConfig, measure, train_judge
from eval.features import FEATURE_NETWORKS, FRECHET_NAMES, KERNEL_NAMES, load_features
from eval.features.c3d import C3D
from eval.features.clips import exact_float32
from eval.features.i3d import I3D
from eval.features.shapes import WEIGHTS, ShapesNet
from runtime.errors import InputError
from videos import ClipSpec, open_dataset, to_float, write_video

EVALUATION = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """No published file is to be found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PVVAE_WEIGHTS", raising=False)


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'resnet' are not known; known: shapes, i3d, i3d-rgb-imagenet, c3d"):
        load_features("resnet")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("i3d", r"i3d_torchscript\.pt .*51,235,320 bytes.*sha256 bec6519f.*flateon.*--download i3d_torchscript"),
        ("i3d-rgb-imagenet", r"rgb_imagenet\.pt .*50,883,138 bytes.*sha256 2609088c.*piergiaj"),
        ("c3d", r"conv3d_deepnetA_ucf\.npz .*size not published, sha256 not p.*rezoo/tgan2.*--download c3d_ucf101"),
    ],
)
def test_absent_weights_name_file_size_hash_address_and_command(name, words, no_weights):
    with pytest.raises(InputError, match=words):
        load_features(name)


def test_only_tf_hubs_i3d_makes_an_fvd():
    assert [name for name in FEATURE_NETWORKS if FRECHET_NAMES.get(name) == "FVD"] == ["i3d"]
    assert [name for name in FEATURE_NETWORKS if KERNEL_NAMES.get(name) == "KVD"] == ["i3d"]
    assert FRECHET_NAMES["i3d-rgb-imagenet"] == "FD-i3d-rgb-imagenet"


@pytest.mark.parametrize("make", [I3D, C3D, ShapesNet])
def test_bad_clips_are_refused_in_one_line(make):
    with torch.device("meta"):
        network = make()
    good = torch.zeros(1, 3, 17, 32, 32)
    broken = good.clone()
    broken[0, 1, 2, 3, 4] = torch.nan
    for clips, words in [
        (good[:, :, :8], r"T >= (9|16), H, W\], got \[1, 3, 8, 32, 32\]"),
        (good[:, :1], r"takes \[B, 3, "),
        (good[0], r"takes \[B, 3, "),
        (good.to(torch.uint8), "takes floats in .*uint8.*to_float"),
        (broken, "not finite"),
    ]:
        with pytest.raises(InputError, match=words):
            network.features(clips)


@pytest.fixture
def tf32_convolutions():
    before, torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.conv.fp32_precision, "tf32"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.usefixtures("tf32_convolutions")
@pytest.mark.parametrize("make", [I3D, C3D])
def test_published_networks_compute_in_true_float32_and_leave_the_settings(make):
    with torch.device("meta"):
        network, video = make(), torch.zeros(2, 3, 17, 32, 32, dtype=torch.bfloat16)
    seen = []
    next(network.children()).register_forward_pre_hook(
        lambda _, inputs: seen.append((torch.backends.cudnn.conv.fp32_precision, inputs[0].dtype))
    )
    assert network.features(video).shape == (2, network.dim)
    assert seen == [("ieee", torch.float32)] and torch.backends.cudnn.conv.fp32_precision == "tf32"


def recipe_of(path):
    """How weights of the judge were made, and how well they judge."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["recipe"])


def test_the_shipped_judge_names_shape_and_motion_of_real_clips():
    judge = ShapesNet.from_file()
    accuracy = measure(
        judge, open_dataset("moving_shapes", split="test", clip=ClipSpec(17, 32)), 240, torch.device("cpu")
    )
    recipe = recipe_of(WEIGHTS)
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
    train_judge(TrainJudgeConfig(steps=3, batch_size=4, test_clips=12, out=str(out), device="cpu"))
    assert ShapesNet.from_file(out).dim == 128 and recipe_of(out)["flags"]["steps"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["judge.safetensors"]
    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(InputError, match="not readable as weights of the shapes network"):
        ShapesNet.from_file(out)


@pytest.mark.usefixtures("tf32_convolutions")
def test_exact_float32_holds_inside_and_settings_come_back_after_a_failure():
    device, x = torch.device("cpu"), torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="inside"), exact_float32(device):
            assert (x @ x).dtype == torch.float32
            assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
            raise RuntimeError("inside")
        assert (x @ x).dtype == torch.bfloat16 and torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.parametrize(
    ("asked", "still"),
    [
        ("backends.fp32_precision = 'tf32'", "backends.fp32_precision == 'tf32'"),
        ("backends.cuda.matmul.fp32_precision = 'tf32'", "backends.cuda.matmul.fp32_precision == 'tf32'"),
        ("backends.cuda.matmul.allow_tf32 = True", "backends.cuda.matmul.allow_tf32"),
        ("set_float32_matmul_precision('medium')", "get_float32_matmul_precision() == 'medium'"),
    ],
)
def test_exact_float32_holds_whatever_the_caller_asked_for_and_leaves_it(asked, still):
    """In a process of its own, since these settings are of all of it."""
    code = (
        f"import torch\nfrom eval.features.clips import exact_float32\ntorch.{asked}\n"
        "with exact_float32(torch.device('cpu')):\n"
        "    for part in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul):\n"
        "        assert part.fp32_precision == 'ieee'\n"
        f"assert torch.{still}"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_compares_two_folders_of_videos(tmp_path, monkeypatch, capsys):
    """The block of docs/evaluation.md as it stands there, but for smaller clips and the judge that ships."""
    (code,) = re.findall(r"```python\n(.*?load_features\(.*?)```", EVALUATION.read_text(), re.DOTALL)
    dataset = open_dataset("moving_shapes", split="test", clip=ClipSpec(17, 32))
    for place in range(12):
        for folder in ("real", "generated"):
            clip = dataset[place + 12 * (folder == "real")]["video"]
            (tmp_path / folder).mkdir(exist_ok=True)
            write_video(tmp_path / folder / f"{place}.mp4", clip.transpose(1, 2, 3, 0), 8)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('"i3d"', '"shapes"').replace("17, 256", "17, 32"), "evaluation.md", "exec"), {})
    assert re.search(r"Estimate\(value=[0-9.]+, low=", capsys.readouterr().out)
