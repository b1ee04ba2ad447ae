"""The sections of the page: clips that play, numbers, curves, how this differs from the paper, and what was run."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.clip_sets import open_training_clips, real_clips, reconstructed, stratified_halves
from eval.decode import clips_at_once, decoded_clips, fitting_tokenizer, sampled
from eval.features import load_features
from eval.page.clips import Clip, clip_grid, clip_table
from eval.page.document import bullet_list, facts_table, folded, quiet, results_table, section
from eval.page.figures import curve, smoothed
from eval.protocols.presets import guessed
from eval.results.rows import Row
from eval.tokenizer_clips import predictor_of
from generator.loading import SHIPPED
from latents_cache import open_latents
from runtime.errors import InputError
from runtime.processes import autocast, resolve_device, resolve_dtype
from runtime.records import check_fields, is_number, read_json, read_lines
from runtime.run import commits
from videos import psnr, to_float, to_uint8

_CURVE = {"curve": list[dict], "curve_to_reconstructions": list[dict], "metric": str, "samples": int}
# What makes one curve another one of the same run, and how its title says so.
CURVES = {"guidance_scale": "guidance", "guidance_interval": "within", "labels": "labels", "tokenizer": "decoded by"}
CURVES |= {"weights": "with weights"}
_CURVE |= {"floor": float, "untrained": float}


def frames(clips: Tensor) -> np.ndarray:
    """uint8 `[n, 3, N, H, W]` as `[n, N, H, W, 3]`, which pictures are made of."""
    return clips.permute(0, 2, 3, 4, 1).numpy()


def captions_of(labels: Sequence[int], facts: dict, otherwise: str) -> list[str]:
    """The name of each label's class; `otherwise` and a number where it has none."""
    names = json.loads(facts.get("class_names", "[]"))
    return [names[label] if 0 <= label < len(names) else f"{otherwise} {i}" for i, label in enumerate(labels)]


def real_section(config, run, facts: dict) -> str:
    """Real clips, what the tokenizer makes of them, and what it predicts, where weights of its video stage stayed or
    somebody's own class does.

    Args:
        config: Flags of `eval.report`.
        run: The generator's.
        facts: What its latents say of themselves.
    """
    dataset, seen = shown_clips(facts)
    halves = stratified_halves(dataset.labels(), config.clips, config.seed)
    clip, labels = real_clips(dataset, [*halves[1], *halves[0]], config.seed, config.clips)
    device = resolve_device(config.device)
    vae = fitting_tokenizer(facts, run.dir, device=config.device)
    predictor = predictor_of(facts["tokenizer"], facts.get("weights"), vae, device)
    groups = vae.spec.groups(clip.shape[2])
    observed = vae.spec.frames(groups - groups // 2)
    with torch.no_grad(), autocast(device, resolve_dtype(config.dtype, device)):
        decoded = reconstructed(clip, vae, device)
        if predictor:
            parts = clip[:, :, :observed].split(clips_at_once(*clip.shape[2:]))
            made = [to_uint8(predictor.predict(to_float(part.to(device)), groups // 2)).cpu() for part in parts]
            ahead = torch.cat(made)
    kinds, shown = ["real", "reconstructed"], [frames(clip), frames(decoded)]
    title, words = "Real, reconstructed", f"{seen}: the clip itself, and what comes out of encoder and decoder."
    if predictor:
        kinds, shown, title = [*kinds, "predicted"], [*shown, frames(ahead)], "Real, reconstructed, predicted"
        who = "the class itself" if predictor is vae else "the decoder of the video stage, from padding,"
        words = (
            f"{seen}: the clip itself, what comes out of encoder and decoder, and what is predicted. There the encoder "
            f'sees the first {observed} frames (<span class="green">green</span>), and {who} draws the rest '
            '(<span class="orange">orange</span>).'
        )
    decibels = psnr(decoded.double() / 255, clip.double() / 255).tolist()
    names = captions_of(labels, facts, "clip")
    rows = [
        (kind, [Clip(playing, text=f"{kind}: {name}", observed=observed if kind == "predicted" else None)
                for name, playing in zip(names, made, strict=True)])
        for kind, made in zip(kinds, shown, strict=True)
    ]  # fmt: skip
    captions = [f"{name}, {d:.1f} dB" for name, d in zip(names, decibels, strict=True)]
    return section(title, quiet(words), clip_table(captions, rows, name=title))


def shown_clips(facts: dict):
    """Clips to show, and in words where they come from: held-out ones where the data set has any."""
    data = html.escape(facts["data"])
    if facts["split"] == "train":
        try:
            held_out = open_training_clips({**facts, "split": "test", "data_fingerprint": ""})
            return held_out, f"Clips of {data} that no training has seen"
        except InputError:
            pass  # a data set without a test part
    return open_training_clips(facts), f"Training clips of {data}"


def generated_sections(config, run, facts: dict, results: Sequence[tuple]) -> list[str]:
    """What the generator draws under the guidance that was asked for, else under each that eval.fvd measured."""
    scales = [config.guidance_scale]
    if config.guidance_scale is None:
        scales = next((record["guidance_scales"] for record, _ in results if "guidance_scales" in record), [1.0])
    judged = ", ticked where the judge sees it too, else with what it sees instead"
    words = f"From noise in {config.steps} Euler steps. Below each clip the class that was asked for"
    words = quiet(f"{words}{judged if facts['data'].startswith('moving_shapes') else ''}.")
    title, run_dir = "Generated, trained just now, guidance", str(run.dir)
    return [section(f"{title} {scale:g}", words, generated_grid(config, run_dir, scale)) for scale in scales]


def drawn_clips(
    path: Path, count: int, device: str, dtype: str, tokenizer: str | None = None, weights: str | None = None
):
    """(uint8 `[n, 3, N, H, W]`, labels, what the file says of itself, the tokenizer): the first samples of a file."""
    with open_latents(path) as reader:
        vae = fitting_tokenizer(reader.attributes, path, tokenizer, weights, device=device)
        clips, labels = zip(*decoded_clips(reader, vae, count, device=device, dtype=dtype), strict=True)
        return torch.cat(clips), np.concatenate(labels).tolist(), reader.attributes, vae


def generated_grid(config, run: str, scale: float) -> str:
    """The first samples of a generator, each with the class that was asked for, and what the judge sees."""
    path = sampled(config, run, config.clips, steps=config.steps, guidance_scale=scale)
    clips, labels, facts, _ = drawn_clips(path, config.clips, config.device, config.dtype)
    words = captions_of(labels, facts, "sample")
    if facts.get("data", "").startswith("moving_shapes"):
        seen = load_features("shapes").probabilities(to_float(clips)).argmax(1).tolist()
        words = [
            f"{word} ✓" if saw == label else f"{word}; judge: {name}"
            for word, label, saw, name in zip(words, labels, seen, captions_of(seen, facts, "class"), strict=True)
        ]
    return clip_grid([Clip(*shown) for shown in zip(frames(clips), words, strict=True)])


def shipped_sections(config) -> list[str]:
    """Clips and numbers of the shipped weights, named as what they are; nothing when none are shipped."""
    source = SHIPPED["moving-shapes"] / "manifest.json"
    if not source.is_file():
        return []
    manifest = read_json(source)
    scale = manifest.get("guidance_scale", 1.0) if config.guidance_scale is None else config.guidance_scale
    title, commands = shipped_words(manifest)
    numbers = results_table([Row(**row) for row in manifest.get("rows", [])])
    shown = "<pre>" + html.escape("\n".join(commands)) + "</pre>"
    return [section(title, shown, generated_grid(config, "moving-shapes", scale), numbers)]


def shipped_words(manifest: dict) -> tuple[str, list[str]]:
    """Title and commands of the section of shipped weights, from the manifest that `benchmarks.ship` wrote."""
    parts = [manifest["tokenizer"], manifest["generator"]]
    hours = " + ".join(f"{part['hours']:.1f}" for part in parts)
    return f"Shipped, trained {hours} hours by these commands", [part["command"] for part in parts]


_INTERVALS = (
    "Intervals are 95 % by jackknife over clips: they cover what fresh clips would change at this count, not other "
    "training seeds. Grey rows are controls: <i>real</i> is other real clips against the same reference (the floor), "
    "<i>frozen</i> and <i>shuffled</i> are real clips without, or with wrong, motion, <i>reconstructed</i> is real "
    "clips through the tokenizer (no generator of its latents can be expected to do better), <i>untrained</i> decodes "
    "pure noise, <i>blank</i> and <i>grey</i> are flat pictures in the clip's median colour and in grey. ↓: lower is "
    "better, ↑: higher."
)


def numbers_section(results: Sequence[tuple[dict, list[Row]]]) -> str:
    """A table for each evaluation; below it, what its protocols are, or what it compares."""
    parts = []
    for record, rows in results:
        if record["kind"] == "convergence":
            continue
        kind, command = html.escape(record["kind"]), html.escape(record["command"])
        parts += [f"<h3>{kind}</h3>", results_table(rows, record["kind"])]
        parts.append(folded("How they were made", f"<pre>{command}</pre>"))
        if record["kind"] == "difference":
            sides = [f"{side}: {record[side]}" for side in ("a", "b") if side in record]
            parts.append(bullet_list([*sides, *record.get("differences", ())]))
        for name, protocol in record.get("protocols", {}).items():
            differs = protocol["differences"] or ["as the paper, as far as it says"]
            parts.append(folded(f"Protocol {name}", bullet_list(differs)))
    return section("Numbers", quiet(_INTERVALS), *(parts or [quiet("Nothing was measured yet.")]))


def curves_section(run, tokenizer_run, results: Sequence[tuple]) -> str:
    """Loss and convergence curves."""
    charts, step, generator_step = [], "tokenizer step", "generator step"
    if tokenizer_run:
        log, ratio = read_log(tokenizer_run.dir), "val_predicted_over_repeat"
        terms = logged(log, {"mse": "mse", "temporal": "temporal"})
        decibels = logged(log, {"PSNR": "val_psnr", "of first frames": "val_psnr_frame_00"})
        ahead = logged(log, {"all frames": ratio, "1 ahead": f"{ratio}_plus_1", "4 ahead": f"{ratio}_plus_4"})
        over_repeat, one = "squared error of predicted frames over that of repeating", {"repeating the last frame": 1.0}
        charts += [
            curve(terms, x_label=step, y_label="loss", title="tokenizer loss terms", log_y=True),
            curve(decibels, x_label=step, y_label="PSNR, dB", title="PSNR on held-out clips"),
            curve(ahead, x_label=step, y_label="error / repeating", title=over_repeat, levels=one),
        ]
    loss = logged(read_log(run.dir), {"flow loss": "loss"})
    charts.append(curve(loss, x_label=generator_step, y_label="flow loss", log_y=True))
    for record, _ in results:
        if record["kind"] == "convergence":
            source = f"convergence of {run.dir}"
            check_fields(record, _CURVE, source)
            for point in (*record["curve"], *record["curve_to_reconstructions"]):
                check_fields(point, {"step": float, "value": float}, source)
                check_fields(point, dict.fromkeys(("low", "high"), float | None), source, needed=False)
            metric, to_real = record["metric"], record["curve"]
            how = "".join(f", {words} {record[name]}" for name, words in CURVES.items() if name in record)
            found = {metric: to_real, f"{metric} to reconstructions": record["curve_to_reconstructions"]}
            chart = curve(
                {name: [(p["step"], p["value"]) for p in points] for name, points in found.items()},
                bands={metric: [(p["step"], p.get("low"), p.get("high")) for p in to_real]},
                levels={"other real clips": record["floor"], "untrained": record["untrained"]},
                log_y=record["floor"] > 0,
                x_label=generator_step,
                y_label=metric,
                title=f"{metric}, {record['samples']} clips{how}",
            )
            charts.append(chart)
    return section("Curves", f'<div class="charts">{"".join(charts)}</div>')


def logged(log: list[dict], names: dict[str, str]) -> dict[str, list[tuple[float, float]]]:
    """What `curve` draws of a log: points (step, value) by legend, for the values that `names` gives by legend."""
    return {
        words: smoothed([(line["step"], line[name]) for line in log if is_number(line.get(name))])
        for words, name in names.items()
    }


def read_log(run_dir: Path) -> list[dict]:
    """metrics.jsonl, one dict a step."""
    return read_lines(run_dir / "metrics.jsonl", {"step": int})


def differences_section(run, tokenizer_run, results: Sequence[tuple], step: int | None = None) -> str:
    """In words, how models and measurements differ from the paper's, and what stands where the paper says nothing.

    Args:
        step: Of the tokenizer's checkpoint, where latents are not of its newest.
    """
    words = []
    if tokenizer_run:
        config, manifest = tokenizer_run.config, tokenizer_run.manifest
        after = f"after those of {config['init_from']}" if config.get("init_from") else "in all"
        words.append(
            f"tokenizer preset {config['preset']}: {manifest['parameters'] / 1e6:.1f} M parameters (paper: 661 M), "
            f"trained {step or manifest['identity']['steps']:,} steps {after} (paper: 400,000), LPIPS weight "
            f"{config['lpips_weight']:g}, {adversarial_words(config, read_log(tokenizer_run.dir))}"
        )
    words.append(
        f"generator preset {run.config['preset']}: {run.manifest['parameters'] / 1e6:.1f} M parameters (Latte-XL: "
        f"674 M), {run.config['steps']:,} steps (paper: 250,000)"
    )
    measured = [record for record, _ in results if record["kind"] != "difference"]
    words += sorted({word for record in measured for word in record.get("differences", [])})
    left_open = folded(
        "What the paper leaves open of how its numbers are made, and what our default fills in", bullet_list(guessed())
    )
    return section("How this differs from the paper", bullet_list(words), left_open)


def adversarial_words(config: dict, log: list[dict]) -> str:
    """Whether a tokenizer was trained with its adversarial loss, by its configuration and log."""
    weight = config.get("gan_weight", 0.0)  # absent before there was such a loss
    if not weight:
        return "no adversarial loss"
    steps = [line for line in log if "mse" in line]
    return f"adversarial loss of weight {weight:g} in {sum('gan' in line for line in steps):,} of {len(steps):,} steps"


def run_section(run, tokenizer_run) -> str:
    """Commands, machine, versions, hashes, and how long each part took."""
    facts = []
    for info in filter(None, (tokenizer_run, run)):
        manifest, sessions = info.manifest, info.manifest["sessions"]
        minutes = sum(session.get("seconds", 0.0) for session in sessions) / 60
        words = f"{manifest['command']} — {minutes:.1f} minutes in {len(sessions)} session(s)"
        words += f", seed {info.config['seed']}, started {manifest['started'][:19]} UTC"
        facts.append((f"{manifest['kind']}: {manifest['name']}", words))
        for part in read_lines(info.dir / "parts.jsonl", {"part": str, "seconds": float, "command": str}):
            facts.append((part["part"], f"{part['command']} — {part['seconds'] / 60:.1f} minutes"))
    machine, latents = run.manifest["machine"], run.manifest["latents"]
    facts += [
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.manifest["versions"].items())),
        ("code", commits(run.manifest)),
        ("encoder", latents["encoder_hash"]),
        ("decoder", latents.get("decoder_hash", "–")),
        (
            "latents",
            f"{latents['rows']} rows of {latents['shape']} from {latents['data']} ({latents['split']}), "
            f"data fingerprint {latents['data_fingerprint']}",
        ),
    ]
    return section("What was run", facts_table(facts))
