"""Judge a tokenizer: reconstruction of held-out clips, and prediction of frames it has not seen.

`python -m eval.reconstruction --tokenizer RUN --data kinetics400 --root K400 --samples 2048 --sizes 256,512` is the
paper's table: rFVD over the whole set, PSNR, SSIM and LPIPS of the first 17 frames of validation clips.

Prediction uses the weights kept at the end of the video stage: decoder fine-tuning unlearns it. Its error is compared,
on moving pixels, with repeating the last observed frame, and with a flat picture in each clip's most common colour
("blank"), which on scenes with a flat background beats repetition without predicting anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

NO_PREDICTOR = "the tokenizer has no weights to predict with, which are those of the video stage"


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(CommonFlags):
    """Flags of `python -m eval.reconstruction`."""

    tokenizer: str | None = flag(None, "run of tokenizer.train, folder, or known name; default: the newest run")
    weights: str | None = flag(None, "weight file to use instead of the tokenizer's own, or 'random'")
    data: str | None = flag(None, "data set; default: the one that the tokenizer was trained on")
    root: str | None = flag(None, "its folder; default: likewise")
    split: str = flag(
        "test", "which part; of kinetics400, test is the validation set", choices=("all", "train", "test")
    )
    samples: int = flag(256, "clips; of a data set of files a seeded, class-stratified draw", low=2, high=1_000_000)
    num_frames: int | None = flag(None, "frames of a clip; default: as trained, else 17", low=1, high=4097)
    size: int | None = flag(None, "height and width; default: as trained, else 256", low=8, high=8192)
    sizes: tuple[int, ...] = flag((), "several sizes in a row, a results file each", low=8, high=8192)
    observed: int | None = flag(None, "frames that prediction sees; default: the first half of the groups", low=1)
    features: str = flag(
        "auto",
        "auto: shapes for moving_shapes, i3d where its weights are here, else none",
        choices=("auto", "shapes", "i3d", "none"),
    )
    batch_size: int = flag(16, "clips in one forward pass, at most 32", low=1, high=65_536)
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

    from eval.clip_sets import names_of
    from eval.extract import View, extract, read_items, record_of
    from eval.features.store import FeatureStore
    from eval.measurements import Measurer, lpips_networks
    from eval.quantities import measurement_rows
    from eval.results.rows import table, write_results
    from runtime.processes import resolve_dtype, start_processes
    from runtime.run import newest_run, read_run, timed_part
    from tokenizer.zoo import load, load_predictor
    from videos import open_dataset

    began = time.monotonic()
    world = start_processes(config.device)
    name = config.tokenizer or str(newest_run(config.runs_dir, "tokenizer"))
    vae = load(name, config.weights, device=world.device)
    predictor = load_predictor(name, device=world.device)
    trained = read_run(name).config if (Path(name) / "manifest.json").is_file() else {}
    data = config.data or trained.get("data") or ("moving_shapes" if name == "moving-shapes" else None)
    if data is None:
        raise InputError(f"--data is needed: {name!r} is no training run that could name a data set")
    clip = clip_of(config, trained, data, 32 if name == "moving-shapes" else 256)
    vae.spec.latent_shape(clip.num_frames, clip.height, clip.width)  # refuse a clip that does not fit
    observed = observed_frames(config, predictor, clip)
    root = config.root or (trained.get("root") if data == trained.get("data") else None)
    dataset = open_dataset(data, root=root, split=config.split, clip=clip)
    network, no_network = _features(config, data, str(world.device))
    items, stratified = drawn(dataset, data, config)
    nets, no_nets = lpips_networks(clip, world.device)
    measurer = Measurer(
        vae=vae,
        predictor=predictor,
        observed=observed,
        lpips_nets=nets,
        network=network,
        stratified=stratified,
        batch_size=config.batch_size,
        device=world.device,
        dtype=resolve_dtype(config.dtype, world.device),
    )
    folder = (Path(name) if trained else Path(config.runs_dir) / folder_name(name, vae)) / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"reconstruction-{data}-{config.split}-{clip.height}px-n{len(items)}"
    out = Path(config.out) if config.out else folder / f"{stem}.json"
    key = measurer.key(clip, data=data, fingerprint=dataset.fingerprint(), split=config.split, seed=config.seed)
    kept_below = Path(config.runs_dir) / "features"
    store = FeatureStore(kept_below, f"{data}-reconstruction-{clip.height}px", key)
    with timed_part(folder.parent, "eval.reconstruction"):
        kept = extract(
            {"": View(store=store, see=measurer.see)},
            names_of(dataset, items),
            read_items(dataset, items, config.seed, world.device),
            world=world,
            label=f"reconstruct {data}",
            unreadable=record_of(kept_below, dataset),
        )[""]
        if not world.is_main:
            return out
        rows = measurement_rows(kept) + not_measured(no_nets, no_network, "" if predictor else NO_PREDICTOR)
    words = differences(data, config.split, clip, len(kept.features), network)
    write_results(
        out,
        kind="reconstruction",
        rows=rows,
        tokenizer=name,
        **({"weights": config.weights} if config.weights else {}),
        encoder_hash=vae.encoder_hash,
        decoder_hash=vae.decoder_hash,
        data=data,
        split=config.split,
        size=clip.height,
        num_frames=clip.num_frames,
        frame_stride=clip.frame_stride,
        samples=len(kept.features),
        seed=config.seed,
        device=config.device,
        observed_frames=observed,
        differences=words,
        seconds=round(time.monotonic() - began, 1),
    )
    print(table(rows))
    for word in words:
        print(f"  differs from the paper: {word}")
    print(f"eval.reconstruction: wrote {out}")
    return out


def folder_name(name: str, vae) -> str:
    """Of the folder below `--runs-dir` for results of a tokenizer that has none of its own."""
    from eval.decode import file_word
    from tokenizer.baselines.registry import is_baseline

    # Two files of weights, or two folders of one class, are two tokenizers.
    own = f"baseline-{file_word(vae.spec.name)}-{vae.decoder_hash[:8]}"
    return own if is_baseline(name) else f"shipped-{Path(name).name}"


def clip_of(config: ReconstructionConfig, trained: dict, data: str, size: int):
    """The first frames of a video; what no flag says is as the tokenizer was trained, on its own data set also the
    frame stride."""
    from videos import ClipSpec
    from videos.clip import lowest_stride

    return ClipSpec(
        num_frames=config.num_frames or trained.get("num_frames", 17),
        size=config.size or trained.get("size", size),
        frame_stride=lowest_stride(trained.get("frame_stride")) if data == trained.get("data") else 1,
        window="first",
    )


def observed_frames(config: ReconstructionConfig, predictor, clip) -> int | None:
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


def drawn(dataset, data: str, config: ReconstructionConfig) -> tuple[list[int], bool]:
    """Which items, and whether they were drawn class by class.

    Files are sorted by class, so the first ones would be of a few classes; items of a synthetic data set are
    independent draws already.
    """
    from videos.datasets import FILE_DATASETS
    from videos.splits import stratified_order

    count = min(config.samples, len(dataset))
    if count < 2:
        raise InputError(f"data set {data!r} has {len(dataset)} clips in split {config.split!r}, two are needed")
    if data not in FILE_DATASETS:
        return list(range(count)), False
    labels = dataset.labels()
    return sorted(stratified_order(labels, config.seed)[:count]), len(set(labels)) > 1


def _features(config: ReconstructionConfig, data: str, device: str):
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
        example="python -m eval.reconstruction --tokenizer runs/my-vae --data kinetics400 --root K400 --sizes 256,512",
    )
