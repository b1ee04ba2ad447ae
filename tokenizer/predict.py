"""Show the beginning of a video to the tokenizer and decode what it expects next (PV-VAE figure 6).

`python -m tokenizer.predict --tokenizer RUN --video clip.mp4 --observed 9 --out predicted.mp4`
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file


@dataclass(frozen=True, kw_only=True)
class PredictConfig(CommonFlags):
    """Flags of `python -m tokenizer.predict`."""

    tokenizer: str | None = flag(None, "run of tokenizer.train, folder, or shipped name; default: the newest run")
    video: str = flag("", "video file to read")
    observed: int = flag(9, "frames shown to the encoder, 1 + 4k", low=1)
    frames: int = flag(17, "frames in all; the rest is predicted, 1 + 4k", low=1, high=4097)
    size: int | None = flag(
        None, "resize the shorter side and crop the centre to this; default: the tokenizer run's size", low=8, high=8192
    )
    out: str = flag(
        "predicted.mp4",
        "video file to write: the original on the left, the prediction on the right",
        check=partial(check_file, folder_exists=True),
    )


def predict(config: PredictConfig) -> None:
    """Write the original and the prediction side by side, and print the error over that of repeating the last observed
    frame."""
    import torch

    from runtime.processes import autocast, resolve_device, resolve_dtype
    from runtime.run import newest_run
    from tokenizer.reconstruct import read_clip, write_side_by_side
    from tokenizer.validation import prediction_errors
    from tokenizer.zoo import load
    from videos import to_float, to_uint8

    name = config.tokenizer or str(newest_run(config.runs_dir, "tokenizer"))
    device = resolve_device(config.device)
    vae = load(name, stage="video", device=device)
    observed, total = vae.spec.groups(config.observed), vae.spec.groups(config.frames)
    if observed >= total:
        raise InputError(f"--observed {config.observed} leaves nothing of --frames {config.frames} to predict")
    clip, fps = read_clip(config.video, name, config.size, vae.spec.temporal)
    if clip.shape[2] < config.frames:
        raise InputError(f"--frames {config.frames}: {config.video} has only {clip.shape[2]} usable frames")
    clip = clip[:, :, : config.frames]
    with torch.no_grad(), autocast(device, resolve_dtype(config.dtype, device)):
        video = to_float(clip.to(device))
        output = vae.predict(video[:, :, : config.observed], total - observed)
    write_side_by_side(config.out, clip, to_uint8(output).cpu(), fps)
    ours, repeat = prediction_errors(video, output, config.observed)
    ratio = f"{float(ours.sum() / repeat.sum()):.3f}" if float(repeat.sum()) > 0 else "undefined (nothing moves)"
    print(
        f"tokenizer.predict: {config.observed} frames observed, {config.frames - config.observed} predicted; "
        f"squared error on moving pixels over that of repeating the last frame: {ratio}; "
        f"original | prediction in {config.out}"
    )


if __name__ == "__main__":
    run_command(
        predict,
        PredictConfig,
        example="python -m tokenizer.predict --tokenizer runs/my-vae --video clip.mp4 --observed 9",
    )
