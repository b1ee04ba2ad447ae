"""Show a part of a video to the tokenizer and decode what it expects in the rest.

`python -m tokenizer.predict --tokenizer RUN --video clip.mp4 --observed 9` shows the beginning (PV-VAE figure 6);
`--observed 5 --after 4` shows the last four frames too, and fills the gap between.
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

    tokenizer: str | None = flag(None, "run of tokenizer.train, folder, or known name; default: the newest run")
    video: str = flag(help="video file to read")
    observed: int = flag(9, "frames shown to the encoder, from the first on, 1 + 4k", low=1)
    after: int = flag(
        0, "frames shown at the end as well, 4k, for weights trained with --drop-schedule infill", low=0, high=4096
    )
    frames: int = flag(17, "frames in all; the rest is predicted, 1 + 4k", low=1, high=4097)
    size: int | None = flag(None, "resize the shorter side to this; default: the video's own size", low=8, high=8192)
    tile: int | None = flag(None, "compute frames in tiles of this many pixels a side, to save memory", low=8)
    overlap: int = flag(0, "pixels that neighbouring tiles share, blended", low=0)
    out: str = flag(
        "predicted.mp4",
        "video file to write: the original on the left, the prediction on the right",
        check=partial(check_file, folder_exists=True),
    )


def hidden_groups(config: PredictConfig, spec) -> range:
    """The latent groups that the encoder does not see.

    Raises:
        InputError: If the flags do not fit the tokenizer's groups, or leave nothing to predict.
    """
    observed, total = spec.groups(config.observed), spec.groups(config.frames)
    if config.after % spec.temporal:
        lower = config.after // spec.temporal * spec.temporal
        raise InputError(
            f"--after {config.after} does not fit {spec.name}: it must be a multiple of {spec.temporal}; the nearest "
            f"are {lower} and {lower + spec.temporal}"
        )
    hidden = range(observed, total - config.after // spec.temporal)
    if not hidden:
        both = f"--observed {config.observed}" + (f" and --after {config.after}" if config.after else "")
        raise InputError(f"{both} leaves nothing of --frames {config.frames} to predict")
    return hidden


def fade_over(video, start: int, stop: int):
    """`video` `[B, 3, N, H, W]` up to frame `stop`, with frames `start` to `stop` - 1 mixed of the two around them."""
    import torch

    share = torch.linspace(0, 1, stop - start + 2, device=video.device)[1:-1].view(-1, 1, 1)
    mixed = torch.lerp(video[:, :, start - 1 : start], video[:, :, stop : stop + 1], share)
    return torch.cat([video[:, :, :start], mixed], dim=2)


def predict(config: PredictConfig) -> None:
    """Write the original and the prediction side by side, and print the error over that of repeating the last frame
    before the predicted ones."""
    import torch

    from runtime.processes import autocast, resolve_device, resolve_dtype
    from runtime.run import newest_run
    from tokenizer.spec import crop_to
    from tokenizer.streaming import read_parts, side_by_side
    from tokenizer.tiling import predict_tiled
    from tokenizer.validation import prediction_errors
    from tokenizer.zoo import load
    from videos import to_float, to_uint8, write_video
    from videos.codec import count_frames, frame_rate

    name = config.tokenizer or str(newest_run(config.runs_dir, "tokenizer"))
    device = resolve_device(config.device)
    vae = load(name, stage="video", device=device)
    hidden = hidden_groups(config, vae.spec)
    available = count_frames(config.video)
    if available < config.frames:
        raise InputError(f"--frames {config.frames}: {config.video} has only {available} frames")
    clip = next(read_parts(config.video, vae.spec, vae.spec.groups(config.frames), config.size))
    start, stop = config.observed, config.frames - config.after
    with torch.no_grad(), autocast(device, resolve_dtype(config.dtype, device)):
        video = to_float(clip.to(device))
        padded, whole = vae.spec.pad_to_valid(video)
        observed = torch.cat([padded[:, :, :start], padded[:, :, stop:]], dim=2)
        output = crop_to(predict_tiled(vae, observed, hidden, config.tile, config.overlap), whole)
    write_video(config.out, side_by_side(clip, to_uint8(output).cpu()), frame_rate(config.video))
    rivals = {"repeating the last frame": video[:, :, start - 1 : start].expand_as(video)[:, :, :stop]}
    if config.after:
        rivals["fading from one side to the other"] = fade_over(video, start, stop)
    ours, _ = prediction_errors(video[:, :, :stop], output[:, :, :stop], start)
    words = []
    for rival, guess in rivals.items():
        theirs = float(prediction_errors(video[:, :, :stop], guess, start)[0].sum())
        ratio = f"{float(ours.sum()) / theirs:.3f}" if theirs > 0 else "undefined (nothing moves)"
        words.append(f"that of {rival}: {ratio}")
    print(
        f"tokenizer.predict: {start + config.after} frames observed, {stop - start} predicted; squared error on moving "
        f"pixels over {', over '.join(words)}; original | prediction in {config.out}"
    )


if __name__ == "__main__":
    run_command(
        predict,
        PredictConfig,
        example="python -m tokenizer.predict --tokenizer runs/my-vae --video clip.mp4 --observed 9",
    )
