"""Judge a tokenizer: reconstruction of held-out clips, and prediction of frames it has not seen.

`python -m eval.reconstruction --tokenizer RUN --samples 256`

Prediction uses the weights kept at the end of the video stage: decoder fine-tuning unlearns it. Its error is compared,
on moving pixels, with repeating the last observed frame, and with a flat picture in each clip's most common colour
("blank"), which on scenes with a flat background beats repetition without predicting anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(CommonFlags):
    """Flags of `python -m eval.reconstruction`."""

    tokenizer: str | None = flag(None, "run of tokenizer.train, folder, or shipped name; default: the newest run")
    data: str | None = flag(None, "data set; default: the one that the tokenizer was trained on")
    root: str | None = flag(None, "its folder; default: likewise")
    split: str = flag("test", "which part", choices=("all", "train", "test"))
    samples: int = flag(256, "clips", low=2, high=1_000_000)
    num_frames: int | None = flag(None, "frames of a clip; default: as trained, else 17", low=1, high=4097)
    size: int | None = flag(None, "height and width; default: as trained, else 256", low=8, high=8192)
    observed: int | None = flag(None, "frames that prediction sees; default: the first half of the groups", low=1)
    features: str = flag(
        "auto",
        "auto: shapes for moving_shapes, i3d where its weights are here, else none",
        choices=("auto", "shapes", "i3d", "none"),
    )
    batch_size: int = flag(16, "clips in one forward pass", low=1, high=65_536)
    out: str | None = flag(None, "JSON file to write; default: eval/reconstruction-….json in the run", check=check_file)


def reconstruction(config: ReconstructionConfig) -> Path:
    """Measure, print the table, write the JSON; returns its path."""
    import time

    from eval.results import table, write_results
    from runtime.processes import start_processes
    from runtime.run import newest_run, read_run, timed_part
    from tokenizer.zoo import load
    from videos import ClipSpec, open_dataset

    began = time.monotonic()
    world = start_processes(config.device)
    name = config.tokenizer or str(newest_run(config.runs_dir, "tokenizer"))
    vae, predictor = load(name), load(name, stage="video")
    trained = read_run(name).config if (Path(name) / "manifest.json").is_file() else {}
    data = config.data or trained.get("data") or ("moving_shapes" if name == "moving-shapes" else None)
    if data is None:
        raise InputError(f"--data is needed: {name!r} is no training run that could name a data set")
    shipped_size = 32 if name == "moving-shapes" else 256
    clip = ClipSpec(
        num_frames=config.num_frames or trained.get("num_frames", 17),
        size=config.size or trained.get("size", shipped_size),
        frame_stride=trained.get("frame_stride", 1),
        window="first",
    )
    groups = vae.spec.latent_shape(clip.num_frames, clip.height, clip.width)[1]
    if config.observed is not None and vae.spec.groups(config.observed) >= groups:
        raise InputError(f"--observed {config.observed} leaves nothing of {clip.num_frames} frames to predict")
    observed = config.observed or vae.spec.frames(groups - groups // 2)
    root = config.root or (trained.get("root") if data == trained.get("data") else None)
    dataset = open_dataset(data, root=root, split=config.split, clip=clip)
    count = min(config.samples, len(dataset))
    network, missing = _features(config, data, str(world.device))
    folder = (Path(name) if trained else Path(config.runs_dir) / f"shipped-{Path(name).name}") / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    out = Path(config.out) if config.out else folder / f"reconstruction-{data}-{config.split}-n{count}.json"
    with timed_part(folder.parent, "eval.reconstruction"):
        measured = measure(vae, predictor, dataset, count, observed, network, config, world)
        if not world.is_main:
            return out
        rows = make_rows(measured, network, missing)
    words = [
        f"{count} clips of {data} ({config.split}) at {clip.height} pixels "
        "instead of 2,048 of Kinetics-400 at 256 and 512"
    ]
    write_results(
        out,
        kind="reconstruction",
        rows=rows,
        tokenizer=name,
        encoder_hash=vae.encoder_hash,
        decoder_hash=vae.decoder_hash,
        data=data,
        split=config.split,
        samples=count,
        seed=config.seed,
        device=config.device,
        observed_frames=observed,
        differences=words,
        seconds=round(time.monotonic() - began, 1),
    )
    print(table(rows))
    print(f"eval.reconstruction: wrote {out}")
    return out


def _features(config: ReconstructionConfig, data: str, device: str):
    """The feature network or None, and why there is none."""
    from eval.fvd import load_chosen

    if config.features == "none":
        return None, "not asked for"
    try:
        return load_chosen(config.features, data, device), ""
    except InputError as error:
        if config.features == "auto":
            return None, str(error)
        raise


def measure(vae, predictor, dataset, count: int, observed: int, network, config: ReconstructionConfig, world) -> dict:
    """Per-clip measurements of the first `count` items, as arrays of `count` rows, on the main process; processes take
    turns by batches."""
    import numpy as np

    from runtime.stopping import orderly

    vae, predictor = vae.to(world.device), predictor.to(world.device)
    own = (
        measure_batch(vae, predictor, dataset, items, observed, network, config, world.device)
        for items in world.blocks(count, config.batch_size)
    )
    found: dict[str, list] = {}
    with orderly():
        for part in world.in_turn(own, -(-count // config.batch_size)):
            for key, value in part.items():
                found.setdefault(key, []).append(value)
    return {key: value[0] if key == "no_lpips" else np.concatenate(value) for key, value in found.items()}


def measure_batch(vae, predictor, dataset, items: range, observed: int, network, config, device) -> dict:
    """Measurements of some items: arrays with a row for each, and "no_lpips", why LPIPS is not among them."""
    import numpy as np
    import torch

    from runtime.processes import autocast, resolve_dtype
    from tokenizer.validation import blank_like, prediction_errors
    from videos import lpips, psnr, ssim, to_float, to_uint8
    from videos.batches import window_seed

    dtype = resolve_dtype(config.dtype, device)
    clip = torch.from_numpy(np.stack([dataset.item(i, window_seed(config.seed, 0, i))["video"] for i in items]))
    video = to_float(clip.to(device))
    groups, left = vae.spec.groups(video.shape[2]), vae.spec.groups(observed)
    with torch.no_grad(), autocast(device, dtype):
        exact = vae.decode(vae.encode(video).mode()).clamp(-1, 1)
        predicted = predictor.predict(video[:, :, :observed], groups - left) if groups > left else None
    decoded = to_uint8(exact)
    real, output = clip.double() / 255, decoded.cpu().double() / 255
    part = {
        "psnr": psnr(output, real),
        "ssim": ssim(output, real),
        "rounding": psnr(output, (exact.cpu().double() + 1) / 2),
        "change_error": (output.diff(dim=2) - real.diff(dim=2)).square().sum((1, 2, 3, 4)),
        "change": real.diff(dim=2).square().sum((1, 2, 3, 4)),
    }
    if video.shape[2] > 1:  # the first frame itself would be perfect
        part["frozen"] = psnr(real[:, :, :1].expand_as(real)[:, :, 1:], real[:, :, 1:])
    no_lpips = None
    try:
        part["lpips"] = lpips(output.float(), real.float())
    except InputError as error:
        no_lpips = str(error)
    if predicted is not None:
        ours, repeat = prediction_errors(video, predicted, observed)
        blank, _ = prediction_errors(video, blank_like(video), observed)
        # From the last observed frame on, so that the step into the unknown counts too.
        guess = to_uint8(predicted).cpu().double()[:, :, observed - 1 :].diff(dim=2) / 255
        truth = real[:, :, observed - 1 :].diff(dim=2)
        part["predicted_change_error"] = (guess - truth).square().sum((1, 2, 3, 4))
        part["predicted_change"] = truth.square().sum((1, 2, 3, 4))
        part |= {"predicted": ours.cpu(), "repeat": repeat.cpu(), "blank": blank.cpu()}
    if network is not None:
        with torch.no_grad():
            part["real_features"] = network.features(video).float().cpu()
            part["features"] = network.features(to_float(decoded)).float().cpu()
    return {key: value.numpy() for key, value in part.items()} | ({"no_lpips": no_lpips} if no_lpips else {})


def _not_measured(reason: str) -> str:
    """The reason alone: where to get a file is for the command that asks for it by name."""
    return f"not measured: {reason.split(';')[0]}"


def make_rows(measured: dict, network, missing: str) -> list:
    """Rows with intervals of everything that was measured."""
    import numpy as np

    from eval.features import FRECHET_NAMES
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.intervals import estimate
    from eval.results import Row, row_from

    def ratio(pairs):
        return pairs[:, 0].sum() / pairs[:, 1].sum()

    rows = []
    for metric in ("psnr", "ssim", "lpips"):
        if metric in measured:
            name = "LPIPS (alex)" if metric == "lpips" else metric.upper()
            rows.append(row_from(estimate(np.mean, measured[metric]), metric=name, subject="reconstructed"))
    if "no_lpips" in measured:
        rows.append(
            Row(metric="LPIPS (alex)", subject="reconstructed", value=None, note=_not_measured(measured["no_lpips"]))
        )
    for name, note in (
        ("frozen", "control: the first frame repeated, later frames"),
        ("rounding", "ceiling: the same output before and after rounding to uint8"),
    ):
        if name in measured and np.isfinite(measured[name]).all():
            rows.append(row_from(estimate(np.mean, measured[name]), metric="PSNR", subject=name, note=note))
    for name, subject in (("change", "reconstructed"), ("predicted_change", "predicted")):
        if name in measured and measured[name].sum() > 0:
            change = np.stack([measured[f"{name}_error"], measured[name]], axis=1)
            rows.append(
                row_from(
                    estimate(lambda pairs: 1.0 - ratio(pairs), change),
                    metric="change explained",
                    subject=subject,
                    note="1 - squared error of frame differences over their power; standing still scores 0",
                )
            )
    if "predicted" in measured:
        for subject in ("predicted", "blank"):
            pairs = np.stack([measured[subject].sum(1), measured["repeat"].sum(1)], axis=1)
            if pairs[:, 1].sum() > 0:
                rows.append(
                    row_from(
                        estimate(ratio, pairs),
                        metric="error / repeat",
                        subject=subject,
                        note="squared error on moving pixels over that of repeating the last observed frame",
                    )
                )
        step = max(1, measured["predicted"].shape[1] // 4)
        for horizon in range(0, measured["predicted"].shape[1], step):
            pairs = np.stack([measured["predicted"][:, horizon], measured["repeat"][:, horizon]], axis=1)
            if pairs[:, 1].sum() > 0:
                rows.append(
                    row_from(
                        estimate(ratio, pairs), metric=f"error / repeat, frame +{horizon + 1}", subject="predicted"
                    )
                )
    if network is not None:
        pair = estimate(frechet_distance, measured["features"], measured["real_features"], paired=True)
        name = "rFVD" if network.name == "i3d" else f"r{FRECHET_NAMES[network.name]}"
        rows.append(
            row_from(pair, metric=name, subject="reconstructed", features=f"{network.name}@{network.version_hash}")
        )
    else:
        rows.append(Row(metric="rFVD", subject="reconstructed", value=None, note=_not_measured(missing)))
    return rows


if __name__ == "__main__":
    run_command(
        reconstruction,
        ReconstructionConfig,
        example="python -m eval.reconstruction --tokenizer runs/my-vae --samples 256",
    )
