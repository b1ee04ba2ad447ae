"""What tokenizers expect in frames that they have not seen: `python -m eval.prediction --tokenizers A,B --data ucf101`.

Every clip loses its latter half; the encoder sees the rest, and the decoder of the video stage draws all of it (PV-VAE
figure 6). The error on moving pixels, by frames ahead, stands beside those of repeating the last observed frame and of
a flat picture. Results of `eval.fvd` of generators in these latents, given by `--results`, add figures 5a (distance of
the generator against accuracy of prediction) and 5b (against the tokenizer's training, with and without predictive
reconstruction); earlier results of this command may stand in for tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eval.tokenizer_clips import ClipFlags
from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

if TYPE_CHECKING:
    from torch import Tensor

    from eval.page.predictions import Predicted
    from eval.tokenizer_clips import Opened

KINDS = ("prediction", "fvd")


@dataclass(frozen=True, kw_only=True)
class PredictionConfig(ClipFlags):
    """Flags of `python -m eval.prediction`."""

    tokenizers: tuple[str, ...] = flag(
        (),
        "runs, RUN@STEP, folders or known names; label=NAME gives another label; default: the newest run, none beside "
        "results",
    )
    results: tuple[str, ...] = flag((), "results of eval.fvd and of this command, or folders of them, for figure 5")
    observed: int | None = flag(None, "frames that are seen; default: the first half of the groups", low=1)
    clips: int = flag(6, "clips to show", low=1, high=100)
    out: str = flag("prediction.html", "page to write", check=partial(check_file, folder_exists=True))

    @property
    def entries(self) -> dict[str, str]:
        """Tokenizers by label."""
        pairs = [text.partition("=") if "=" in text else (Path(text).name, "=", text) for text in self.tokenizers]
        return {label: name for label, _, name in pairs}

    def __post_init__(self) -> None:
        if len(self.entries) < len(self.tokenizers):
            raise InputError(f"--tokenizers {','.join(self.tokenizers)}: two of them have the same label")


def predictions(config: PredictionConfig) -> list[Predicted]:
    """Measure every tokenizer that can predict, write a results file each and the page; returns what was found."""
    from eval.page.document import save_page
    from eval.page.predictions import prediction_page
    from eval.reconstruction import NO_PREDICTOR
    from eval.results.rows import table
    from eval.tokenizer_clips import predictor_of
    from runtime.processes import start_processes
    from runtime.run import newest_run
    from tokenizer.baselines.registry import is_baseline
    from tokenizer.zoo import check_known, load, pinned

    results = read_all(config.results)
    if not config.tokenizers and not results:
        newest = newest_run(config.runs_dir, "tokenizer")
        config = replace(config, tokenizers=(str(newest),))
    names = {label: pinned(name, download=config.download) for label, name in config.entries.items()}
    for name in names.values():
        check_known(name)
    world = start_processes(config.device)
    found, silent, first, observed = [], {}, None, None
    for label, name in names.items():
        vae = load(name, device=world.device)
        predictor = predictor_of(name, None, vae, world.device)
        if predictor is None:
            silent[label] = f"{vae.spec.name} has nothing to predict with" if is_baseline(name) else NO_PREDICTOR
            print(f"eval.prediction: {label} does not predict: {silent[label]}")
            continue
        opened = opened_like(first, config, name, vae, world.device)
        observed = observed_frames(config, predictor, opened.clip, observed)
        first = first or opened
        found.append(measured(config, opened, label, predictor, observed, world))
    if config.tokenizers and not found:
        raise InputError(f"--tokenizers {','.join(config.tokenizers)}: none of them predicts")
    if world.is_main:
        for one in found:
            print(one.label, table(one.rows), sep="\n")
        found += [one for one in results if one.kind == "prediction"]
        generators = [one for one in results if one.kind == "fvd"]
        save_page(Path(config.out), prediction_page(found, generators, silent))
        print(f"eval.prediction: open {config.out}")
    return found


def read_all(paths: tuple[str, ...]) -> list[Predicted]:
    """Results of `KINDS`; a file of another kind is refused, in a folder it is passed over.

    Raises:
        InputError: If a file cannot be read, or a path holds nothing of use.
    """
    from eval.page.predictions import Predicted
    from eval.results.rows import read_results
    from eval.verify import results_files
    from runtime.records import check_fields

    found = []
    for path in map(Path, paths):
        kinds = set()
        for file in results_files(path):
            facts, rows = read_results(file)
            kinds.add(facts["kind"])
            if facts["kind"] in KINDS:
                wanted = {"encoder_hash": str, "data": str}
                check_fields(facts, wanted, file)
                more = {"label": str, "trained_steps": int | None, "max_drop_ratio": float | None, "size": int}
                more |= {"run": str}
                check_fields(facts, more | {"observed_frames": int}, file, needed=False)
                found.append(Predicted(facts.get("label", file.parent.parent.name), facts, rows))
        if not kinds.intersection(KINDS):
            raise InputError(
                f"--results {path}: results of {', '.join(sorted(kinds))}; figure 5 is of {', '.join(KINDS)}"
            )
    return found


def opened_like(first: Opened | None, config: PredictionConfig, name: str, vae, device) -> Opened:
    """A tokenizer and its clips: those of the first one, where no flag says otherwise.

    Raises:
        InputError: If there is no such data, or clips and tokenizer do not fit.
    """
    from eval.tokenizer_clips import open_clips, results_folder

    if first is None:
        return open_clips(config, name, None, device)
    clip = first.clip
    vae.spec.latent_shape(clip.num_frames, clip.height, clip.width)
    return replace(first, name=name, vae=vae, folder=results_folder(name, vae, config.runs_dir))


def observed_frames(config: PredictionConfig, predictor, clip, before: int | None) -> int:
    """Frames that are seen: as the flag says, or as for the tokenizer before.

    Raises:
        InputError: If they do not fit, or leave nothing to predict.
    """
    spec, chosen = predictor.spec, config.observed or before
    groups = spec.groups(clip.num_frames)
    chosen = chosen or spec.frames(groups - groups // 2)
    if spec.groups(chosen) >= groups:
        words = f"--observed {chosen}" if config.observed else f"--num-frames {clip.num_frames}"
        raise InputError(f"{words} leaves nothing of {clip.num_frames} frames to predict for {spec.name}")
    return chosen


def measured(config: PredictionConfig, opened: Opened, label: str, predictor, observed: int, world) -> Predicted:
    """What one tokenizer makes of the clips; writes its results file."""
    import time

    from eval.extract import View
    from eval.features.store import FeatureStore
    from eval.measurements import Measurer
    from eval.page.predictions import Predicted
    from eval.quantities import prediction_rows
    from eval.results.rows import read_results, write_results
    from eval.tokenizer_clips import encoder_of
    from runtime.processes import resolve_dtype
    from runtime.records import read_json
    from runtime.run import timed_part
    from tokenizer.zoo import find_folder, run_and_step, trained_on

    began, dtype = time.monotonic(), resolve_dtype(config.dtype, world.device)
    measurer = Measurer(
        vae=opened.vae,
        predictor=predictor,
        observed=observed,
        lpips_nets={},
        network=None,
        stratified=opened.stratified,
        device=world.device,
        dtype=dtype,
    )
    key = measurer.key(opened.clip, **opened.clip_key)
    store = FeatureStore(opened.kept_below, f"{opened.data}-prediction-{opened.clip.height}px", key)
    encode = encoder_of(opened.vae, world.device, dtype, config.batch_size)
    out = opened.out("prediction")
    with timed_part(opened.run_folder, "eval.prediction"):
        view = View(store=store, see=measurer.see, change=encode)
        kept = opened.seen({"": view}, world, f"predict {opened.data} with {label}")[""]
    if not world.is_main:
        return Predicted(label, {"kind": "prediction"}, [])
    training, run = {}, run_and_step(opened.name)[0]
    if (run / "manifest.json").is_file():
        training["run"] = str(run)
        training["trained_steps"] = read_json(find_folder(opened.name) / "state.json").get("step")
        training["max_drop_ratio"] = trained_on(opened.name).get("max_drop_ratio")
    write_results(
        out,
        kind="prediction",
        rows=prediction_rows(kept),
        label=label,
        **opened.facts,
        **training,
        predictor_hash=predictor.decoder_hash,
        samples=len(kept.features),
        observed_frames=observed,
        seconds=round(time.monotonic() - began, 1),
    )
    print(f"eval.prediction: wrote {out}")
    return Predicted(label, *read_results(out), shown_clips(config, opened, predictor, observed, dtype))


def shown_clips(config: PredictionConfig, opened: Opened, predictor, observed: int, dtype) -> list[tuple[Tensor, ...]]:
    """Of clips from the whole draw: real, reconstructed and predicted, each `[3, N, H, W]` in [-1, 1] on the CPU."""
    import torch

    from eval.clip_sets import real_clips
    from runtime.processes import autocast
    from videos import to_float

    apart = max(1, len(opened.items) // config.clips)  # items of files are sorted by class
    clips, _ = real_clips(opened.dataset, opened.items[::apart], config.seed, config.clips)
    vae, found = opened.vae, []
    groups = predictor.spec.groups(opened.clip.num_frames) - predictor.spec.groups(observed)
    for clip in clips:
        video = to_float(clip[None].to(opened.device))
        with torch.no_grad(), autocast(opened.device, dtype):
            decoded = vae.decode(vae.encode(video).mode())
            ahead = predictor.predict(video[:, :, :observed], groups)
        found.append(tuple(part[0].float().clamp(-1, 1).cpu() for part in (video, decoded, ahead)))
    return found


if __name__ == "__main__":
    run_command(
        predictions, PredictionConfig, example="python -m eval.prediction --tokenizers with=runs/a,without=runs/b"
    )
