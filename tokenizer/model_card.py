"""The model card of a tokenizer: README.md beside its weights, with the metadata that the Hugging Face Hub reads.

It says what the weights are, what they were trained on and by which commands, what was measured of them with interval
and count, and that they are not those of the paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch.nn import Module

from runtime.errors import InputError
from runtime.files import replacing
from runtime.records import check_fields, is_number, read_json, read_lines
from runtime.run import RunInfo, commits, file_sha256
from tokenizer.hub import CARD, VIDEO_FOLDER

_TAGS = ("video", "vae", "autoencoder", "video-tokenizer", "predictive-reconstruction", "arxiv:2605.02134")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
# What of a run's settings the table of training says in rows of their own, or keeps to itself.
_TOLD = {"data", "root", "images", "images_root", "data_fingerprint", "num_frames", "size", "frame_stride", "steps",
         "init_from", "dtype", "model"}  # fmt: skip

_MANIFEST = {"identity": dict, "sessions": list[dict], "plan": list[dict]}
_MANIFEST |= {"command": str, "versions": dict, "machine": dict}


def write_card(folder: Path, text: str) -> None:
    """Write the card into a tokenizer's folder, replaced at once."""
    with replacing(folder / CARD, "results") as partial:
        partial.write_text(text, encoding="utf-8")


def check_license(flag: str, license: str | None) -> None:
    """InputError, naming `flag`, unless `license` reads as one of the Hub's identifiers, or is None."""
    if license is not None and not _LICENSE.fullmatch(license):
        raise InputError(f"{flag} {license!r} is no identifier of a license; give one such as apache-2.0 or cc-by-4.0")


def model_card(
    vae: Module,
    folder: Path,
    *,
    title: str = "",
    license: str | None = None,
    predictor: Module | None = None,
    run: RunInfo | None = None,
    step: int = 0,
    statistics: str | None = None,
    results: Sequence[Mapping] = (),
    validated: Mapping[str, float] | None = None,
) -> str:
    """The text of the card.

    Args:
        vae: The tokenizer, a PVVAE.
        folder: Where its files have been written.
        title: How to call it; default: after its strides.
        license: Of the weights, as the Hub writes it; None: nothing is said of it.
        predictor: The weights of the video stage, where they are in `video/`.
        run: The training run that it comes from, as far as it is known.
        step: Optimizer updates that it has had there.
        statistics: Latents file that the statistics of `normalize` were computed on, as far as it is known.
        results: Records of evaluations, as `measured_of` finds them.
        validated: Values of the training's own validation, as `validated_at` finds them.
    """
    spec = vae.spec
    parts = [
        f"{_metadata(license)}\n\n# {title or spec.name}",
        "A causal 3D video VAE in the manner of PV-VAE (“Video Generation with Predictive Latents”, "
        "[arXiv 2605.02134](https://arxiv.org/abs/2605.02134)), made with an open implementation. **These are not the "
        "weights of the paper**, which published neither code nor weights: they were trained as written below, and no "
        "number of the paper stands for them.",
        _facts(_shape(vae, folder, predictor, statistics)),
        "## How to load it",
        _loading(spec, predictor is not None),
        "## Training",
        _training(run, step) if run else "Nothing is known here of how these weights were trained.",
        "## Measured",
        _measured(results, predictor is not None),
        *([_validated(validated, run, step)] if run and validated else []),
        "## What to expect",
        f"It gives {spec.channels} numbers for every {spec.temporal}x{spec.spatial}x{spec.spatial} pixels "
        f"({3 * spec.temporal * spec.spatial**2 / spec.channels:.3g} times fewer; the first frame is encoded alone), "
        "so fine texture, small text and fast motion suffer. Videos unlike those of its training, in content, size or "
        "length, may look much worse than the numbers above, which hold for the clips that they name. Whatever license "
        "the weights have, the videos that they were trained on have their own.",
    ]
    return "\n\n".join(parts) + "\n"


def measured_of(run_dir: Path, vae: Module) -> list[dict]:
    """Evaluations in a run's `eval/` folder of exactly these weights: the newest of each kind, data set and split."""
    newest: dict[tuple, dict] = {}
    encoder, decoder = vae.encoder_hash, vae.decoder_hash
    for path in sorted((run_dir / "eval").glob("*.json")):
        record = read_json(path)
        same = record.get("encoder_hash") == encoder and record.get("decoder_hash", decoder) == decoder
        rows = record.get("rows")
        if not same or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            continue
        check_fields(record, {"differences": list[str]}, path, needed=False)
        key = tuple(str(record.get(name, "")) for name in ("kind", "data", "split"))
        newest[key] = max(newest.get(key, record), record, key=lambda each: str(each.get("created", "")))
    return [newest[key] for key in sorted(newest)]


def validated_at(run_dir: Path, step: int) -> dict[str, float]:
    """Values `val_…` that metrics.jsonl of a run has of exactly this step, without those of single frames."""
    found = {}
    for record in read_lines(run_dir / "metrics.jsonl", {"step": int}):
        if record["step"] == step:
            found |= {name: value for name, value in record.items() if re.fullmatch(r"val_\D+", name)}
    return found


def _metadata(license: str | None) -> str:
    lines = [f"license: {license}"] if license else []
    return "\n".join(["---", *lines, "library_name: pvvae", "tags:", *(f"- {tag}" for tag in _TAGS), "---"])


def _shape(vae: Module, folder: Path, predictor: Module | None, statistics: str | None) -> Iterable[tuple[str, str]]:
    spec = vae.spec
    encoder, whole = (sum(p.numel() for p in module.parameters()) for module in (vae.encoder, vae))
    yield "architecture", vae.config.architecture
    yield "video", f"`[B, 3, 1+T, H, W]` in [-1, 1], T a multiple of {spec.temporal}, H and W of {spec.spatial}"
    latents = f"[B, {spec.channels}, 1 + T/{spec.temporal}, H/{spec.spatial}, W/{spec.spatial}]"
    yield "latents", f"`{latents}`, not normalised"
    yield "parameters", f"{encoder / 1e6:.1f} M encoder, {(whole - encoder) / 1e6:.1f} M decoder and padding"
    if statistics or vae.latents_mean.any() or (vae.latents_std != 1).any():
        yield "statistics of latents", f"of {statistics or 'latents that are not known here'}; `normalize` uses them"
    else:
        yield "statistics of latents", "not computed: `normalize` changes nothing"
    yield "encoder hash", f"`{vae.encoder_hash}`"
    yield "decoder hash", f"`{vae.decoder_hash}`"
    if predictor is not None:
        hashes = f"`{predictor.decoder_hash}`, with the encoder `{predictor.encoder_hash}`"
        yield f"decoder hash of `{VIDEO_FOLDER}/`", hashes
    for path in sorted(folder.rglob("model.safetensors")):
        yield f"sha256 of `{path.relative_to(folder).as_posix()}`", f"`{file_sha256(path)}`"


def _loading(spec, predicts: bool) -> str:
    lines = [
        "```python",
        "import tokenizer  # of the package pvvae",
        "",
        'vae = tokenizer.PVVAE.from_pretrained("this-folder")  # or ("user/name", download=True) from the Hub',
        f"posterior = vae.encode(video)  # 1 + {spec.temporal}k frames",
        "clip = vae.decode(posterior.mode())",
    ]
    if predicts:
        lines += [
            "",
            f"# Decoder fine-tuning unlearns prediction: the weights of the stage before it are in {VIDEO_FOLDER}/.",
            f'predictor = tokenizer.PVVAE.from_pretrained("this-folder", subfolder="{VIDEO_FOLDER}")',
            f"future = predictor.predict(video[:, :, :{spec.frames(3)}], groups=2)  "
            f"# {spec.frames(3)} frames seen, {2 * spec.temporal} predicted",
        ]
    lines += ["```", "", "Commands take the folder too: `python -m tokenizer.encode --tokenizer this-folder …`."]
    return "\n".join(lines)


def _training(run: RunInfo, step: int) -> str:
    config, manifest, source = run.config, run.manifest, run.dir / "manifest.json"
    check_fields(manifest, _MANIFEST, source, needed=False)
    identity, sessions = manifest.get("identity", {}), manifest.get("sessions", [])
    check_fields(identity, {"steps": int}, source, needed=False)
    for session in sessions:
        check_fields(session, {"seconds": float, "processes": int, "command": str}, source, needed=False)
    for part in manifest.get("plan", []):
        check_fields(part, {"name": str, "stop": int}, source)
    wanted = identity.get("steps", step)
    ended = "" if step >= wanted else f", **not finished**: {wanted:,} were planned"
    clip = ", ".join(f"{name} {config.get(name)}" for name in ("num_frames", "size", "frame_stride"))
    images = f"; images of {config['images']}" if config.get("images") else ""
    hours = sum(session.get("seconds", 0.0) for session in sessions) / 3600
    commands = dict.fromkeys([manifest.get("command"), *(session.get("command") for session in sessions)])
    settings = {name: value for name, value in identity.items() if name not in _TOLD}
    rows = [
        ("data", f"{config.get('data')} (train){images}; {clip}"),
        ("data fingerprint", f"`{identity.get('data_fingerprint')}`"),
        ("steps", f"{step:,} of 400,000 in the paper{ended}"),
        ("stages", ", ".join(f"{part['name']} up to step {part['stop']:,}" for part in manifest.get("plan", []))),
        ("begun with", config.get("init_from") or "random weights"),
        ("weights kept", "averaged (EMA)"),
        ("settings", ", ".join(f"{name} {value}" for name, value in settings.items() if value != [])),
        (
            "compute",
            f"{identity.get('dtype')}, {hours:.2f} hours in {len(sessions)} session(s) on {_machine(manifest)}",
        ),
        ("versions", ", ".join(f"{name} {value}" for name, value in manifest.get("versions", {}).items())),
        ("code", f"`{commits(manifest)}`"),
    ]
    typed = "\n".join(command for command in commands if command)
    return f"{_facts(rows)}\n\nCommands, as typed:\n\n```\n{typed}\n```"


def _machine(manifest: Mapping) -> str:
    machine = manifest.get("machine", {})
    processes = max((session.get("processes", 1) for session in manifest.get("sessions", [])), default=1)
    return f"{processes} process(es), {machine.get('processor')}, {machine.get('cores')} cores"


def _measured(results: Sequence[Mapping], has_predictor: bool) -> str:
    if not results:
        return "Nothing was measured of these weights yet: `python -m eval.reconstruction --tokenizer RUN` does."
    parts = []
    for record in results:
        facts = [f"{record.get('kind')} on {record.get('data')} ({record.get('split')})"]
        facts += [f"{name} {record[name]}" for name in ("samples", "seed", "observed_frames") if name in record]
        head = ["| metric | of | value | 95 % interval | clips | remarks |", "|---|---|---|---|---|---|"]
        lines = [_measured_row(row) for row in record["rows"]]
        parts += [f"{', '.join(facts)}: `{record.get('command')}`", "\n".join(head + lines)]
        parts += [f"Other than in the paper: {words}." for words in record.get("differences", [])]
    if has_predictor:
        parts.append(f"Rows of “predicted” are of the weights in `{VIDEO_FOLDER}/`.")
    return "\n\n".join(parts)


def _validated(values: Mapping[str, float], run: RunInfo, step: int) -> str:
    rows = [(f"`{name}`", _number(value)) for name, value in sorted(values.items())]
    return (
        f"By the training's own validation at step {step:,}, on at most {run.config.get('validation_clips')} clips of "
        f"{run.config.get('data')} (test), without intervals; `tokenizer.validation` says what they are, and "
        f"prediction is by these weights:\n\n{_facts(rows)}"
    )


def _measured_row(row: Mapping) -> str:
    value, low, high = (_number(row.get(name)) for name in ("value", "low", "high"))
    interval = f"{low} … {high}" if row.get("low") is not None and row.get("high") is not None else "–"
    remarks = "; ".join(str(row[name]) for name in ("features", "note") if row.get(name))
    cells = [row.get("metric"), row.get("subject"), value, interval, row.get("n"), remarks]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _number(value: object) -> str:
    return f"{value:.4g}" if is_number(value) else "–"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _facts(rows: Iterable[tuple[str, object]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows)])
