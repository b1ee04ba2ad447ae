"""Make a tokenizer's folder out of a training run, to keep, to pass on, or for the Hugging Face Hub.

`python -m tokenizer.export --run RUN --out DIR`

The folder holds config.json and model.safetensors (averaged weights, with the statistics of the latents where
tokenizer.encode has computed them), the weights of the video stage in `video/`, and a model card with what was
measured. Called again it is brought up to date, for instance after another evaluation. Nothing leaves this machine
without `--push-to`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExportConfig(CommonFlags):
    """Flags of `python -m tokenizer.export`."""

    run: str | None = flag(None, "run of tokenizer.train; default: the newest run")
    out: str = flag(help="folder to write, new or an earlier export of the same weights")
    license: str | None = flag(None, "license of the weights as the Hub writes it, such as apache-2.0; default: unsaid")
    push_to: str | None = flag(
        None,
        "also send it to this repository of the Hugging Face Hub, user/name; its card repeats commands and paths",
    )
    private: bool = flag(False, "let nobody else see the repository; one that is public already is refused")


def export(config: ExportConfig) -> Path:
    """Write the folder, and send it where that was asked for; returns its path."""
    from runtime.records import read_json
    from runtime.run import newest_run, read_run
    from tokenizer.hub import VIDEO_FOLDER, check_repo_id, hub_client, push_folder
    from tokenizer.model_card import check_license, measured_of, model_card, validated_at, write_card
    from tokenizer.zoo import find_folder, load, take_statistics, video_folder

    check_license("--license", config.license)
    if config.push_to is not None:
        check_repo_id("--push-to", config.push_to)
        hub_client()
    run = read_run(config.run or newest_run(config.runs_dir, "tokenizer"), "tokenizer")
    out = Path(config.out)
    # Looked up once: a run that goes on meanwhile has newer ones.
    last, video = find_folder(run.dir), video_folder(run.dir)
    vae, predictor = load(last), load(video) if video else None
    refuse_other(out, vae)
    statistics = take_statistics(run.dir, vae, predictor)
    step, results = read_json(last / "state.json")["step"], measured_of(run.dir, vae)
    validated = validated_at(run.dir, step)
    if predictor is not None:
        predictor.save_pretrained(out / VIDEO_FOLDER)
    vae.save_pretrained(out)
    card = model_card(
        vae,
        out,
        title=run.manifest.get("name", run.dir.name),
        license=config.license,
        predictor=predictor,
        run=run,
        step=step,
        statistics=statistics,
        results=results,
        validated=validated,
    )
    write_card(out, card)
    print(f"tokenizer.export: wrote {out}: encoder {vae.encoder_hash}, decoder {vae.decoder_hash}")
    if config.push_to is not None:
        address = push_folder(out, config.push_to, private=config.private)
        print(f"tokenizer.export: sent it to {address}")
    return out


def refuse_other(out: Path, vae) -> None:
    """InputError unless `out` can become the export of `vae`: new, empty, or an export, whole or not, of the same."""
    from tokenizer.hub import CARD, MODEL_FILES, VIDEO_FOLDER
    from tokenizer.pvvae import PVVAE

    nearest = next(place for place in (out, *out.parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"--out {out}: {nearest} is a file, not a folder")
    found = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    whole = found.issuperset(MODEL_FILES)
    # The card comes last, so that one without weights is somebody else's README.
    strange = sorted(found - {*MODEL_FILES, VIDEO_FOLDER, *([CARD] if whole else [])})
    if strange:
        raise InputError(f"--out {out}: holds {strange[0]}, which is no part of an export; give a new folder")
    if whole:
        there = PVVAE.from_pretrained(out)
        if (there.encoder_hash, there.decoder_hash) != (vae.encoder_hash, vae.decoder_hash):
            raise InputError(f"--out {out}: holds another tokenizer; move it away or give another folder")


if __name__ == "__main__":
    run_command(
        export,
        ExportConfig,
        example="python -m tokenizer.export --run runs/my-vae --out my-vae",
    )
