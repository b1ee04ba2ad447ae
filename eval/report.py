"""One page that shows what a run of the whole chain did: `python -m eval.report --run GENERATOR_RUN --out report.html`.

Real, reconstructed, predicted and generated clips that play; curves; every number with interval, count, features and
controls; what was run, on what, and for how long; and in words how it differs from the paper.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file
from runtime.records import check_fields

# What the page repeats of the runs and of the latents.
_MANIFEST = {"parameters": int, "command": str, "git_commit": str, "versions": dict, "machine": dict}
_FACTS = dict.fromkeys(("tokenizer", "encoder_hash", "data", "split", "clip", "data_fingerprint"), str)
_FACTS |= {"rows": int, "shape": list[int]}
_CURVE = {"curve": list[dict], "curve_to_reconstructions": list[dict], "metric": str, "samples": int}
_CURVE |= {"floor": float, "untrained": float}


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommonFlags):
    """Flags of `python -m eval.report`."""

    run: str | None = flag(None, "run of generator.train; default: the newest run")
    clips: int = flag(12, "clips of each kind to show", low=1, high=1000)
    steps: int = flag(100, "Euler steps of the shown samples", low=1, high=100_000)
    guidance_scale: float | None = flag(
        None, "guidance of the shown samples; default: those that eval.fvd measured, else 1", low=0.0, high=1000.0
    )
    shipped: bool = flag(True, "also show the shipped weights, where the data fit them")
    out: str = flag("report.html", "file to write", check=check_file)


def report(config: ReportConfig) -> Path:
    """Write the page and print the metrics table; returns the page's path."""
    from eval.page import bullet_list, page, section
    from eval.results import read_results, table
    from latents_cache.layout import check_attributes
    from runtime.files import replacing
    from runtime.run import is_main, newest_run, read_run, timed_part

    out = Path(config.out)
    if not out.parent.is_dir():
        raise InputError(f"--out {config.out}: no such folder {out.parent}")
    run = read_run(config.run or newest_run(config.runs_dir, "generator"), "generator")
    check_run(run, {"latents": dict})
    facts, source = run.manifest["latents"], f"{run.dir / 'manifest.json'}: latents"
    check_fields(facts, _FACTS, source)
    check_attributes(facts, source)
    tokenizer = Path(facts["tokenizer"])
    tokenizer_run = read_run(tokenizer, "tokenizer") if (tokenizer / "manifest.json").is_file() else None
    if tokenizer_run:
        check_run(tokenizer_run, {})
        check_fields(tokenizer_run.manifest["identity"], {"steps": int}, f"{tokenizer_run.dir}: identity")
        check_fields(tokenizer_run.config, {"lpips_weight": float}, tokenizer_run.dir / "config.json")
    with timed_part(run.dir, "eval.report"):
        folders = [tokenizer_run.dir, run.dir] if tokenizer_run else [run.dir]
        results = [read_results(path) for folder in folders for path in newest_results(folder, facts["data"])]
        rows = [row for record, found in results if record["kind"] != "convergence" for row in found]
        sections = clip_sections(config, run, facts)
        sections.append(section("Numbers", _numbers_intro(), _tables(results)))
        sections.append(section("Curves", curves(run, tokenizer_run, results)))
        if config.shipped and facts["data"] == "moving_shapes":
            sections += shipped_section(config)
        words = sorted({word for record, _ in results for word in record.get("differences", [])})
        sections.append(
            section("How this differs from the paper", bullet_list([*model_words(run, tokenizer_run), *words]))
        )
        sections.append(section("What was run", what_was_run(run, tokenizer_run)))
        intro = (
            f"Tokenizer, latents, generator and evaluation of <b>{html.escape(run.dir.name)}</b> on {html.escape(facts['data'])}: "
            "real clips, what the tokenizer makes of them, what it predicts, and what the generator draws from noise."
        )
        if is_main():
            with replacing(out, "report") as partial:
                partial.write_text(page(f"PV-VAE on {facts['data']}", intro, sections), "utf-8", "xmlcharrefreplace")
    print(table(rows))
    print(f"eval.report: open {out}")
    return out


def check_run(info, more: dict) -> None:
    """A run must say of itself what the page repeats, and `more`."""
    source = info.dir / "manifest.json"
    check_fields(info.manifest, more | _MANIFEST, source)
    check_fields(info.manifest["machine"], {"processor": str, "cores": int, "system": str}, f"{source}: machine")
    check_fields(info.config, {"preset": str, "seed": int}, info.dir / "config.json")


def newest_results(run_dir: Path, data: str) -> list[Path]:
    """The evaluations of a run on a data set, the newest of each kind, in a fixed order of kinds."""
    from runtime.run import read_json

    order = ("reconstruction", "fvd", "convergence")
    newest: dict[str, tuple[str, Path]] = {}
    for path in (run_dir / "eval").glob("*.json"):
        record = read_json(path)
        if record.get("kind") in order and record.get("data") == data:
            newest[record["kind"]] = max(newest.get(record["kind"], ("", path)), (str(record.get("created")), path))
    return [path for _, path in sorted(newest.values(), key=lambda item: order.index(read_json(item[1])["kind"]))]


def clip_sections(config: ReportConfig, run, facts: dict) -> list[str]:
    """Real, reconstructed, predicted and generated clips."""
    import torch

    from eval.decode import fitting_tokenizer
    from eval.figures import animation, bordered, side_by_side
    from eval.page import clip_grid, section
    from eval.sets import real_batches, stratified_halves
    from runtime.processes import autocast, resolve_device, resolve_dtype
    from tokenizer.zoo import load_predictor
    from videos import psnr, to_float, to_uint8

    dataset, seen = shown_clips(facts)
    names = json.loads(facts.get("class_names", "[]"))
    halves = stratified_halves(dataset.labels(), config.clips, config.seed)
    items = [*halves[1], *halves[0]][: config.clips]
    batches = list(real_batches(dataset, items, config.seed))
    clip = torch.cat([video for video, _ in batches])
    labels = [label for _, part in batches for label in part]
    captions = [names[label] if 0 <= label < len(names) else f"clip {i}" for i, label in enumerate(labels)]
    device = resolve_device(config.device)
    vae = fitting_tokenizer(facts, run.dir, device=config.device)
    predictor = load_predictor(facts["tokenizer"], device=device)
    video, groups = to_float(clip.to(device)), vae.spec.groups(clip.shape[2])
    observed = vae.spec.frames(groups - groups // 2)
    with torch.no_grad(), autocast(device, resolve_dtype(config.dtype, device)):
        decoded = to_uint8(vae.decode(vae.encode(video).mode())).cpu()
        ahead = predictor and to_uint8(predictor.predict(video[:, :, :observed], groups // 2)).cpu()
    decibels = psnr(decoded.double() / 255, clip.double() / 255)

    def frames(clips):
        return clips.permute(0, 2, 3, 4, 1).numpy()

    # One picture for all, so that they play in step.
    shown = [[real, ours] for real, ours in zip(frames(clip), frames(decoded), strict=True)]
    title, words = "Real, reconstructed", f"{seen}. Left: the clip itself. Right: through encoder and decoder."
    if predictor:
        shown = [[*pair, bordered(rest, observed)] for pair, rest in zip(shown, frames(ahead), strict=True)]
        title = "Real, reconstructed, predicted"
        words = (
            f"{seen}. Left: the clip itself. Middle: through encoder and decoder. Right: the encoder sees the first "
            f'{observed} frames (<span class="green">green</span>), and the decoder of the video stage draws the rest '
            '(<span class="orange">orange</span>) from padding.'
        )
    pictures = [animation(side_by_side(row), quality=_quality(row[0])) for row in shown]
    captions = [f"{caption}, {float(d):.1f} dB" for caption, d in zip(captions, decibels, strict=True)]
    sections = [
        section(title, f"<p class=quiet>{words}</p>", clip_grid(zip(pictures, captions, strict=True), wide=True))
    ]
    for scale in shown_scales(config, run.dir, facts["data"]):
        made = replace(config, guidance_scale=scale)
        generated, words = generated_clips(made, str(run.dir), names)
        pictures = [animation(c, quality=_quality(c)) for c in frames(generated)]
        sections.append(
            section(
                f"Generated, trained just now, guidance {scale:g}",
                generated_words(made, facts),
                clip_grid(zip(pictures, words, strict=True)),
            )
        )
    return sections


def shown_clips(facts: dict):
    """Clips to show, and a sentence on where they come from: held-out ones where the data set has any."""
    from eval.sets import open_training_clips

    if facts["split"] == "train":
        try:
            return open_training_clips(
                {**facts, "split": "test"}
            ), f"Clips of {html.escape(facts['data'])} that no training has seen"
        except InputError:
            pass  # a data set without a test part
    return open_training_clips(facts), f"Training clips of {html.escape(facts['data'])}"


def shown_scales(config: ReportConfig, run_dir: Path, data: str) -> tuple[float, ...]:
    """The guidance scale that was asked for, else those that eval.fvd measured."""
    from runtime.run import read_json

    if config.guidance_scale is not None:
        return (config.guidance_scale,)
    measured = [read_json(path) for path in newest_results(run_dir, data)]
    return next((tuple(record["guidance_scales"]) for record in measured if "guidance_scales" in record), (1.0,))


def generated_words(config: ReportConfig, facts: dict) -> str:
    """What a grid of generated clips shows."""
    judged = facts["data"].startswith("moving_shapes")
    return (
        f"<p class=quiet>From noise in {config.steps} Euler steps. Below each clip the class that was asked for"
        f"{', ticked where the judge sees it too, else with what it sees instead' if judged else ''}.</p>"
    )


def _quality(clip) -> int | None:
    """Lossless for tiny pictures, where every pixel shows; compressed for photographs."""
    return None if clip.shape[1] <= 48 else 80


def generated_clips(config: ReportConfig, run: str, names: list[str]):
    """The first samples of a generator, uint8 `[n, 3, 1+T, H, W]`, and their captions with what the judge sees."""
    import torch

    from eval.decode import decoded_clips, sampled, tokenizer_for
    from eval.features import load_features
    from latents_cache import open_latents
    from videos import to_float

    path = sampled(config, run, config.clips, steps=config.steps, guidance_scale=config.guidance_scale)
    with open_latents(path) as reader:
        vae = tokenizer_for(reader, device=config.device)
        found = list(decoded_clips(reader, vae, config.clips, device=config.device, dtype=config.dtype))
        data = reader.attributes.get("data", "")
    clips, labels = torch.cat([video for video, _ in found]), [int(label) for _, part in found for label in part]
    words = [names[label] if 0 <= label < len(names) else f"sample {i}" for i, label in enumerate(labels)]
    if data.startswith("moving_shapes"):
        seen = load_features("shapes").probabilities(to_float(clips)).argmax(1)
        words = [
            f"{word} ✓" if int(found) == label else f"{word}; judge: {names[int(found)]}"
            for word, found, label in zip(words, seen, labels, strict=True)
        ]
    return clips, words


def shipped_section(config: ReportConfig) -> list[str]:
    """Clips and numbers of the shipped weights, named as what they are; nothing when none are shipped."""
    from eval.figures import animation
    from eval.page import clip_grid, results_table, section
    from eval.results import Row
    from generator.loading import SHIPPED
    from runtime.run import read_json

    folder = SHIPPED["moving-shapes"]
    if not (folder / "manifest.json").is_file():
        return []
    manifest = read_json(folder / "manifest.json")
    state = read_json(folder / "state.json")
    scale = manifest.get("guidance_scale", 1.0) if config.guidance_scale is None else config.guidance_scale
    clips, words = generated_clips(
        replace(config, guidance_scale=scale), "moving-shapes", json.loads(state["latents"]["class_names"])
    )
    pictures = [(animation(c), w) for c, w in zip(clips.permute(0, 2, 3, 4, 1).numpy(), words, strict=True)]
    commands = "\n".join(manifest["commands"])
    return [
        section(
            f"Shipped, trained {manifest['hours']:.1f} hours by this command",
            f"<pre>{html.escape(commands)}</pre>",
            clip_grid(pictures),
            results_table([Row(**row) for row in manifest.get("rows", [])]),
        )
    ]


def _numbers_intro() -> str:
    return (
        "<p class=quiet>Intervals are 95 % by jackknife over clips: they cover what fresh clips would change at this count, not other "
        "training seeds. Grey rows are controls: <i>real</i> is other real clips against the same reference (the floor), <i>frozen</i> "
        "and <i>shuffled</i> are real clips without, or with wrong, motion, <i>reconstructed</i> is real clips through the tokenizer "
        "(no generator of its latents can be expected to do better), <i>untrained</i> decodes pure noise, <i>blank</i> is a "
        "flat picture.</p>"
    )


def _tables(results: list) -> str:
    from eval.page import results_table

    parts = []
    for record, rows in results:
        if record["kind"] != "convergence":
            parts.append(
                f"<p><b>{html.escape(record['kind'])}</b> <span class=quiet>{html.escape(record['command'])}</span></p>"
                + results_table(rows)
            )
    return "".join(parts) or "<p class=quiet>Nothing was measured yet.</p>"


def curves(run, tokenizer_run, results: list) -> str:
    """Loss and convergence curves."""
    from eval.figures import curve, smoothed

    charts = []
    if tokenizer_run:
        log = read_log(tokenizer_run.dir)
        charts.append(
            curve(
                {
                    name: smoothed([(line["step"], line[name]) for line in log if name in line])
                    for name in ("mse", "temporal")
                },
                x_label="tokenizer step",
                y_label="tokenizer loss terms",
                log_y=True,
            )
        )
        charts.append(
            curve(
                logged(log, {"PSNR": "val_psnr", "of first frames": "val_psnr_frame_00"}),
                x_label="tokenizer step",
                y_label="PSNR on held-out clips, dB",
            )
        )
        ratio = "val_predicted_over_repeat"
        charts.append(
            curve(
                logged(log, {"all frames": ratio, "1 ahead": f"{ratio}_plus_1", "4 ahead": f"{ratio}_plus_4"}),
                x_label="tokenizer step",
                levels={"repeating the last frame": 1.0},
                y_label="squared error of predicted frames over that of repeating",
            )
        )
    log = read_log(run.dir)
    charts.append(
        curve(
            {"loss": smoothed([(line["step"], line["loss"]) for line in log])},
            x_label="generator step",
            y_label="flow loss",
            log_y=True,
        )
    )
    for record, _ in results:
        if record["kind"] == "convergence":
            check_fields(record, _CURVE, f"convergence of {run.dir}")
            points = record["curve"]
            bands = [(p["step"], p["low"], p["high"]) for p in points if p["low"] is not None]
            metric = record["metric"]
            charts.append(
                curve(
                    {
                        metric: [(p["step"], p["value"]) for p in points],
                        f"{metric} to reconstructions": [
                            (p["step"], p["value"]) for p in record["curve_to_reconstructions"]
                        ],
                    },
                    bands={metric: bands},
                    log_y=record["floor"] > 0,
                    levels={"other real clips": record["floor"], "untrained": record["untrained"]},
                    x_label="generator step",
                    y_label=f"{metric}, {record['samples']} clips",
                )
            )
    return f'<div class="charts">{"".join(charts)}</div>'


def logged(log: list[dict], names: dict[str, str]) -> dict[str, list[tuple[int, float | None]]]:
    """What `curve` draws of a log: points (step, value) by legend, for the values that `names` gives by legend."""
    return {words: [(line["step"], line[name]) for line in log if name in line] for words, name in names.items()}


def read_log(run_dir: Path) -> list[dict]:
    """metrics.jsonl, one dict a step."""
    from runtime.log import read_lines

    return read_lines(run_dir / "metrics.jsonl", {"step": int})


def model_words(run, tokenizer_run) -> list[str]:
    """In words, how the models differ from the paper's."""
    words = []
    if tokenizer_run:
        count, preset = tokenizer_run.manifest["parameters"], tokenizer_run.config["preset"]
        words.append(
            f"tokenizer preset {preset}: {count / 1e6:.1f} M parameters (paper: 661 M), trained "
            f"{tokenizer_run.manifest['identity']['steps']:,} steps in all (paper: 400,000), "
            f"LPIPS weight {tokenizer_run.config['lpips_weight']:g}, no GAN yet"
        )
    steps = run.config["steps"]
    words.append(
        f"generator preset {run.config['preset']}: {run.manifest['parameters'] / 1e6:.1f} M parameters (Latte-XL: 674 M), "
        f"{steps:,} steps (paper: 250,000)"
    )
    return words


def what_was_run(run, tokenizer_run) -> str:
    """Commands, machine, versions, hashes, and how long each part took."""
    from eval.page import facts_table
    from runtime.log import read_lines

    facts = []
    for info in filter(None, (tokenizer_run, run)):
        manifest = info.manifest
        seconds = sum(session.get("seconds", 0.0) for session in manifest["sessions"])
        facts.append(
            (
                f"{manifest['kind']}: {manifest['name']}",
                f"{manifest['command']} — {seconds / 60:.1f} minutes in "
                f"{len(manifest['sessions'])} session(s), seed {info.config['seed']}, started {manifest['started'][:19]} UTC",
            )
        )
        for part in read_lines(info.dir / "parts.jsonl", {"part": str, "seconds": float, "command": str}):
            facts.append((part["part"], f"{part['command']} — {part['seconds'] / 60:.1f} minutes"))
    manifest = run.manifest
    facts += [
        (
            "machine",
            f"{manifest['machine']['processor']}, {manifest['machine']['cores']} cores, {manifest['machine']['system']}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())),
        ("code", manifest["git_commit"]),
        ("encoder", manifest["latents"]["encoder_hash"]),
        ("decoder", manifest["latents"].get("decoder_hash", "–")),
        (
            "latents",
            f"{manifest['latents']['rows']} rows of {manifest['latents']['shape']} from {manifest['latents']['data']} "
            f"({manifest['latents']['split']}), data fingerprint {manifest['latents']['data_fingerprint']}",
        ),
    ]
    return facts_table(facts)


if __name__ == "__main__":
    run_command(report, ReportConfig, example="python -m eval.report --run runs/my-generator --out report.html")
