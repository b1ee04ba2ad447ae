"""Encode and decode one video file: `python -m tokenizer.reconstruct --tokenizer RUN --video clip.mp4 --out
out.mp4`.

The file is read, computed and written a few groups at a time, at its own size and frame rate. A PV-VAE gives the same
as of the whole; to a tokenizer of others, each part is a clip of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from runtime.command import flag, run_command
from runtime.output import check_file
from tokenizer.hub import DownloadFlags


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig(DownloadFlags):
    """Flags of `python -m tokenizer.reconstruct`."""

    tokenizer: str | None = flag(
        None, "run of tokenizer.train, folder, known name, module:CLASS or diffusers:FOLDER; default: the newest run"
    )
    weights: str | None = flag(None, "weight file to use instead of the tokenizer's own, or 'random'")
    video: str = flag(help="video file to read")
    out: str = flag(
        "reconstructed.mp4",
        "video file to write: the original on the left, its reconstruction on the right",
        check=partial(check_file, folder_exists=True),
    )
    size: int | None = flag(None, "resize the shorter side to this; default: the video's own size", low=8, high=8192)
    chunk_groups: int = flag(4, "latent groups computed at a time, which sets the memory", low=1, high=1024)
    tile: int | None = flag(None, "compute frames in tiles of this many pixels a side, to save memory", low=8)
    overlap: int = flag(0, "pixels that neighbouring tiles share, blended", low=0)


def reconstruct(config: ReconstructConfig) -> None:
    """Write the original and its reconstruction side by side, and print the PSNR."""
    import torch

    from runtime.processes import autocast, resolve_device, resolve_dtype
    from runtime.run import newest_run
    from tokenizer.pvvae import PVVAE
    from tokenizer.streaming import Parts, Stream, read_parts, side_by_side
    from tokenizer.zoo import load
    from videos import psnr, to_float, to_uint8
    from videos.codec import frame_rate, video_writer

    name = config.tokenizer or str(newest_run(config.runs_dir, "tokenizer"))
    device = resolve_device(config.device)
    vae = load(name, config.weights, device=device, download=config.download)
    stream = (Stream if isinstance(vae, PVVAE) else Parts)(vae, config.tile, config.overlap)
    frames, decibels = 0, 0.0
    with video_writer(config.out, frame_rate(config.video)) as write:
        for clip in read_parts(config.video, vae.spec, config.chunk_groups, config.size):
            with torch.no_grad(), autocast(device, resolve_dtype(config.dtype, device)):
                decoded = to_uint8(stream.reconstruct(to_float(clip.to(device)))).cpu()
            write(side_by_side(clip, decoded))
            frames += clip.shape[2]
            decibels += clip.shape[2] * float(psnr(decoded.float() / 255, clip.float() / 255))
    print(
        f"tokenizer.reconstruct: {frames} frames, PSNR {decibels / frames:.2f} dB; "
        f"original | reconstruction in {config.out}"
    )


if __name__ == "__main__":
    run_command(
        reconstruct,
        ReconstructConfig,
        example="python -m tokenizer.reconstruct --tokenizer runs/my-vae --video clip.mp4",
    )
