"""Encode and decode one video file: `python -m tokenizer.reconstruct --tokenizer RUN --video clip.mp4 --out
out.mp4`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig(CommonFlags):
    """Flags of `python -m tokenizer.reconstruct`."""

    tokenizer: str | None = flag(None, "run of tokenizer.train, folder, or shipped name; default: the newest run")
    video: str = flag("", "video file to read")
    out: str = flag(
        "reconstructed.mp4",
        "video file to write: the original on the left, its reconstruction on the right",
        check=partial(check_file, folder_exists=True),
    )
    size: int | None = flag(
        None, "resize the shorter side and crop the centre to this; default: the tokenizer run's size", low=8, high=8192
    )
    chunk_groups: int | None = flag(None, "latent groups computed at a time, to save memory", low=1)


def read_clip(path: str, tokenizer: str, size: int | None, temporal: int):
    """The longest clip of 1 + k * temporal frames of a file, uint8 `[1, 3, 1+T, H, W]`, and its frame rate."""
    import torch

    from runtime.run import read_run
    from videos import read_video
    from videos.clip import resize_and_crop
    from videos.codec import frame_rate

    if not path:
        raise InputError("--video is needed: the file to read")
    if size is None:
        run = Path(tokenizer) / "manifest.json"
        size = (
            read_run(tokenizer).config.get("size", 256)
            if run.is_file()
            else (32 if tokenizer == "moving-shapes" else 256)
        )
    frames = read_video(path)
    frames = frames[: (len(frames) - 1) // temporal * temporal + 1]
    return torch.from_numpy(resize_and_crop(frames, size)).permute(3, 0, 1, 2)[None].contiguous(), frame_rate(path)


def write_side_by_side(path: str, left, right, fps: float) -> None:
    """Write two uint8 `[1, 3, N, H, W]` clips next to each other."""
    import torch

    from videos import write_video

    both = torch.cat([left, right], dim=-1)[0].permute(1, 2, 3, 0).contiguous()
    write_video(path, both.numpy(), fps)


def reconstruct(config: ReconstructConfig) -> None:
    """Write the original and its reconstruction side by side, and print the PSNR."""
    import torch

    from runtime.processes import autocast, resolve_device, resolve_dtype
    from runtime.run import newest_run
    from tokenizer.zoo import load
    from videos import psnr, to_float, to_uint8

    name = config.tokenizer or str(newest_run(config.runs_dir, "tokenizer"))
    device = resolve_device(config.device)
    vae = load(name, device=device)
    clip, fps = read_clip(config.video, name, config.size, vae.spec.temporal)
    with torch.no_grad(), autocast(device, resolve_dtype(config.dtype, device)):
        video = to_float(clip.to(device))
        output = vae.decode(vae.encode(video, config.chunk_groups).mode(), config.chunk_groups)
    decoded = to_uint8(output).cpu()
    write_side_by_side(config.out, clip, decoded, fps)
    decibels = float(psnr(decoded.float() / 255, clip.float() / 255))
    print(
        f"tokenizer.reconstruct: {clip.shape[2]} frames, PSNR {decibels:.2f} dB; "
        f"original | reconstruction in {config.out}"
    )


if __name__ == "__main__":
    run_command(
        reconstruct,
        ReconstructConfig,
        example="python -m tokenizer.reconstruct --tokenizer runs/my-vae --video clip.mp4",
    )
