"""Judge a tokenizer: reconstruction of held-out clips, and prediction of frames it has not seen.

`python -m eval.reconstruction --tokenizer RUN --data kinetics400 --root K400 --samples 2048 --sizes 256,512` is the
paper's table: rFVD over the whole set, PSNR, SSIM and LPIPS of the first 17 frames of validation clips.

Prediction uses the weights kept at the end of the video stage: decoder fine-tuning unlearns it. Its error is compared,
on moving pixels, with repeating the last observed frame, and with flat pictures in each clip's median colour ("blank")
and in plain grey ("grey"), which beat repetition without predicting anything: half of it on synthetic clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.features import FEATURE_CHOICES
from eval.tokenizer_clips import ClipFlags
from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

if TYPE_CHECKING:
    from eval.extract import View
    from eval.results.rows import Row
    from eval.tokenizer_clips import Opened

NO_PREDICTOR = "the tokenizer has no weights to predict with, which are those of the video stage"


@dataclass(frozen=True, kw_only=True)
class JudgedFlags(ClipFlags):
    """How a tokenizer's reconstructions and predictions are measured."""

    tokenizer: str | None = flag(
        None, "run of tokenizer.train, folder, known name, module:CLASS or diffusers:FOLDER; default: the newest run"
    )
    weights: str | None = flag(None, "weight file to use instead of the tokenizer's own, or 'random'")
    observed: int | None = flag(None, "frames that prediction sees; default: the first half of the groups", low=1)
    features: str = flag(
        "auto",
        "auto: shapes for moving_shapes, i3d where its weights are here, else none",
        choices=(*FEATURE_CHOICES, "none"),
    )


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(JudgedFlags):
    """Flags of `python -m eval.reconstruction`."""

    sizes: tuple[int, ...] = flag((), "several sizes in a row, a results file each", low=8, high=8192)
    out: str | None = flag(None, "JSON file to write; default: eval/reconstruction-….json in the run", check=check_file)

    def __post_init__(self) -> None:
        if self.sizes and self.size is not None:
            raise InputError("--size and --sizes are both given; one of them will do")
        if len(set(self.sizes)) < len(self.sizes):
            raise InputError(f"--sizes {','.join(map(str, self.sizes))}: a size is named twice")
        if len(self.sizes) > 1 and self.out:
            raise InputError(f"--out {self.out}: one file cannot hold several --sizes; leave --out away")


def reconstructions(config: ReconstructionConfig) -> list[Path]:
    """`reconstruction` at every size that was asked for."""
    return [reconstruction(replace(config, size=size, sizes=())) for size in config.sizes or (config.size,)]


def reconstruction(config: ReconstructionConfig) -> Path:
    """Measure at one size, print the table, write the JSON; returns its path."""
    import time

    from eval.quantities import measurement_rows
    from eval.results.rows import table, write_results
    from eval.tokenizer_clips import open_clips
    from runtime.processes import start_processes
    from runtime.run import timed_part

    began = time.monotonic()
    world = start_processes(config.device)
    opened = open_clips(config, config.tokenizer, config.weights, world.device)
    judged = judge(config, opened)
    out = opened.out("reconstruction")
    out = Path(config.out) if config.out else out
    with timed_part(opened.run_folder, "eval.reconstruction"):
        kept = opened.seen({"": judged.view}, world, f"reconstruct {opened.data}")[""]
        if not world.is_main:
            return out
        rows = measurement_rows(kept) + judged.missing
    words = differences(opened.data, config.split, opened.clip, len(kept.features), judged.network)
    write_results(
        out,
        kind="reconstruction",
        rows=rows,
        **opened.facts,
        samples=len(kept.features),
        observed_frames=judged.observed,
        differences=words,
        seconds=round(time.monotonic() - began, 1),
    )
    print(table(rows))
    for word in words:
        print(f"  differs from the paper: {word}")
    print(f"eval.reconstruction: wrote {out}")
    return out


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is looked at in a tokenizer's reconstructions and predictions.

    Attributes:
        view: That measures them; its `change` is the encoder.
        network: For features, or None.
        observed: Frames that prediction sees, or None.
        missing: Rows of what cannot be measured, with the reasons.
    """

    view: View
    network: object
    observed: int | None
    missing: list[Row]


def judge(config: JudgedFlags, opened: Opened) -> Judged:
    """Load what reconstructions are judged by; what is not here is left out, and said.

    Raises:
        InputError: On features that are asked for by name and not here, or frames that cannot be predicted.
    """
    from eval.extract import View
    from eval.features.store import FeatureStore
    from eval.measurements import Measurer, lpips_networks
    from eval.tokenizer_clips import encoder_of, predictor_of
    from runtime.processes import resolve_device, resolve_dtype

    device, clip = resolve_device(config.device), opened.clip
    dtype = resolve_dtype(config.dtype, device)
    predictor = predictor_of(opened.name, opened.weights, opened.vae, device)
    observed = observed_frames(config, predictor, clip)
    network, no_network = _features(config, opened.data, str(device))
    nets, no_nets = lpips_networks(clip, device)
    measurer = Measurer(
        vae=opened.vae,
        predictor=predictor,
        observed=observed,
        lpips_nets=nets,
        network=network,
        stratified=opened.stratified,
        device=device,
        dtype=dtype,
    )
    key = measurer.key(clip, **opened.clip_key)
    store = FeatureStore(opened.kept_below, f"{opened.data}-reconstruction-{clip.height}px", key)
    encode = encoder_of(opened.vae, device, dtype, config.batch_size)
    return Judged(
        view=View(store=store, see=measurer.see, change=encode),
        network=network,
        observed=observed,
        missing=not_measured(no_nets, no_network, "" if predictor else NO_PREDICTOR),
    )


def observed_frames(config: JudgedFlags, predictor, clip) -> int | None:
    """Frames that prediction sees; None where a clip is one group, or there is nothing to predict with."""
    if not hasattr(predictor, "predict"):
        if config.observed is not None:
            words = f"tokenizer {predictor.spec.name} does not predict" if predictor else NO_PREDICTOR
            raise InputError(f"--observed {config.observed}: {words}")
        return None
    spec = predictor.spec
    groups = spec.latent_shape(clip.num_frames, clip.height, clip.width)[1]
    if config.observed is not None and spec.groups(config.observed) >= groups:
        raise InputError(f"--observed {config.observed} leaves nothing of {clip.num_frames} frames to predict")
    return config.observed or (spec.frames(groups - groups // 2) if groups > 1 else None)


def _features(config: JudgedFlags, data: str, device: str):
    """The feature network or None, and why there is none."""
    from eval.clip_sets import load_chosen

    if config.features == "none":
        return None, "not asked for"
    try:
        return load_chosen(config.features, data, device), ""
    except InputError as error:
        if config.features == "auto":
            return None, str(error)
        raise


def not_measured(no_nets: dict[str, str], no_network: str, no_predictor: str = "") -> list:
    """A row for every number that is missing, with the reason; where to get a file is for the command that asks for it
    by name."""
    from eval.measurements import NAMES
    from eval.results.rows import Row

    reasons = {("reconstructed", NAMES[f"lpips_{net}"]): reason for net, reason in no_nets.items()}
    reasons |= {("reconstructed", "rFVD"): no_network, ("predicted", "error / repeat"): no_predictor}
    return [
        Row(metric=metric, subject=subject, value=None, note=f"not measured: {reason.split(';')[0]}")
        for (subject, metric), reason in reasons.items()
        if reason
    ]


def differences(data: str, split: str, clip, count: int, network) -> list[str]:
    """In words, how these numbers differ from the paper's protocol."""
    words = []
    if (data, split) != ("kinetics400", "test"):
        words.append(f"clips of {data} ({split}) instead of the validation set of Kinetics-400")
    if count != 2048:
        words.append(f"{count} reconstructed clips instead of 2,048")
    if clip.height not in (256, 512) or clip.width != clip.height:
        words.append(f"clips are reconstructed at {clip.height} pixels instead of 256 and 512")
    if (clip.num_frames, clip.frame_stride) != (17, 1):
        words.append(f"{clip.num_frames} frames at stride {clip.frame_stride} instead of the first 17 frames")
    if network is not None and network.name != "i3d":
        words.append(f"the distance of reconstructions is one of features {network.name}, which is no rFVD")
    return words


if __name__ == "__main__":
    run_command(
        reconstructions,
        ReconstructionConfig,
        example="python -m eval.reconstruction --tokenizer RUN --data kinetics400 --root K400 --samples 2048",
    )
