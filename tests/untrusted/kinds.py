"""Kinds of files that strangers give: how a sound one is made, how it is damaged, and which readers of the product get
it."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from mutations import mutate_bytes, mutate_hdf5, mutate_json, mutate_lines

from runtime.errors import InputError


@dataclass(frozen=True)
class Kind:
    """A kind of untrusted file.

    Attributes:
        make: Writes sound files into a folder.
        files: Which of them may be mutated, relative to the folder.
        mutate: How.
        read: Gives the folder to the product's readers.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], object]


def _tiny_tokenizer():
    import torch

    from tokenizer import PVVAE, PVVAEConfig

    torch.manual_seed(0)
    return PVVAE(PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer"))


def make_tokenizer(folder: Path) -> None:
    _tiny_tokenizer().save_pretrained(folder)


def read_tokenizer(folder: Path) -> None:
    import torch

    import tokenizer

    vae = tokenizer.load(folder)
    with torch.no_grad():
        size = max(32, vae.spec.spatial)
        if size <= 64:
            vae.decode(vae.encode(torch.zeros(1, 3, 5, size, size)).mode())


LATENT_SHAPE = (4, 2, 2, 2)
FACTS = {
    "kind": "latents",
    "tokenizer": "moving-shapes",
    "encoder_hash": "",
    "data": "moving_shapes",
    "split": "train",
    "root": "",
    "num_classes": 3,
    "class_names": json.dumps(["a b", "c/d", "e"]),
    "clip": json.dumps({"num_frames": 5, "size": 32, "frame_stride": 1, "window": "random"}),
}


def make_latents(folder: Path) -> None:
    write_latents(folder / "a.h5", finish=True)


def make_partial(folder: Path) -> None:
    write_latents(folder / "a.h5", finish=False)


def write_latents(path: Path, *, finish: bool) -> None:
    from latents_cache import create_latents

    noise = np.random.default_rng(0).standard_normal((6, 2, *LATENT_SHAPE))
    with create_latents(path, 6, LATENT_SHAPE, FACTS, has_logvar=True) as writer:
        for row in range(6 if finish else 3):
            writer.write(row, *noise[row], label=row % 3, name=f"clip {row}")
        if finish:
            writer.finish()


def read_latents(folder: Path) -> None:
    from generator.train import TrainConfig, build_config
    from latents_cache import open_latents
    from latents_cache.check import check_labels, check_rows, describe

    with open_latents(folder / "a.h5") as reader, open(os.devnull, "w", errors="backslashreplace") as nowhere:
        with contextlib.redirect_stdout(nowhere):
            describe(reader)
        check_labels(reader)
        batch = reader.batch(range(min(len(reader), 8)))
        assert batch["mean"].dtype == np.float16 and batch["mean"].shape[1:] == reader.shape
        assert len(reader.names) == len(reader) and all(isinstance(name, str) for name in reader.names)
        build_config(TrainConfig(latents=str(reader.path), preset="demo"), reader)
        check_rows(reader)


def read_partial(folder: Path) -> None:
    from latents_cache import create_latents, open_latents

    with create_latents(folder / "a.h5", 6, LATENT_SHAPE, FACTS) as writer:
        for row in writer.missing():
            writer.write(row, *np.zeros((2, *LATENT_SHAPE)))
        writer.finish()
    with open_latents(folder / "a.h5") as reader:
        assert len(reader) == 6


def _trainer():
    """A tiny generator in training, with a gradient."""
    import torch

    from generator.config import LatteConfig
    from generator.latte import Latte
    from runtime.processes import World
    from runtime.trainer import Trainer

    torch.manual_seed(0)
    model = Latte(
        LatteConfig(channels=4, groups=2, height=2, width=2, num_classes=3, hidden_size=8, depth=2, num_heads=2)
    )
    trainer = Trainer(model, World(0, 1, torch.device("cpu")), learning_rate=1e-3)
    model(torch.zeros(1, *LATENT_SHAPE), torch.zeros(1), torch.zeros(1, dtype=torch.int64)).square().mean().backward()
    return trainer


def make_generator(folder: Path) -> None:
    """A run with one checkpoint that training could go on from."""
    from runtime.records import write_json

    trainer = _trainer()
    trainer.update(0, 1e-3, True, folder)
    facts = {**FACTS, "mean": [0.0] * 4, "std": [1.0] * 4, "rows": 6, "path": "a.h5"}
    config = asdict(trainer.model.config)
    trainer.save(folder / "runs" / "a", 2, state={"latents": facts}, files={"config.json": config}, keep=True)
    session = {"started": "2026-01-01", "ended": "2026-01-02", "status": "done", "seconds": 1.5}
    manifest = {
        "kind": "generator",
        "name": "a",
        "started": "2026-01-01",
        "sessions": [session],
        "identity": {"seed": 0},
    }
    write_json(folder / "runs" / "a" / "manifest.json", manifest | {"latents": facts})
    write_json(folder / "runs" / "a" / "config.json", {"seed": 0, "preset": "demo", "steps": 2})


STEP = "runs/a/checkpoints/step_00000002"


def read_generator(folder: Path) -> None:
    """Find and load a run as `generator.sample` and `eval.fvd` do."""
    import torch

    from eval.clip_sets import open_training_clips
    from eval.decode import file_word
    from generator.loading import load_generator
    from runtime.run import Run, newest_run

    run = newest_run(folder / "runs", "generator")
    loaded = load_generator(run)
    loaded.denormalize(torch.zeros(1, *loaded.config.latent_shape))
    Run.check(argparse.Namespace(runs_dir=folder / "runs"), kind="generator", name="a", identity={"seed": 0})
    if {"clip", "data", "split"} <= set(loaded.latents):
        open_training_clips(loaded.latents | {"root": str(folder)})
    for name in json.loads(loaded.latents.get("class_names", "[]")):
        assert Path(file_word(name)).name == file_word(name) and ".." not in file_word(name)


def read_checkpoint(folder: Path) -> None:
    """Go on training from a checkpoint."""
    from generator.loading import restore

    trainer = _trainer()
    trainer.update(restore(folder / "runs" / "a", trainer), 1e-3, True, folder)


def _clip() -> np.ndarray:
    ramp = np.arange(9 * 32 * 48 * 3, dtype=np.int64).reshape(9, 32, 48, 3)
    return (ramp * 7 % 251).astype(np.uint8)


def make_videos(folder: Path) -> None:
    from videos import write_video

    for suffix in (".mp4", ".avi", ".mkv"):
        write_video(folder / f"a{suffix}", _clip(), 8)


def read_videos(folder: Path) -> None:
    from videos import ClipSpec, read_video
    from videos.codec import check_video, frame_rate
    from videos.datasets import open_files

    dataset = open_files("videos", str(folder), "all", ClipSpec(num_frames=5, size=32), strict=False)
    dataset.fingerprint()
    refused = [f"{path}: {reason}" for path, reason in dataset.skipped]
    for number, source in enumerate(dataset.sources):
        for read in (
            lambda n=number: dataset[n],
            lambda s=source: read_video(s),
            lambda s=source: frame_rate(s),
            lambda s=source: check_video(s),
        ):
            try:
                read()
            except InputError as error:
                refused.append(str(error))
    if refused:
        raise InputError("; ".join(refused))


def make_images(folder: Path) -> None:
    from PIL import Image

    for suffix in (".png", ".jpg", ".webp", ".bmp"):
        Image.fromarray(_clip()[0]).save(folder / f"a{suffix}")


def read_images(folder: Path) -> None:
    from videos import ClipSpec
    from videos.datasets import open_files

    dataset = open_files("images", str(folder), "all", ClipSpec(num_frames=1, size=32), strict=False)
    if dataset.skipped:
        raise InputError(str(dataset.skipped))
    for number in range(len(dataset)):
        assert dataset[number]["video"].shape == (3, 1, 32, 32)


def make_split_lists(folder: Path) -> None:
    names = ("Archery/v_Archery_g01_c01.avi", "YoYo/v_YoYo_g09_c02.avi")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "trainlist01.txt").write_text(f"{names[1]} 101\n")
    (folder / "testlist01.txt").write_text(f"{names[0]}\n")


def read_split_lists(folder: Path) -> None:
    """Whatever a list names, only files below the folder are ever in a split."""
    from videos.ucf101 import UCF101

    dataset = UCF101.__new__(UCF101)
    dataset.root = folder
    for split in ("train", "test"):
        dataset.split = split
        assert all(path.is_relative_to(folder) for path in dataset.list_sources())


def make_logs(folder: Path) -> None:
    lines = [json.dumps({"step": step, "time": 1.5 * step, "loss": 0.5, "val_psnr": None}) for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def read_logs(folder: Path) -> None:
    from benchmarks.ship import training_seconds
    from eval.page.sections import read_log
    from runtime.log import MetricsLog

    read_log(folder)
    training_seconds(folder)
    log = MetricsLog.__new__(MetricsLog)
    log.path = folder / "metrics.jsonl"
    log._cut_back(4)


def make_results(folder: Path) -> None:
    from eval.results.rows import Row, write_results

    rows = [Row(metric="FD-shapes", subject="generated", value=1.5, low=1.0, high=2.0, n=4)]
    facts = {"data": "moving_shapes", "guidance_scales": [1.0, 2.0], "decoder_hash": "0", "differences": ["few clips"]}
    write_results(folder / "a.json", kind="fvd", rows=rows, **facts)


def read_results_file(folder: Path) -> None:
    from eval.page.document import results_table
    from eval.results.rows import read_results, table
    from eval.tables import TablesConfig, tables
    from eval.verify import checks_of

    rows = read_results(folder / "a.json")[1]
    table(rows)
    results_table(rows)
    list(checks_of(folder / "a.json", weights=False))
    with contextlib.redirect_stdout(io.StringIO()):
        tables(TablesConfig(results=(str(folder / "a.json"),), out=str(folder / "a.tex")))


def make_predictions(folder: Path) -> None:
    """Results of a prediction and of a generator in the same latents."""
    from eval.results.rows import Row, write_results

    about = {"metric": "error / repeat", "low": 0.1, "high": 0.3, "n": 4}
    rows = [Row(subject=subject, value=0.2, **about) for subject in ("predicted", "blank")]
    rows += [
        Row(metric=f"error / repeat, frame +{k}", subject="predicted", value=0.2, low=0.1, high=0.3) for k in (1, 2)
    ]
    facts = {"data": "moving_shapes", "encoder_hash": "0", "label": "mine", "observed_frames": 9}
    write_results(folder / "p.json", kind="prediction", rows=rows, trained_steps=4, max_drop_ratio=1.0, **facts)
    made = [Row(metric="FD-shapes", subject="generated", value=1.5, low=1.0, high=2.0, n=4)]
    write_results(folder / "g.json", kind="fvd", rows=made, data="moving_shapes", encoder_hash="0")


def read_predictions(folder: Path) -> None:
    from eval.page.predictions import prediction_page
    from eval.prediction import read_all

    found = read_all((str(folder / "p.json"), str(folder / "g.json")))
    text = prediction_page(
        [one for one in found if one.kind == "prediction"], [one for one in found if one.kind == "fvd"], {}
    )
    assert text.count("<script") == 1


def make_measurements(folder: Path) -> None:
    """Rows of three clips through a tokenizer, and the results that follow from them."""
    from eval.features.store import FeatureSet, FeatureStore, load_feature_set
    from eval.measurements import layout_of
    from eval.quantities import measurement_rows
    from eval.results.rows import write_results

    layout = layout_of(5, 1, ["alex"], 2)
    key = {"layout": layout, "num_frames": 5, "observed": 1, "stratified": False}
    rows = np.random.default_rng(0).random((3, sum(layout.values()))).astype(np.float32)
    store = FeatureStore(folder, "kept", key | {"network": "shapes", "weights": "w"})
    with store.segment("abc") as segment:
        segment.write(range(3), FeatureSet(rows, None, np.arange(3)))
        segment.finish()
    store.folder = store.folder.rename(folder / "kept")
    kept = store.gather("abc")
    kept.path.rename(folder / "kept" / "set.json")
    next((folder / "kept").glob("segment-*")).rename(folder / "kept" / "segment-a.h5")
    kept = load_feature_set(folder / "kept" / "set.json")
    write_results(
        folder / "a.json", kind="reconstruction", rows=measurement_rows(kept), data="videos", decoder_hash="0"
    )


def read_measurements(folder: Path) -> None:
    from eval.features.store import load_feature_set
    from eval.quantities import measurement_rows
    from eval.verify import checks_of

    assert all(check.state for check in checks_of(folder / "a.json", weights=False))
    measurement_rows(load_feature_set(folder / "kept" / "set.json"))


PROBED = {"source": "generator", "level": 0.1, "seed": 0}  # the unit that is mutated


def make_probe(folder: Path) -> None:
    """Results of two probes of three clips by two seeds, and the errors that were kept."""
    from eval.probes.features import SOURCES
    from eval.probes.measure import Found
    from eval.probes.rows import rows_of
    from eval.probes.units import make_unit, read_unit, sums_of, unit_path
    from eval.results.rows import write_results

    rng, files = np.random.default_rng(0), {("zero flow", 0.0): [{"source": "zero flow", "level": 0.0}]}
    files |= {(source, 0.1): [PROBED | {"source": source, "seed": seed} for seed in (0, 1)] for source in SOURCES}
    for keys in files.values():
        for key in keys:
            make_unit(folder, key, lambda: {"EPE": 1 + rng.random((3, 2))})
    files = {who: tuple(unit_path(folder, key) for key in keys) for who, keys in files.items()}
    videos = [0, 1, 1]
    found = Found({who: sums_of(list(map(read_unit, paths)), videos) for who, paths in files.items()}, files, videos)
    facts = {"of": "flow", "data": "moving_shapes", "decoder_hash": "0", "videos": videos, "judged_on": "0"}
    facts |= {"heads_trained_on": "0", "seed": 0, "seeds": [0, 1], "head_steps": 1, "head_width": 1, "batch_size": 1}
    for name in ("a.json", "b.json"):
        write_results(folder / name, kind="probe", rows=rows_of("flow", found), **facts)


def probed_name() -> str:
    """The file of the unit that is mutated."""
    from eval.probes.units import unit_path

    return unit_path(Path(), PROBED).name


def read_probe(folder: Path) -> None:
    from eval.difference import DifferenceConfig, difference
    from eval.verify import checks_of

    assert all(check.state for check in checks_of(folder / "a.json", weights=False))
    with contextlib.redirect_stdout(io.StringIO()):
        difference(DifferenceConfig(a=str(folder / "a.json"), b=str(folder / "b.json"), out=str(folder / "c.json")))


def make_labels(folder: Path) -> None:
    (folder / "val").mkdir()
    (folder / "val" / "aaaaaaaaaaa_000000_000010.mp4").touch()
    (folder / "val.csv").write_text("label,youtube_id,time_start,time_end,split\nyoga,aaaaaaaaaaa,0,10,validate\n")


def read_labels(folder: Path) -> None:
    """Whatever a list names, only files below the folder are in the data set."""
    from videos.kinetics400 import Kinetics400

    dataset = Kinetics400.__new__(Kinetics400)
    dataset.root, dataset.split = folder, "test"
    assert all(path.is_relative_to(folder) and dataset.label(path) >= -1 for path in dataset.list_sources())


def make_features(folder: Path) -> None:
    """Features of four clips: a set of two segments, and a segment that is half filled."""
    from eval.features.store import FeatureSet, FeatureStore, Segment

    half = FeatureSet(np.ones((2, 3), np.float32), np.full((2, 2), 0.5, np.float32), np.arange(2))
    store = FeatureStore(folder, "a", {"seed": 0})
    store.folder = folder
    for name, clips in (("segment-a", "ab"), ("segment-b", "cd")):
        with Segment(folder / f"{name}.h5", store.key, clips) as segment:
            segment.write([0, 1], half)
            segment.finish()
    store.gather("abcd").path.rename(folder / "set.json")
    with Segment(folder / "half.h5", store.key, "abcd") as segment:
        segment.write([0, 1], half)


def read_features(folder: Path) -> None:
    from eval.features.store import load_feature_set

    for name, count in (("set.json", 4), ("segment-a.h5", 2)):
        found = load_feature_set(folder / name)
        assert found.features.shape[1] == 3 and np.isfinite(found.features).all()
        assert len(found.labels) == count or name == "set.json"


def read_partial_features(folder: Path) -> None:
    """Go on filling a segment."""
    from eval.features.store import FeatureSet, Segment, load_feature_set

    with Segment(folder / "half.h5", {"seed": 0}, "abcd") as segment:
        missing = segment.missing()
        batch = (np.ones((len(missing), 3), np.float32), np.full((len(missing), 2), 0.5, np.float32))
        segment.write(missing, FeatureSet(*batch, np.zeros(len(missing), np.int64)))
        segment.finish()
    assert load_feature_set(folder / "half.h5").features.shape == (4, 3)


def make_page(folder: Path) -> None:
    """A generator's run with what its page shows of it: manifest, log, curve and numbers."""
    from eval.results.rows import Row, write_results
    from runtime.records import write_json
    from runtime.run import read_run

    make_generator(folder)
    make_logs(folder / "runs" / "a")
    run = read_run(folder / "runs" / "a")
    machine = {"processor": "p", "cores": 1, "system": "s"}
    facts = {"shape": [4, 2, 2, 2], "data_fingerprint": "0"} | run.manifest["latents"]
    manifest = {"parameters": 9, "command": "c", "git_commit": "0", "versions": {"torch": "2"}, "machine": machine}
    write_json(run.dir / "manifest.json", run.manifest | manifest | {"latents": facts})
    ends = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    rows = [Row(metric=metric, subject="generated", **ends) for metric in ("FD-shapes", "accuracy-class")]
    write_results(run.dir / "eval" / "a.json", kind="fvd", rows=rows, data="moving_shapes", guidance_scales=[2.0])
    points = [{"step": 4, "value": 2.0, "low": 1.0, "high": 3.0}]
    curve = {"metric": "FD-shapes", "samples": 8, "floor": 1.0, "untrained": 9.0, "data": "moving_shapes"}
    curve |= {"curve": points, "curve_to_reconstructions": points}
    write_results(run.dir / "eval" / "b.json", kind="convergence", rows=[], **curve)


def read_page(folder: Path) -> None:
    """The parts of the page for which nothing is decoded."""
    from eval.page import sections
    from eval.page.found import found_in
    from eval.report import check_generator, newest_results
    from runtime.run import read_run

    run = read_run(folder / "runs" / "a", "generator")
    check_generator(run)
    results = newest_results([run.dir / "eval"], "moving_shapes")
    sections.numbers_section(results)
    sections.curves_section(run, None, results)
    sections.differences_section(run, None, results)
    sections.run_section(run, None)
    found_in(results)


def make_card(folder: Path) -> None:
    """A tokenizer's run with what its model card says of it."""
    from eval.results.rows import Row, write_results
    from runtime.records import write_json

    vae = _tiny_tokenizer()
    make_logs(folder)
    write_json(folder / "config.json", {"data": "moving_shapes", "size": 32})
    session = {"started": "2026-01-01", "seconds": 1.5, "processes": 1, "command": "c"}
    about = {"kind": "tokenizer", "name": "a", "started": "2026-01-01", "command": "c", "versions": {"torch": "2"}}
    about |= {"identity": {"steps": 8, "dtype": "float32"}, "plan": [{"name": "images", "stop": 8}]}
    write_json(folder / "manifest.json", about | {"sessions": [session], "machine": {"processor": "p", "cores": 1}})
    rows = [Row(metric="PSNR", subject="reconstructed", value=1.5, low=1.0, high=2.0, n=4)]
    facts = {"encoder_hash": vae.encoder_hash, "differences": ["few clips"], "samples": 4}
    write_results(folder / "eval" / "a.json", kind="reconstruction", rows=rows, **facts)


def read_card(folder: Path) -> None:
    from runtime.run import read_run
    from tokenizer.model_card import measured_of, model_card, validated_at

    vae, run = _tiny_tokenizer(), read_run(folder, "tokenizer")
    more = {"results": measured_of(folder, vae), "validated": validated_at(folder, 8)}
    model_card(vae, folder, run=run, step=8, **more)


RUN_FILES = (f"{STEP}/config.json", f"{STEP}/state.json", "runs/a/manifest.json", "runs/a/config.json")
PAGE_FILES = ("manifest.json", "config.json", "eval/a.json", "eval/b.json")


def make_tapvid(folder: Path) -> None:
    import pickle

    points = np.linspace(0, 1, 36).reshape(2, 9, 2)
    video = {"video": _clip(), "points": points, "occluded": points[..., 0] > 0.5}
    (folder / "tapvid_davis.pkl").write_bytes(pickle.dumps({"goat": video}, 4))


def make_flow(folder: Path) -> None:
    flow = np.linspace(-5, 5, 2 * 32 * 48, dtype="<f4")
    (folder / "a.flo").write_bytes(
        np.float32(202021.25).tobytes() + np.array([48, 32], "<i4").tobytes() + flow.tobytes()
    )


def make_joints(folder: Path) -> None:
    from PIL import Image

    (folder / "bear").mkdir()
    for number, picture in enumerate(_clip()):
        Image.fromarray(picture).save(folder / "bear" / f"{number:05d}.png")
    marked = [
        {"image_path": f"bear/{number:05d}.png", "joints": [[3, 9], [0, 0]], "visibility": [True, False]}
        for number in (0, 3, 7)
    ]
    (folder / "bear.json").write_text(json.dumps(marked))


def read_flow_file(folder: Path) -> None:
    from videos.motion import fit_flow
    from videos.sintel import UNKNOWN, read_flow

    flow = read_flow(folder / "a.flo")
    fit_flow(flow[None], (np.abs(flow) < UNKNOWN).all(0)[None], 16)


def read_points(data: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from videos import ClipSpec, open_dataset

        dataset = open_dataset(data, str(folder), clip=ClipSpec(num_frames=5, size=32), truth=True)
        for number in range(len(dataset)):
            item = dataset[number]
            assert item["tracks"].shape == (*item["visible"].shape, 2) and item["video"].shape == (3, 5, 32, 32)

    return read


KINDS = {
    "tokenizer-config": Kind(make_tokenizer, ("config.json",), mutate_json, read_tokenizer),
    "tokenizer-weights": Kind(make_tokenizer, ("model.safetensors",), mutate_bytes, read_tokenizer),
    "latents": Kind(make_latents, ("a.h5",), mutate_hdf5, read_latents),
    "latents-partial": Kind(make_partial, ("a.h5.partial",), mutate_hdf5, read_partial),
    "generator-json": Kind(make_generator, RUN_FILES, mutate_json, read_generator),
    "generator-weights": Kind(make_generator, (f"{STEP}/ema.safetensors",), mutate_bytes, read_generator),
    "checkpoint-json": Kind(make_generator, (f"{STEP}/state.json",), mutate_json, read_checkpoint),
    "checkpoint-optimizer": Kind(make_generator, (f"{STEP}/optimizer.pt",), mutate_bytes, read_checkpoint),
    "video": Kind(make_videos, ("a.mp4", "a.avi", "a.mkv"), mutate_bytes, read_videos),
    "image": Kind(make_images, ("a.png", "a.jpg", "a.webp", "a.bmp"), mutate_bytes, read_images),
    "tapvid": Kind(make_tapvid, ("tapvid_davis.pkl",), mutate_bytes, read_points("tapvid_davis")),
    "flow": Kind(make_flow, ("a.flo",), mutate_bytes, read_flow_file),
    "joints": Kind(make_joints, ("bear.json",), mutate_json, read_points("badja")),
    "split-list": Kind(make_split_lists, ("trainlist01.txt", "testlist01.txt"), mutate_lines, read_split_lists),
    "log": Kind(make_logs, ("metrics.jsonl",), mutate_lines, read_logs),
    "results": Kind(make_results, ("a.json",), mutate_json, read_results_file),
    "probe": Kind(make_probe, ("a.json", probed_name()), mutate_json, read_probe),
    "page": Kind(make_page, tuple(f"runs/a/{name}" for name in PAGE_FILES), mutate_json, read_page),
    "page-log": Kind(make_page, ("runs/a/metrics.jsonl",), mutate_lines, read_page),
    "card": Kind(make_card, ("manifest.json", "config.json", "eval/a.json"), mutate_json, read_card),
    "predictions": Kind(make_predictions, ("p.json", "g.json"), mutate_json, read_predictions),
    "measurements": Kind(make_measurements, ("kept/segment-a.h5",), mutate_hdf5, read_measurements),
    "labels": Kind(make_labels, ("val.csv",), mutate_lines, read_labels),
    "features": Kind(make_features, ("segment-a.h5",), mutate_hdf5, read_features),
    "features-set": Kind(make_features, ("set.json",), mutate_json, read_features),
    "features-partial": Kind(make_features, ("half.h5.partial",), mutate_hdf5, read_partial_features),
}
