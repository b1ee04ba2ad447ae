"""Every command refuses bad input in one line, with exit code 2, before any work, and leaves nothing behind."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from generator.latte import Latte
from latents_cache import create_latents
from runtime.run import write_json
from tokenizer import PVVAE, PVVAEConfig
from videos import write_video

ROOT = Path(__file__).parents[1]
TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")


def write_latents(path: Path, **attributes) -> None:
    writer = create_latents(path, 4, (4, 2, 2, 2), {"kind": "latents", "num_classes": 0, **attributes})
    random = np.random.default_rng(0)
    for row in range(4):
        writer.write(row, random.standard_normal((4, 2, 2, 2)), random.standard_normal((4, 2, 2, 2)))
    writer.finish()


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """A folder with good and bad files of every kind."""
    folder = tmp_path_factory.mktemp("stage")
    torch.manual_seed(0)
    PVVAE(TINY).save_pretrained(folder / "vae")
    clip = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3)).astype(np.uint8)
    for name in ("good", "cut", "text", "zero", "short", "empty"):
        (folder / name).mkdir()
    write_video(folder / "good" / "a.mp4", clip, 8)
    write_video(folder / "short" / "a.mp4", clip[:6], 8)
    whole = (folder / "good" / "a.mp4").read_bytes()
    (folder / "cut" / "a.avi").write_bytes(whole[: len(whole) // 2])
    (folder / "text" / "a.avi").write_text("this is not a video\n" * 20)
    (folder / "zero" / "a.avi").write_bytes(b"")
    clip_spec = json.dumps({"num_frames": 5, "size": 32, "frame_stride": 1, "window": "random"})
    write_latents(
        folder / "latents.h5",
        encoder_hash="another",
        tokenizer=str(folder / "vae"),
        data="moving_shapes",
        split="train",
        root="",
        clip=clip_spec,
        data_fingerprint="x",
    )
    (folder / "cut.h5").write_bytes((folder / "latents.h5").read_bytes()[:900])
    (folder / "waiting.h5.partial").write_bytes((folder / "latents.h5").read_bytes())
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["x"] = np.zeros(3)
    (folder / "text.h5").write_text("not hdf5")
    # A finished generator run on those latents, without classes.
    config = {
        "channels": 4,
        "groups": 2,
        "height": 2,
        "width": 2,
        "num_classes": 0,
        "hidden_size": 8,
        "depth": 2,
        "num_heads": 2,
    }
    from generator.latte import LatteConfig
    from runtime.checkpoint import save_checkpoint

    model = Latte(LatteConfig(**config))
    facts = {
        "mean": [0.0] * 4,
        "std": [1.0] * 4,
        "encoder_hash": "another",
        "tokenizer": str(folder / "vae"),
        "data": "moving_shapes",
        "split": "train",
        "root": "",
        "clip": clip_spec,
        "num_classes": 0,
        "rows": 4,
        "path": "latents.h5",
    }
    save_checkpoint(
        folder / "runs" / "gen",
        5,
        tensors={"model": model.state_dict(), "ema": model.state_dict()},
        state={"latents": facts},
        files={"config.json": model.config.__dict__},
    )
    write_json(folder / "runs" / "gen" / "config.json", {"model": config})
    write_json(
        folder / "runs" / "gen" / "manifest.json",
        {"kind": "generator", "name": "gen", "started": "2026", "sessions": [], "identity": {}, "latents": facts},
    )
    return folder


# Command line after `python -m`; {…} are files of the stage; the words must be in the message.
TABLE = [
    ("tokenizer.train --stpes 3", "did you mean --steps"),
    ("tokenizer.train --steps many", "expected a whole number"),
    ("tokenizer.train --steps 0", "too small"),
    ("tokenizer.train --steps 2", "at least 3"),
    ("tokenizer.train run", "stray word"),
    ("tokenizer.train --steps 3 --steps 4", "given twice"),
    ("tokenizer.train --learning-rate nan", "expected a number"),
    ("tokenizer.train --preset tiny", "known: paper"),
    ("tokenizer.train --stage vidoe", "did you mean video"),
    ("tokenizer.train --data ucf1O1 --root {good} --preset demo", "did you mean ucf101"),
    ("tokenizer.train --data ucf101 --preset demo", "needs --root"),
    ("tokenizer.train --data videos --root {stage}/nowhere --preset demo", "no such folder"),
    ("tokenizer.train --data videos --root {empty} --preset demo", "nothing of data set"),
    ("tokenizer.train --data videos --root {cut} --preset demo", "cannot be read"),
    ("tokenizer.train --data videos --root {text} --preset demo", "cannot be read"),
    ("tokenizer.train --data videos --root {zero} --preset demo", "empty"),
    ("tokenizer.train --data videos --root {short} --preset demo", "17"),
    ("tokenizer.train --size 40", "multiple of 16"),
    ("tokenizer.train --num-frames 16", "nearest are 13 and 17"),
    ("tokenizer.train --name a/b --steps 3", "folder name"),
    ("tokenizer.train --device tpu", "--device"),
    ("tokenizer.train --init-from nowhere", "neither a folder nor a known name"),
    ("tokenizer.train --data videos --root {good}", "vgg16-397923af.pth"),
    ("tokenizer.encode", "no tokenizer run"),
    ("tokenizer.encode --tokenizer nowhere", "neither a folder nor a known name"),
    ("tokenizer.encode --tokenizer {stage}/vae", "--data is needed"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 40", "multiple of 16"),
    (
        "tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 32 --max-clips 2 --out {latents}",
        "holds other latents",
    ),
    ("tokenizer.reconstruct --tokenizer {stage}/vae", "--video"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {stage}/nowhere.mp4", "no such file"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {text}/a.avi", "not a"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --observed 17", "nothing of --frames"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --observed 8", "do not fit"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {short}/a.mp4", "only"),
    ("tokenizer.export --run {stage}/vae", "--out is needed"),
    ("tokenizer.export --out new", "no tokenizer run"),
    ("tokenizer.export --run {stage}/vae --out new", "not a run directory"),
    ("tokenizer.export --run {stage}/runs/gen --out new", "is a generator run, not a tokenizer run"),
    ("tokenizer.export --run {stage}/vae --out new --push-to my-vae", "give user/name"),
    ("tokenizer.export --run {stage}/vae --out new --license Apache_2", "apache-2.0"),
    ("latents_cache.check", "is needed"),
    ("latents_cache.check {stage}/nowhere.h5", "no such"),
    ("latents_cache.check {stage}/waiting.h5", "not complete"),
    ("latents_cache.check {stage}/cut.h5", "cut.h5"),
    ("latents_cache.check {stage}/foreign.h5", "not a latents file"),
    ("latents_cache.check {stage}/text.h5", "text.h5"),
    ("generator.train", "--latents is needed"),
    ("generator.train --latents {stage}/waiting.h5", "not complete"),
    ("generator.train --latents {stage}/cut.h5", "cut.h5"),
    ("generator.train --latents {stage}/latents.h5 --preset latte-xxl", "latte-xl"),
    ("generator.sample", "no generator run"),
    ("generator.sample --run {stage}/vae", "not a run directory"),
    ("generator.sample --run {stage}/runs/gen --step 7", "it has 5"),
    ("generator.sample --run {stage}/runs/gen --guidance-scale 2", "guidance"),
    ("generator.sample --run {stage}/runs/gen --samples 0", "too small"),
    ("eval.fvd", "no generator run"),
    ("eval.fvd --run {stage}/runs/gen --samples 1", "least is 2"),
    ("eval.fvd --run {stage}/runs/gen --samples 4 --steps 1", "encoder"),
    ("eval.fvd --run {stage}/runs/gen --samples 4 --features i3d", "i3d_torchscript.pt"),
    ("eval.fvd --run {stage}/runs/gen --features vgg", "not one of"),
    ("eval.decode --run {stage}/runs/gen --count 2 --steps 1", "encoder"),
    ("eval.reconstruction --tokenizer nowhere", "nowhere"),
    ("eval.reconstruction --tokenizer {stage}/vae", "--data is needed"),
    ("eval.convergence --runs {stage}/runs/gen", "encoder"),
    ("eval.report --run {stage}/nowhere", "not a run directory"),
    ("videos.check --data videos --root {empty}", "nothing of data set"),
    ("videos.check --data videos --root {stage}/nowhere", "no such folder"),
    ("videos.check --data ucf101 --root {good}", "UCF101 class"),
]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def filled(line: str, stage: Path) -> list[str]:
    for name in ("good", "cut", "text", "zero", "short", "empty"):
        line = line.replace("{" + name + "}", str(stage / name))
    line = line.replace("{latents}", str(stage / "latents.h5"))
    return line.replace("{stage}", str(stage)).split()


@pytest.mark.parametrize(("line", "words"), TABLE, ids=[line for line, _ in TABLE])
def test_bad_input_is_one_line_and_exit_2_and_leaves_nothing(line, words, stage, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PVVAE_WEIGHTS", raising=False)
    command, *argv = filled(line, stage)
    module = importlib.import_module(command)
    before = files_below(stage)
    entry = (ROOT / (command.replace(".", "/") + ".py")).read_text().rsplit("run_command(", 1)[1]
    job, config = (getattr(module, name.strip()) for name in entry.split(",")[:2])
    with pytest.raises(SystemExit) as end:
        module.run_command(job, config, presets=getattr(module, "preset_defaults", None), argv=[*argv])
    error = capfd.readouterr().err
    last = [text for text in error.splitlines() if text.strip()]
    assert end.value.code == 2
    assert (
        last[-1].startswith("error: ")
        and sum(text.startswith("error: ") for text in last) == 1
        and "Traceback" not in error
    )
    assert words in last[-1], last[-1]
    left = {
        path
        for path in files_below(tmp_path) | (files_below(stage) - before)
        if not path.startswith("runs/gen/samples")
    }
    assert not {path for path in left if not path.endswith(".lock")}


@pytest.mark.parametrize(
    "line", ["tokenizer.train --stpes 3", "generator.train --latents nowhere.h5", "eval.fvd --samples 1"]
)
def test_a_real_process_prints_one_line_and_exits_2(line, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", *line.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: ")
        and done.stderr.count("\n") == 1
        and done.stdout == ""
    )
    assert list(tmp_path.iterdir()) == []
