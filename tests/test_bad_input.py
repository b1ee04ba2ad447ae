"""Every command refuses bad input in one line, with exit code 2, before any work, and leaves nothing behind."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from plans import STUDY_HEAD

from generator.config import LatteConfig
from generator.latte import Latte
from generator.train import TrainConfig, preset_defaults, train
from latents_cache import create_latents
from runtime.checkpoint import save_checkpoint
from runtime.command import parse
from runtime.records import write_json
from tokenizer import PVVAE, PVVAEConfig
from videos import write_video

ROOT = Path(__file__).parents[1]
TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")
CLIP = json.dumps({"num_frames": 5, "size": 32, "frame_stride": 1, "window": "random"})
LATTE = LatteConfig(channels=4, groups=2, height=2, width=2, num_classes=0, hidden_size=8, depth=2, num_heads=2)
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """A folder with good and bad files of every kind."""
    folder = tmp_path_factory.mktemp("stage")
    make_videos(folder)
    make_tokenizers(folder)
    make_latents(folder)
    make_generators(folder)
    make_checkpoints(folder)
    make_results(folder)
    return folder


def make_results(folder: Path) -> None:
    """Results files that are wrong in one way each, and a list of Kinetics-400 that is."""
    row = {"metric": "FVD", "subject": "generated", "value": 1.0}
    about = {"kind": "fvd", "command": "", "created": "", "data": "ucf101", "decoder_hash": "0"}
    for name, text in {
        "text": "not json",
        "row": json.dumps(about | {"rows": [row | {"colour": "red"}]}),
        "source": json.dumps(about | {"rows": [row | {"sources": ["latents.h5"]}]}),
        "other": json.dumps(about | {"kind": "convergence", "rows": []}),
    }.items():
        (folder / f"results-{name}.json").write_text(text)
    (folder / "study.toml").write_text(
        'data = "ucf101"\nseeds = [0]\n[tokenizer]\ntrain = {}\nimages = {}\n[generator.train]\n'
    )
    whole = STUDY_HEAD + '[[arm]]\nname = "A"\nvideo = {}\n'
    for name, text in {
        "digits": f"a = {'9' * 5000}",
        "hexadecimal": f"a = 0x{'f' * 5000}",
        "gate": f"{whole}[gate]\naccuracy-shape = 1{'0' * 400}\n",
        "steps": whole.replace("steps = 2\n", f"steps = 1{'0' * 400}\n"),
    }.items():
        (folder / f"study-{name}.toml").write_text(text)
    (folder / "k400").mkdir()
    (folder / "k400" / "val.csv").write_text("label,youtube_id\n,aaaaaaaaaaa\n")


def make_videos(folder: Path) -> None:
    """`good`, and folders that are wrong in one way each."""
    clip = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3)).astype(np.uint8)
    names = ("good", "cut", "text", "zero", "short", "empty", "wide", "playlist", "links", "broken", "bomb")
    for name in (*names, "ucf/Archery", "coded/Archery"):
        (folder / name).mkdir(parents=True)
    write_video(folder / "good" / "a.mp4", clip, 8)
    write_video(folder / "short" / "a.mp4", clip[:6], 8)
    write_video(folder / "wide" / "a.mp4", clip[:, :2].repeat(8, axis=2), 8)
    content = (folder / "good" / "a.mp4").read_bytes()
    (folder / "cut" / "a.avi").write_bytes(content[: len(content) // 2])
    (folder / "text" / "a.avi").write_text("this is not a video\n" * 20)
    (folder / "zero" / "a.avi").write_bytes(b"")
    (folder / "playlist" / "a.mp4").write_text("ffconcat version 1.0\nfile ../good/a.mp4\n")
    (folder / "links" / "a.mp4").symlink_to(folder / "good" / "a.mp4")
    middle = len(content) // 2
    flipped = bytes(byte ^ 0xFF for byte in content[middle : middle + 2000])
    (folder / "broken" / "a.mp4").write_bytes(content[:middle] + flipped + content[middle + 2000 :])
    (folder / "bomb" / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, lists in (("ucf", b"Archery/v_Archery_g99_c01.avi\n../../etc/passwd\n"), ("coded", b"\xff\xfe\x00")):
        write_video(folder / name / "Archery" / "v_Archery_g01_c01.mp4", clip, 8)
        for split in ("train", "test"):
            (folder / name / f"{split}list01.txt").write_bytes(lists)


def make_tokenizers(folder: Path) -> None:
    """`vae`, and copies of it (`vae-…`) that are wrong in one way each."""
    torch.manual_seed(0)
    for place in (folder / "vae", folder / "vae" / "video"):
        PVVAE(TINY).save_pretrained(place)
    config = json.loads((folder / "vae" / "config.json").read_text())
    weights = (folder / "vae" / "model.safetensors").read_bytes()
    for name, text in {
        "text": "not json",
        "list": "[]",
        "deep": DEEP,
        "digits": '{"blocks": ' + "9" * 1_000_000 + "}",
        "newer": json.dumps(config | {"window_attention": 3}),
        "types": json.dumps(config | {"blocks": "one"}),
        "unfit": json.dumps(config | {"latent_channels": 8}),
        "huge": json.dumps(config | {"channels": [10**9] * 3}),
        "large": json.dumps(config | {"channels": [16_384] * 3, "blocks": 64}),
        "endless": json.dumps(config | {"blocks": 10**12}),
        "patch": json.dumps(config | {"patch": 3}),
        "negative": json.dumps(config | {"latent_channels": -4}),
    }.items():
        place = folder / f"vae-{name}"
        place.mkdir()
        (place / "config.json").write_text(text)
        (place / "model.safetensors").write_bytes(weights)
    for name, content in {
        "cut": weights[:-100],
        "empty": b"",
        "header": (2**60).to_bytes(8, "little") + weights[8:],
        "pickle": b"\x80\x04\x95" + bytes(100),
    }.items():
        place = folder / f"vae-{name}"
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config))
        (place / "model.safetensors").write_bytes(content)
    (folder / "tokenizer-run").mkdir()
    (folder / "tokenizer-run" / "manifest.json").write_text('{"kind": "tokenizer"')


def make_latents(folder: Path) -> None:
    """`latents.h5`, and copies of it that are wrong in one way each."""
    facts = {
        "kind": "latents",
        "num_classes": 0,
        "encoder_hash": "another",
        "tokenizer": str(folder / "vae"),
        "data": "moving_shapes",
        "split": "train",
        "root": "",
        "clip": CLIP,
        "data_fingerprint": "x",
    }
    path = folder / "latents.h5"
    random = np.random.default_rng(0)
    with create_latents(path, 4, LATTE.latent_shape, facts) as writer:
        for row in range(4):
            writer.write(row, *random.standard_normal((2, *LATTE.latent_shape)))
        writer.finish()
    (folder / "cut.h5").write_bytes(path.read_bytes()[:900])
    (folder / "waiting.h5.partial").write_bytes(path.read_bytes())
    (folder / "text.h5").write_text("not hdf5")
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["x"] = np.zeros(3)
    changed: dict = {}

    def copy(name: str):
        shutil.copy(path, folder / f"{name}.h5")
        changed[name] = h5py.File(folder / f"{name}.h5", "r+")
        return changed[name]

    copy("newer").attrs["format_version"] = 2
    copy("samples").attrs["kind"] = "samples"
    copy("classes").attrs["num_classes"] = 3  # every label is -1
    copy("minus").attrs["num_classes"] = -1
    copy("words").attrs["num_classes"] = "three"
    copy("clip").attrs["clip"] = "{"
    copy("deep").attrs["class_names"] = "[" * 50_000
    copy("nan")["latents_mean"][0] = np.nan
    copy("constant")["latents_std"][0] = 0.0
    copy("flipped")["mean"][2, 0, 0, 0, 0] += 1
    for name, shape in {"norows": (0, 4, 2, 2, 2), "promise": (10**12, 4, 2, 2, 2), "flat": (4, 16)}.items():
        file = copy(name)
        del file["mean"]
        file.create_dataset("mean", shape, np.float16, chunks=(1, *shape[1:]), maxshape=(None, *shape[1:]))
    file = copy("link")
    del file["mean"]
    file["mean"] = h5py.ExternalLink(str(path), "mean")
    for file in changed.values():
        file.close()


def make_generators(folder: Path) -> None:
    """`runs/gen`, a finished generator run on those latents, and copies of it (`bad/…`)."""
    facts = {
        "mean": [0.0] * 4,
        "std": [1.0] * 4,
        "encoder_hash": "another",
        "tokenizer": str(folder / "vae"),
        "data": "moving_shapes",
        "split": "train",
        "root": "",
        "clip": CLIP,
        "num_classes": 0,
        "rows": 4,
        "path": "latents.h5",
    }
    model = Latte(LATTE)
    save_checkpoint(
        folder / "runs" / "gen",
        5,
        tensors={"model": model.state_dict(), "ema": model.state_dict()},
        state={"latents": facts},
        files={"config.json": LATTE.__dict__},
        keep=True,
    )
    write_json(folder / "runs" / "gen" / "config.json", {"model": LATTE.__dict__})
    manifest = {"kind": "generator", "name": "gen", "started": "2026", "sessions": [], "identity": {}, "latents": facts}
    write_json(folder / "runs" / "gen" / "manifest.json", manifest)
    state = {"step": 5, "latents": facts}

    def state_with(**changes) -> str:
        return json.dumps(state | {"latents": facts | changes})

    for name, file, text in (
        ("manifest", "manifest.json", '{"kind": "generator"'),
        ("manifest-list", "manifest.json", "[]"),
        ("manifest-deep", "manifest.json", DEEP),
        ("manifest-bare", "manifest.json", '{"kind": "generator"}'),
        ("sessions", "manifest.json", json.dumps(manifest | {"sessions": "many"})),
        ("other-kind", "manifest.json", json.dumps(manifest | {"kind": "tokenizer"})),
        ("no-facts", "manifest.json", json.dumps(manifest | {"latents": None})),
        ("config", "config.json", "\x00\x01"),
        ("state", "state.json", "{}"),
        ("state-text", "state.json", "{"),
        ("state-std", "state.json", state_with(std=[0.0] * 4)),
        ("state-nan", "state.json", state_with(mean=[float("nan")] * 4)),
        ("state-short", "state.json", state_with(mean=[0.0], std=[1.0])),
        ("state-clip", "state.json", state_with(clip='{"size": 0}', encoder_hash="")),
        ("state-data", "state.json", state_with(data="../../etc", encoder_hash="")),
        ("state-passwd", "state.json", state_with(tokenizer="../../etc/passwd")),
        ("size", "step/config.json", json.dumps(LATTE.__dict__ | {"hidden_size": 16})),
        ("huge", "step/config.json", json.dumps(LATTE.__dict__ | {"hidden_size": 10**9})),
        ("large", "step/config.json", json.dumps(LATTE.__dict__ | {"hidden_size": 16_384, "depth": 256})),
        ("types", "step/config.json", json.dumps(LATTE.__dict__ | {"depth": [2]})),
        ("ratio", "step/config.json", json.dumps(LATTE.__dict__).replace("4.0", "NaN")),
    ):
        place = folder / "bad" / name
        shutil.copytree(folder / "runs" / "gen", place)
        checkpoint = "checkpoints/step_00000005"
        file = file.replace("step/", f"{checkpoint}/").replace("state.json", f"{checkpoint}/state.json")
        (place / file).write_text(text)
    for name, cut in (("cut", -40), ("hollow", 0)):
        weights = shutil.copytree(folder / "runs" / "gen", folder / "bad" / name) / checkpoint / "ema.safetensors"
        weights.write_bytes(weights.read_bytes()[:cut])
    shutil.rmtree(shutil.copytree(folder / "runs" / "gen", folder / "bad" / "bare") / "checkpoints")


def make_checkpoints(folder: Path) -> None:
    """`resumed/…`: training runs on `latents.h5` that cannot go on, each for one reason."""
    command = f"--latents {folder / 'latents.h5'} --runs-dir {folder / 'resumed'} --steps 1 --name sound " + RESUME
    train(parse(command.split(), TrainConfig, preset_defaults))
    for name, file, cut in (
        ("optimizer", "optimizer.pt", -1000),
        ("no-optimizer", "optimizer.pt", 0),
        ("weights", "model.safetensors", 1000),
        ("average", "ema.safetensors", -1),
        ("progress", "state.json", 10),
    ):
        run = shutil.copytree(folder / "resumed" / "sound", folder / "resumed" / name)
        damaged = run / "checkpoints" / "step_00000001" / file
        damaged.write_bytes(damaged.read_bytes()[:cut])
    log = shutil.copytree(folder / "resumed" / "sound", folder / "resumed" / "log") / "metrics.jsonl"
    log.write_text('{"step": 1\n{"step": 2}\n')


# Flags of the runs in `resumed`; with --steps 2 they go on.
RESUME = "--preset demo --schedule constant --batch-size 2 --device cpu --dtype float32"
# Command line after `python -m`; {…} are files of the stage; the words must be in the message.
TABLE = [
    # flags, of every command alike
    ("tokenizer.train --stpes 3", "did you mean --steps"),
    ("tokenizer.train -steps 3", "two dashes"),
    ("tokenizer.train --steps many", "expected a whole number"),
    ("tokenizer.train --steps 2.5", "expected a whole number"),
    ("tokenizer.train --steps 3k", "expected a whole number"),
    ("tokenizer.train --steps 0", "too small"),
    ("tokenizer.train --steps -3", "too small"),
    ("tokenizer.train --steps 1e30", "too large"),
    ("tokenizer.train --steps inf", "expected a whole number"),
    ("tokenizer.train --steps", "needs a value"),
    ("tokenizer.train --steps=", "empty value"),
    ("tokenizer.train --steps 2", "at least 3"),
    ("tokenizer.train run", "stray word"),
    ("tokenizer.train --steps 3 --steps 4", "given twice"),
    ("tokenizer.train --learning-rate nan", "expected a number"),
    ("tokenizer.train --learning-rate 1,5", "expected a number"),
    ("tokenizer.train --learning-rate -1e-4", "too small"),
    ("tokenizer.train --ema-decay 1.5", "too large"),
    ("tokenizer.train --seed -1", "too small"),
    ("tokenizer.train --seed 1e40", "too large"),
    ("tokenizer.train --dry-run=perhaps", "expected true or false"),
    ("tokenizer.train --preset tiny", "known: paper"),
    ("tokenizer.train --stage vidoe", "did you mean video"),
    ("tokenizer.train --dtype float16", "not one of"),
    ("tokenizer.train --device tpu", "--device"),
    ("tokenizer.train --device cuda:99", "--device"),
    ("tokenizer.train --name a/b --steps 3", "folder name"),
    ("tokenizer.train --name ..", "folder name"),
    ("tokenizer.train --name=-rf", "folder name"),
    ("tokenizer.train --name=", "empty value"),
    ("tokenizer.train --name {long}", "folder name"),
    ("tokenizer.train --runs-dir {stage}/text.h5/runs", "is a file, not a folder"),
    # data
    ("tokenizer.train --data ucf1O1 --root {good} --preset demo", "did you mean ucf101"),
    ("tokenizer.train --data ucf101 --preset demo", "needs --root"),
    ("tokenizer.train --data ucf101 --root= --preset demo", "empty value"),
    ("tokenizer.train --data videos --root {stage}/nowhere --preset demo", "no such folder"),
    ("tokenizer.train --data videos --root {good}/a.mp4 --preset demo", "no such folder"),
    ("tokenizer.train --data videos --root {empty} --preset demo", "nothing of data set"),
    ("tokenizer.train --data videos --root {cut} --preset demo", "cannot be read"),
    ("tokenizer.train --data videos --root {text} --preset demo", "cannot be read"),
    ("tokenizer.train --data videos --root {zero} --preset demo", "empty"),
    ("tokenizer.train --data videos --root {short} --preset demo", "17"),
    ("tokenizer.train --data videos --root {wide} --preset demo", "pictures of 256x2"),
    ("tokenizer.train --data videos --root {playlist} --preset demo", "not a readable video"),
    ("tokenizer.train --data videos --root {links} --preset demo", "1 links there are not followed"),
    ("tokenizer.train --data ucf101 --root {ucf} --preset demo", "nothing of data set 'ucf101'"),
    ("tokenizer.train --data ucf101 --root {coded} --preset demo", "not a readable split list"),
    ("tokenizer.train --data moving_shapes --preset demo --images images --images-root {bomb}", "not a readable image"),
    ("tokenizer.train --size 36", "multiple of 8"),
    ("tokenizer.train --size 0", "too small"),
    ("tokenizer.train --size 1e9", "too large"),
    ("tokenizer.train --num-frames 16", "nearest are 13 and 17"),
    ("tokenizer.train --frame-stride 1000000", "frame_stride of a clip"),
    ("tokenizer.train --frame-stride 3,1", "the lowest and the highest"),
    ("tokenizer.train --frame-stride 1,x", "a whole number"),
    ("tokenizer.train --workers 0", "too small"),
    ("tokenizer.train --data videos --root {good}", "vgg16-397923af.pth"),
    ("tokenizer.train --init-from nowhere", "neither a folder nor a known name"),
    ("tokenizer.train --image-sizes 32,48 --batch-size 3", "give a multiple of 8"),
    ("tokenizer.train --clip-sizes 32,320", "too many beside 32"),
    ("tokenizer.train --adaptive-gan true --parallel fsdp", "--adaptive-gan"),
    ("tokenizer.train --init-from {stage}/vae", "differs from preset"),
    ("tokenizer.train --init-from {stage}/vae-huge", "channels must be a whole number"),
    # tokenizers out of strange files
    ("tokenizer.encode", "no tokenizer run"),
    ("tokenizer.encode --tokenizer nowhere", "neither a folder nor a known name"),
    ("tokenizer.encode --tokenizer {good}/a.mp4", "neither a folder nor a known name"),
    ("tokenizer.encode --tokenizer {empty}", "has no checkpoint yet"),
    ("tokenizer.encode --tokenizer {stage}/tokenizer-run", "config.json: no such file"),
    ("tokenizer.encode --tokenizer {stage}/vae", "--data is needed"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 40", "multiple of 16"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --num-frames 6 --size 32", "nearest are 5 and 9"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 32 --max-clips 2 --out {latents}", "holds"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 32 --out {good}", "is a folder"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 32 --out {latents}/a.h5", "is a file"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 32 --out {stage}/waiting.h5", "other setti"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 32 --out {stage}/cut.h5", "cut.h5"),
    ("tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --size 32 --weights {good}", "no such weight"),
    (
        "tokenizer.encode --tokenizer {stage}/vae --data moving_shapes --weights {text}/a.avi",
        "not readable as safeten",
    ),
    ("tokenizer.encode --tokenizer {stage}/vae-text --data moving_shapes", "not readable as JSON"),
    ("tokenizer.encode --tokenizer {stage}/vae-list --data moving_shapes", "expected a JSON object"),
    ("tokenizer.encode --tokenizer {stage}/vae-deep --data moving_shapes", "not readable as JSON"),
    ("tokenizer.encode --tokenizer {stage}/vae-digits --data moving_shapes", "not readable as JSON"),
    ("tokenizer.encode --tokenizer {stage}/vae-newer --data moving_shapes", "unknown fields: window_attention"),
    ("tokenizer.encode --tokenizer {stage}/vae-types --data moving_shapes", "blocks is 'one', expected a whole"),
    ("tokenizer.encode --tokenizer {stage}/vae-unfit --data moving_shapes", "do not fit the network"),
    ("tokenizer.encode --tokenizer {stage}/vae-huge --data moving_shapes", "channels must be a whole number"),
    ("tokenizer.encode --tokenizer {stage}/vae-large --data moving_shapes", "do not fit the network"),
    ("tokenizer.encode --tokenizer {stage}/vae-endless --data moving_shapes", "blocks must be a whole number"),
    ("tokenizer.encode --tokenizer {stage}/vae-patch --data moving_shapes", "power of two"),
    ("tokenizer.encode --tokenizer {stage}/vae-negative --data moving_shapes", "latent_channels must be a whole"),
    ("tokenizer.encode --tokenizer {stage}/vae-cut --data moving_shapes", "not readable as safetensors"),
    ("tokenizer.encode --tokenizer {stage}/vae-empty --data moving_shapes", "not readable as safetensors"),
    (
        "tokenizer.encode --tokenizer {stage}/vae-header --data moving_shapes",
        "not readable as safetensors",
    ),
    (
        "tokenizer.encode --tokenizer {stage}/vae-pickle --data moving_shapes",
        "not readable as safetensors",
    ),
    # one video
    ("tokenizer.reconstruct --tokenizer {stage}/vae", "--video"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {stage}/nowhere.mp4", "no such file"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {good}", "no such file"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {text}/a.avi", "not a"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {playlist}/a.mp4", "not a"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {latents}", "not a"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --tile 40 --video {good}/a.mp4", "multiple of 16"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --tile 32 --overlap 32 --video {good}/a.mp4", "less than tile 32"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --out no/a.mp4", "no such folder"),
    ("tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --out a.gif", "ends in one of"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --observed 17", "nothing of --frames"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --observed 8", "do not fit"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --after 8", "nothing of --frames"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --after 6", "nearest are 4 and 8"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --after -4", "--after"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {short}/a.mp4", "only"),
    ("tokenizer.predict --tokenizer {stage}/vae --size 32 --video {good}/a.mp4 --out {good}", "is a folder"),
    ("tokenizer.export --run {stage}/vae", "--out is needed"),
    ("tokenizer.export --out new", "no tokenizer run"),
    ("tokenizer.export --run {stage}/vae --out new", "not a run directory"),
    ("tokenizer.export --run {stage}/runs/gen --out new", "is a generator run, not a tokenizer run"),
    ("tokenizer.export --run {stage}/vae --out new --push-to my-vae", "give user/name"),
    ("tokenizer.export --run {stage}/vae --out new --license Apache_2", "apache-2.0"),
    # latents files
    ("latents_cache.check", "is needed"),
    ("latents_cache.check a.h5 b.h5", "stray word"),
    ("latents_cache.check {stage}/nowhere.h5", "no such"),
    ("latents_cache.check {good}", "no such"),
    ("latents_cache.check {stage}/waiting.h5", "not complete"),
    ("latents_cache.check {stage}/cut.h5", "cut.h5"),
    ("latents_cache.check {stage}/foreign.h5", "not a latents file"),
    ("latents_cache.check {stage}/text.h5", "text.h5"),
    ("latents_cache.check {stage}/newer.h5", "format version 2"),
    ("latents_cache.check {stage}/nan.h5", "never finished"),
    ("latents_cache.check {stage}/norows.h5", "N of at least 1"),
    ("latents_cache.check {stage}/promise.h5", "promises"),
    ("latents_cache.check {stage}/flat.h5", "expected [N, C, G, h, w]"),
    ("latents_cache.check {stage}/link.h5", "lies in another file"),
    ("latents_cache.check {stage}/minus.h5", "num_classes is -1"),
    ("latents_cache.check {stage}/words.h5", "num_classes is 'three', expected a whole number"),
    ("latents_cache.check {stage}/clip.h5", "clip: not readable as JSON"),
    ("latents_cache.check {stage}/deep.h5", "class_names: not readable as JSON"),
    ("latents_cache.check {stage}/constant.h5", "channels [0] are constant"),
    ("latents_cache.check {stage}/flipped.h5 --full", "1 of 4 rows are damaged (2)"),
    # generator
    ("generator.train", "--latents is needed"),
    ("generator.train --latents {stage}/waiting.h5", "not complete"),
    ("generator.train --latents {stage}/cut.h5", "cut.h5"),
    ("generator.train --latents {stage}/newer.h5", "format version 2"),
    ("generator.train --latents {stage}/samples.h5", "holds samples of a generator"),
    ("generator.train --latents {stage}/classes.h5", "labels -1…-1 do not fit num_classes 3"),
    ("generator.train --latents {stage}/norows.h5", "N of at least 1"),
    ("generator.train --latents {stage}/latents.h5 --preset latte-xxl", "latte-xl"),
    ("generator.train --latents {stage}/latents.h5 --betas 0.9", "expected two numbers"),
    ("generator.train --latents {stage}/latents.h5 --compile maybe", "'maybe' is not one of auto, true, false"),
    ("generator.train --latents {stage}/latents.h5 --time-density normal", "did you mean logit-normal?"),
    ("generator.train --latents {stage}/latents.h5 --time-shift 0", "too small"),
    ("generator.train --latents {stage}/latents.h5 --shard-dtype bfloat16", "give --parallel fsdp too"),
    (
        "generator.train --latents {stage}/latents.h5 --shard-dtype bfloat16 --parallel fsdp --dtype float32",
        "give --dtype bfloat16 too",
    ),
    ("generator.train --latents {stage}/latents.h5 --betas 0.9,1.5", "expected two numbers"),
    ("generator.train --latents {stage}/latents.h5 --class-dropout 10", "too large"),
    ("generator.train --latents {stage}/latents.h5 --batch-size 1e12", "too large"),
    ("generator.train --latents {stage}/latents.h5 --runs-dir {stage}/runs --name gen", "made with other settings"),
    ("generator.train --latents {stage}/latents.h5 --runs-dir {bad} --name manifest", "not readable as JSON"),
    ("generator.train --latents {stage}/latents.h5 --runs-dir {bad} --name other-kind", "is a tokenizer run"),
    ("generator.train --latents {stage}/latents.h5 --runs-dir {bad} --name manifest-bare", "name is missing"),
    *(
        (f"generator.train --latents {{latents}} --runs-dir {{resumed}} --steps 2 --name {name} {RESUME}", words)
        for name, words in (
            ("optimizer", "optimizer.pt: not readable as"),
            ("no-optimizer", "optimizer.pt: not readable as"),
            ("weights", "model.safetensors: not readable as"),
            ("average", "ema.safetensors: not readable as"),
            ("progress", "not readable as JSON"),
            ("log", "metrics.jsonl, line 1: not readable as JSON"),
            ("sound --learning-rate 1e-4", "learning_rate: was 0.01, now 0.0001"),
        )
    ),
    ("generator.sample", "no generator run"),
    ("generator.sample --runs-dir {bad}", "not readable as JSON"),
    ("generator.sample --run {stage}/vae", "not a run directory"),
    ("generator.sample --run {latents}", "neither a run directory nor a shipped generator"),
    ("generator.sample --run {bad}/manifest-list", "expected a JSON object"),
    ("generator.sample --run {bad}/manifest-deep", "not readable as JSON"),
    ("generator.sample --run {bad}/sessions", "sessions is 'many', expected a list"),
    ("generator.sample --run {bad}/config", "not readable as JSON"),
    ("generator.sample --run {bad}/bare", "has no checkpoint yet"),
    ("generator.sample --run {bad}/state", "step is missing"),
    ("generator.sample --run {bad}/state-text", "not readable as JSON"),
    ("generator.sample --run {bad}/state-std", "std above 0"),
    ("generator.sample --run {bad}/state-nan", "finite numbers"),
    ("generator.sample --run {bad}/state-short", "must be 4 finite numbers"),
    ("generator.sample --run {bad}/size", "do not fit the network"),
    ("generator.sample --run {bad}/huge", "hidden_size must be at least 1 and at most"),
    ("generator.sample --run {bad}/large", "do not fit the network"),
    ("generator.sample --run {bad}/types", "depth is [2], expected a whole number"),
    ("generator.sample --run {bad}/ratio", "mlp_ratio"),
    ("generator.sample --run {bad}/cut", "not readable as safetensors"),
    ("generator.sample --run {bad}/hollow", "not readable as safetensors"),
    ("generator.sample --run {stage}/runs/gen --step 7", "it has 5"),
    ("generator.sample --run {stage}/runs/gen --guidance-scale 2", "guidance"),
    ("generator.sample --run {stage}/runs/gen --guidance-interval 0.8,0.1", "two times, the smaller first"),
    ("generator.sample --run {stage}/runs/gen --guidance-interval 0.5", "two times, the smaller first"),
    ("generator.sample --run {stage}/runs/gen --guidance-interval 0.5,2", "too large"),
    ("generator.sample --run {stage}/runs/gen --labels random", "balanced"),
    ("generator.sample --run {stage}/runs/gen --samples 0", "too small"),
    ("generator.sample --run {stage}/runs/gen --samples 1e18", "too large"),
    ("generator.sample --run {stage}/runs/gen --steps 1e30", "too large"),
    ("generator.sample --run {stage}/runs/gen --samples 2 --steps 1 --out {latents}", "holds other samples"),
    ("generator.sample --run {stage}/runs/gen --samples 2 --steps 1 --out {good}", "is a folder"),
    ("generator.sample --run {stage}/runs/gen --samples 2 --steps 1 --out {stage}/waiting.h5", "other settings"),
    # evaluation
    ("eval.fvd", "no generator run"),
    ("eval.fvd --run {stage}/runs/gen --samples 1", "least is 2"),
    ("eval.fvd --run {stage}/runs/gen --samples 4 --steps 1", "encoder"),
    ("eval.fvd --run {stage}/runs/gen --samples 4 --features i3d", "i3d_torchscript.pt"),
    ("eval.fvd --run {stage}/runs/gen --features vgg", "not one of"),
    ("eval.fvd --run {stage}/runs/gen --guidance-scales 1,1", "different numbers"),
    ("eval.fvd --run {stage}/runs/gen --guidance-scales ,", "one or more"),
    ("eval.fvd --run {stage}/runs/gen --guidance-scales one", "expected a"),
    ("eval.fvd --run {stage}/runs/gen --guidance-interval 0.8,0.1", "two times, the smaller first"),
    ("eval.fvd --run {stage}/runs/gen --labels drwan", "did you mean drawn"),
    ("eval.fvd --run {stage}/runs/gen --out {good}", "is a folder"),
    ("eval.fvd --run {stage}/runs/gen --out {latents}/a.json", "is a file"),
    ("eval.fvd --run {stage}/runs/gen --tokenizer {stage}/vae-cut", "not readable as safetensors"),
    ("eval.fvd --run {bad}/state-clip", "size of a clip"),
    ("eval.fvd --run {bad}/state-data --features shapes", "is not known"),
    ("eval.fvd --run {bad}/state-passwd", "neither a folder nor a known name"),
    ("eval.decode --run {stage}/runs/gen --count 2 --steps 1", "encoder"),
    ("eval.decode --run {stage}/runs/gen --count 2 --steps 1 --out {latents}", "is a file"),
    ("eval.decode --run {stage}/runs/gen --count 2 --fps 0", "too small"),
    ("eval.decode --run {stage}/runs/gen --count 300 --grid true", "--grid shows up to 256 clips"),
    ("eval.decode --run {stage}/runs/gen --guidance-interval 1,0", "two times, the smaller first"),
    ("eval.decode --run {stage}/runs/gen --count 2 --tokenizer nowhere", "neither a folder"),
    ("eval.reconstruction --tokenizer nowhere", "nowhere"),
    ("eval.reconstruction --tokenizer {stage}/vae", "--data is needed"),
    ("eval.reconstruction --tokenizer {stage}/vae --data moving_shapes --size 32 --out {good}", "is a folder"),
    ("eval.reconstruction --tokenizer {stage}/vae --data moving_shapes --size 32 --observed 17", "leaves nothing"),
    ("eval.reconstruction --tokenizer {stage}/vae --data moving_shapes --size 32 --observed 2", "do not fit"),
    ("eval.reconstruction --tokenizer {stage}/vae --data moving_shapes --size 32 --features i3d", "i3d_torch"),
    ("eval.latents --tokenizer nowhere", "neither a folder nor a known name"),
    ("eval.latents --tokenizer {stage}/vae", "--data is needed"),
    ("eval.latents --tokenizer {stage}/vae,wan2.3 --data moving_shapes --size 32", "neither a folder nor a known name"),
    ("eval.latents --tokenizer {stage}/vae --data moving_shapes --size 30", "must be a multiple"),
    ("eval.latents --tokenizer {stage}/vae --latents {latents}", "one of them will do"),
    ("eval.latents --latents {stage}/nowhere.h5", "no such latents file"),
    ("eval.latents --latents {latents} --out no/latents.html", "no such folder"),
    ("eval.card --tokenizer nowhere", "neither a folder nor a known name"),
    ("eval.card --tokenizer {stage}/vae", "--data is needed"),
    ("eval.card --tokenizer wan2.2 --data moving_shapes", "--weights random"),
    ("eval.card --tokenizer diffusers:someone/vae --data moving_shapes", "--download"),
    ("eval.card --tokenizer {stage}/vae --data moving_shapes --size 32 --out {good}", "is a folder"),
    ("eval.card --tokenizer {stage}/vae --data moving_shapes --size 32 --observed 17", "leaves nothing"),
    ("eval.correlate", "--results is needed"),
    ("eval.correlate {stage}/nowhere.json", "no such file"),
    ("eval.correlate {latents}", "not readable as JSON"),
    ("eval.correlate published --target gFVD", "no number to correlate"),
    ("eval.speed", "--tokenizers is needed"),
    ("eval.speed --tokenizers {stage}/vae,wan2.3", "neither a folder nor a known name"),
    ("eval.speed --tokenizers {stage}/vae,wan2.2", "--weights random"),
    ("eval.speed --tokenizers {stage}/vae,diffusers:someone/vae@v1", "--download"),
    ("eval.speed --tokenizers a={stage}/vae,a=wan2.2", "different labels"),
    ("eval.speed --tokenizers {stage}/vae --weights own,random", "gives 2 to 1"),
    ("eval.speed --tokenizers wan2.2=random,wan2.2=random", "different labels"),
    ("eval.compare", "--tokenizers is needed"),
    ("eval.compare --tokenizers moving-shapes,wan2.3", "neither a folder nor a known name"),
    ("eval.compare --tokenizers moving-shapes,wan2.2", "--weights random"),
    ("eval.compare --tokenizers moving-shapes,diffusers:someone/vae", "--download"),
    ("eval.compare --tokenizers moving-shapes --weights own,random", "gives 2 to 1"),
    ("eval.compare --tokenizers a=moving-shapes,a=wan2.2", "different labels"),
    ("eval.compare --tokenizers a/b=moving-shapes,a-b=moving-shapes", "differ in what no file name can hold"),
    ("eval.compare --tokenizers moving-shapes --size 20", "moving-shapes cannot take part: height 20 does not fit"),
    ("eval.compare --tokenizers moving-shapes,wan2.2=random --size 24", "wan2.2 (random weights) cannot take part"),
    ("eval.compare --tokenizers moving-shapes,cogvideox=random --num-frames 13", "(random weights) cannot take part"),
    ("eval.compare --tokenizers moving-shapes --data ucf101", "needs --root"),
    ("eval.compare --tokenizers moving-shapes --data ucf1O1 --root {good}", "did you mean ucf101"),
    ("eval.compare --tokenizers moving-shapes --max-clips 12", "are too few to compare with"),
    ("eval.compare --tokenizers moving-shapes --num-frames 5", "the shapes network"),
    ("eval.compare --tokenizers sd1.5=random --data videos --root {good} --size 32", "i3d_torchscript.pt"),
    ("eval.compare --tokenizers moving-shapes --data videos --root {good} --size 32 --features shapes", "too few"),
    ("eval.compare --tokenizers moving-shapes --curve-samples 1", "0 for no curves"),
    ("eval.compare --tokenizers moving-shapes --preset latte", "did you mean latte-"),
    ("eval.compare --tokenizers moving-shapes --speed {stage}/nowhere.json", "no such file"),
    ("eval.compare --tokenizers moving-shapes --speed {stage}/results-source.json", "not of eval.speed"),
    ("eval.ablation", "--plan is needed"),
    ("eval.ablation --plan {stage}/nowhere.toml", "cannot be read (No such file"),
    ("eval.ablation --plan {latents}", "cannot be read"),
    ("eval.ablation --plan {stage}/results-text.json", "not readable as TOML"),
    ("eval.ablation --plan {stage}/study.toml", "[eval.fvd] is missing"),
    ("eval.ablation --plan {stage}/study-digits.toml", "not readable as TOML"),
    ("eval.ablation --plan {stage}/study-hexadecimal.toml", "not readable as TOML"),
    ("eval.ablation --plan {stage}/study-gate.toml", "gate: accuracy-shape is 1000000"),
    ("eval.ablation --plan {stage}/study-steps.toml", "expected a whole number"),
    ("eval.compare --tokenizers moving-shapes --name a/b", "folder name"),
    ("eval.compare --tokenizers moving-shapes --out {good}", "is a folder"),
    ("eval.probe --run nowhere", "neither a run directory"),
    ("eval.probe --run {stage}/runs/gen", "encoder"),
    ("eval.probe --run a --runs b", "one of them will do"),
    ("eval.probe --runs a=b,a=c", "label is given twice"),
    ("eval.probe --task flwo", "did you mean flow"),
    ("eval.probe --seeds 1,1", "each once"),
    ("eval.probe --noise 100", "too large"),
    ("eval.probe --task flow --data sintel,badja", "gives 2 to 1 tasks"),
    ("eval.probe --runs a=b,b=c --out a.json", "leave --out away"),
    ("eval.probe --runs a=b,b=b", "a run is named twice"),
    ("eval.probe --task flow --out {good}", "is a folder"),
    ("eval.probe --run moving-shapes --block 7", "has 6 blocks"),
    ("eval.probe --run moving-shapes --task flow --data davis --root {good}", "sintel_clean do"),
    ("eval.probe --run moving-shapes --task flow --data sintel --root {empty}", "nothing of data set"),
    ("eval.probe --run moving-shapes --task tracking --data tapvid_davis --root {empty}", "tapvid_davis.pkl is not"),
    ("eval.probe --run moving-shapes --task next-frame --data videos", "needs --root"),
    ("eval.prediction --tokenizers {stage}/vae,wan2.3 --data moving_shapes", "neither a folder nor a known name"),
    ("eval.prediction --tokenizers a={stage}/vae,a=moving-shapes", "same label"),
    ("eval.prediction --tokenizers {stage}/vae", "--data is needed"),
    ("eval.prediction --tokenizers {stage}/vae@77", "has no checkpoint"),
    ("eval.prediction --tokenizers moving-shapes --observed 17", "leaves nothing"),
    ("eval.prediction --tokenizers moving-shapes --observed 2", "do not fit"),
    ("eval.prediction --tokenizers moving-shapes --out no/page.html", "no such folder"),
    ("eval.prediction --results {stage}/nowhere.json", "no such file"),
    ("eval.prediction --results {empty}", "no results of an evaluation"),
    ("eval.prediction --results {stage}/results-row.json", "unknown fields: colour"),
    ("eval.convergence --runs {stage}/runs/gen", "encoder"),
    ("eval.convergence --runs {stage}/runs/gen,{stage}/runs/gen/", "named twice"),
    ("eval.convergence --runs {stage}/runs/gen,nowhere", "nowhere"),
    ("eval.convergence --runs {stage}/runs/gen --guidance-interval 0.5", "two times, the smaller first"),
    ("eval.convergence --runs {stage}/runs/gen --tokenizer nowhere", "neither a folder nor a known name"),
    ("eval.convergence --runs a,b --out curve.json", "leave --out away"),
    ("eval.report --run {stage}/nowhere", "not a run directory"),
    ("eval.report --run {stage}/runs/gen --out no/report.html", "no such folder"),
    ("eval.report --run {stage}/runs/gen --out {good}", "is a folder"),
    ("eval.report --run {stage}/runs/gen --clips 0", "too small"),
    ("eval.report --run {bad}/no-facts", "latents is None"),
    ("eval.report --run {stage}/runs/gen", "parameters is missing"),
    ("benchmarks.ship --tokenizer {stage}/vae --run {stage}/runs/gen", "not a run directory"),
    ("benchmarks.ship --run {stage}/runs/gen", "another encoder than moving-shapes, which ships, has"),
    ("benchmarks.ship --tokenizer {stage}/vae", "--run is needed"),
    ("benchmarks.ship --tokenizer {bad}/other-kind --run {bad}/cut --out-name ../x", "is not known"),
    ("benchmarks.train_judge --test-clips 3", "too small"),
    ("benchmarks.train_judge --out no/shapes.safetensors", "no such folder"),
    # videos, benchmarks
    ("videos.check --data videos --root {empty}", "nothing of data set"),
    ("videos.check --data videos --root {stage}/nowhere", "no such folder"),
    ("videos.check --data ucf101 --root {good}", "UCF101 class"),
    ("videos.check --data videos --root {links}", "1 links there are not followed"),
    ("videos.check --data videos --root {cut}", "no usable item"),
    ("videos.check --data videos --root {broken} --full", "1 of 1 items are damaged inside"),
    ("videos.check --data Videos --root {good}", "did you mean videos"),
    ("benchmarks.stages --stages readin", "did you mean reading"),
    ("benchmarks.stages --stages reading-files --root {empty}", "nothing of data set"),
    ("benchmarks.stages --stages reading --out {good}", "is a folder"),
    ("benchmarks.gpu --device cpu", "there is no GPU here"),
    ("benchmarks.gpu --slices generatr", "did you mean generator"),
    ("benchmarks.gpu --smoke --out {stage}/results-text.json", "File exists"),
    ("benchmarks.generator --presets latte-x", "did you mean latte-xl"),
    ("benchmarks.generator --device cpu --batch-size 0", "too small"),
    ("benchmarks.generator --out {good}", "is a folder"),
    # tables, rechecking, Kinetics-400
    ("videos.check --data kinetics400 --root {empty}", "nothing of data set"),
    ("videos.check --data kinetics400 --root {stage}/k400", "line 2: a row without label"),
    ("videos.check --data kinetics --root {good}", "did you mean kinetics400"),
    (
        "eval.reconstruction --tokenizer {stage}/vae --data kinetics400 --root {good} --split train --size 30",
        "multiple",
    ),
    ("eval.reconstruction --tokenizer {stage}/vae --data moving_shapes --size 32 --sizes 32", "one of them will do"),
    ("eval.reconstruction --tokenizer {stage}/vae --data moving_shapes --sizes 32,48 --out a.json", "leave --out away"),
    ("eval.verify", "--results is needed"),
    ("eval.verify {stage}/nowhere.json", "no such file"),
    ("eval.verify {empty}", "no results of an evaluation"),
    ("eval.verify {stage}/results-text.json", "not readable as JSON"),
    ("eval.verify {stage}/results-row.json", "unknown fields: colour"),
    ("eval.verify {stage}/results-source.json", "1 of 2 differ, the first is latents.h5"),
    ("eval.tables --results {stage}/nowhere.json", "no such file"),
    ("eval.tables --results {stage}/results-row.json", "unknown fields: colour"),
    ("eval.tables --results {stage}/results-source.json --names a,b", "2 names to 1 files"),
    ("eval.tables --results {stage}/results-other.json", "results of convergence"),
    ("eval.tables --tables generatoin", "did you mean generation"),
    ("eval.tables --out {good}", "is a folder"),
    ("benchmarks.eval --clips 1", "too small"),
    ("benchmarks.eval --parts end-to-end --data videos --root {good}", "needs 1024 clips"),
    ("benchmarks.eval --out {good}", "is a folder"),
]


def files_below(folder: Path) -> dict[str, int]:
    """Size of every file below a folder; a run's manifest, which records that somebody tried, counts as unchanged."""
    return {
        path.relative_to(folder).as_posix(): 0 if path.parent.parent.name == "resumed" else path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def filled(line: str, stage: Path) -> list[str]:
    """Words of a line of the table, with the stage's paths."""
    line = line.replace("{latents}", str(stage / "latents.h5")).replace("{long}", "n" * 300)
    for folder in (path for path in stage.iterdir() if path.is_dir()):
        line = line.replace("{" + folder.name + "}", str(folder))
    return line.replace("{stage}", str(stage)).split()


@pytest.mark.parametrize(("line", "words"), TABLE, ids=[line for line, _ in TABLE])
def test_bad_input_is_one_line_and_exit_2_and_leaves_nothing(
    line, words, stage, tmp_path, tmp_path_factory, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in ("PVVAE_WEIGHTS", "PVVAE_TEST_DATA"):
        monkeypatch.delenv(name, raising=False)
    # Where a line is not refused, this ends it, instead of a training of minutes.
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_, **__: pytest.fail(f"{line} was not refused"))
    command, *argv = filled(line, stage)
    module = importlib.import_module(command)
    before = files_below(stage)
    entry = (ROOT / (command.replace(".", "/") + ".py")).read_text().rsplit("run_command(", 1)[1]
    job, config = (getattr(module, name.strip()) for name in entry.split(",")[:2])
    with pytest.raises(SystemExit) as end:
        module.run_command(job, config, presets=getattr(module, "preset_defaults", None), argv=[*argv])
    error = capfd.readouterr().err
    assert end.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 1500, error
    assert words in error, error
    assert files_below(stage) == before and files_below(tmp_path) == {}


PROCESSES = (
    "tokenizer.train --stpes 3",
    "tokenizer.reconstruct --tokenizer {stage}/vae --size 32 --video {playlist}/a.mp4",
    "videos.check --data videos --root {cut}",
    "latents_cache.check {stage}/promise.h5",
    "generator.sample --run {bad}/large",
    "eval.decode --run {stage}/runs/gen --count 2 --steps 1",
)


@pytest.mark.parametrize("line", PROCESSES)
def test_a_real_process_prints_one_line_and_exits_2(line, stage, tmp_path):
    words = dict(TABLE)[line]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PVVAE_")}
    done = subprocess.run(
        [sys.executable, "-m", *filled(line, stage)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert line.startswith("videos.check") or done.stdout == ""
    assert list(tmp_path.iterdir()) == []
