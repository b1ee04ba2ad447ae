"""What a tokenizer in training is worth, on a few fixed clips: reconstruction, prediction, latents, and what they look
like.

Prediction is judged against the two cheapest rivals: repeating the last observed frame, and a flat picture. Everything
is a function of the weights and the clips, so a resumed run logs what an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latents_cache.moments import ChannelStatistics
from runtime.processes import autocast
from runtime.published_weights import locate
from tokenizer.pvvae import PVVAE
from tokenizer.spec import Posterior, TokenizerSpec
from tokenizer.strips import CLIPS_SHOWN, strips
from videos import lpips, psnr, ssim, to_float
from videos.quality import BACKBONES, LPIPS_SMALLEST, SSIM_WINDOW, lpips_network

# A pixel moves when some channel of the true frame differs from the last observed one by more than this ([-1, 1] units;
# 10 of 255).
MOVING_THRESHOLD = 20.0 / 255.0
# A latent channel is dead when it tells the decoder less than this: KL to the prior, nats per element.
DEAD_CHANNEL_KL = 0.01
# Pixels that the networks see at a time: a clip of 17x240x240, or four frames of 512x512.
PIXELS = 2**20

# -- prediction against its rivals ------------------------------------------------------------------------------------


def moving_pixels(video: Tensor, observed_frames: int) -> Tensor:
    """Where the frames after the first `observed_frames` differ from the last observed one.

    Args:
        video: `[B, 3, N, H, W]` in [-1, 1].

    Returns:
        Bool `[B, 1, N - observed_frames, H, W]`.
    """
    last = video[:, :, observed_frames - 1 : observed_frames]
    return (video[:, :, observed_frames:] - last).abs().amax(1, keepdim=True) > MOVING_THRESHOLD


def blank_like(video: Tensor) -> Tensor:
    """Each clip's median colour of its first frame, everywhere: `[B, 3, N, H, W]` like `video`."""
    colour = video[:, :, 0].flatten(2).median(dim=2).values
    return colour[:, :, None, None, None].expand_as(video)


def prediction_errors(video: Tensor, predicted: Tensor, observed_frames: int) -> tuple[Tensor, Tensor]:
    """Squared errors on moving pixels of a prediction, and of repeating the last observed frame.

    Args:
        video: The truth, `[B, 3, N, H, W]` in [-1, 1].
        predicted: A full-length prediction, like `video`; only its frames after the observed ones count.
        observed_frames: Frames that the predictor has seen.

    Returns:
        Two `[B, N - observed_frames]` float64 sums over channels and moving pixels: of the prediction, and of
        repetition. Their ratio (summed over clips first) is "predicted over repeat"; below 1 the prediction is better
        than standing still.
    """
    moving = moving_pixels(video, observed_frames)
    truth = video[:, :, observed_frames:]
    last = video[:, :, observed_frames - 1 : observed_frames]

    def error(guess: Tensor) -> Tensor:
        return ((guess - truth).double().square() * moving).sum((1, 3, 4))

    return error(predicted[:, :, observed_frames:].clamp(-1, 1)), error(last.expand_as(truth))


# -- validation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Validation:
    """One validation.

    Attributes:
        values: Numbers by name, all beginning with "val_".
        pictures: uint8 `[N, H, W, 3]` by name, N > 1 where they play.
    """

    values: dict[str, float]
    pictures: dict[str, np.ndarray]


def find_lpips_networks(device: torch.device, vgg: Callable | None = None) -> dict[str, Callable]:
    """The LPIPS networks to validate with: AlexNet's where its weights are on this machine, and the VGG of training.

    Args:
        vgg: The network of the loss, if there is one; it is never built for validation alone, being slow on CPUs.
    """
    networks = {"vgg": vgg} if vgg is not None else {}
    if locate(BACKBONES["alex"]) is not None:
        networks["alex"] = lpips_network("alex").to(device)
    return networks


@torch.no_grad()
def validate(
    vae: PVVAE,
    clips: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype,
    lpips_networks: Mapping[str, Callable] | None = None,
) -> Validation:
    """Encode and decode every clip, and predict the latter half of its groups.

    The values, means over clips unless said otherwise:

        val_psnr, val_ssim, val_lpips_<network>        of reconstruction; dB for PSNR, and from 11 pixels on for SSIM
        val_psnr_frame_00 …                            by frame; frame 0 is encoded alone, the others in fours
        val_predicted_over_repeat, …_plus_1 …          squared error on moving pixels, summed over clips, over that of
                                                       repeating the last observed frame; in all, and by frames ahead
        val_predicted_over_blank, …_plus_1 …           likewise, over that of a flat picture
        val_latent_mean_abs                            mean over channels of |mean|
        val_latent_std_min, val_latent_std_max         over channels, of sampled latents
        val_kl                                         nats per latent element
        val_dead_channels                              share of channels whose KL is below `DEAD_CHANNEL_KL`

    Clips of one group have no prediction; a ratio whose denominator is 0 is left out.

    The networks see few clips and groups at a time, `PIXELS` pixels at most or one group of one clip, so that memory
    does not grow with batches and hardly with clips.

    Args:
        clips: uint8 batches `[B, 3, 1+T, H, W]`, all of one size. Every process of a launch passes the same ones.
        lpips_networks: By name, as `videos.lpips` takes them; none: no LPIPS.
    """
    was_training = vae.training
    vae.eval()
    quality, latents, errors, shown = _Quality(lpips_networks or {}), _Latents(vae.spec.channels), [], []
    # Gaussian padding draws from torch's global state: the same noise every time, and training notices nothing.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for clip in small_batches(clips):
            video = to_float(clip.to(device))
            dropped = vae.spec.groups(video.shape[2]) // 2
            observed = vae.spec.frames(vae.spec.groups(video.shape[2]) - dropped)
            chunk = chunk_groups(vae.spec, clip.shape)
            with autocast(device, dtype):
                posterior = vae.encode(video, chunk)
                outputs = [vae.decode(posterior.mode(), chunk)]
                if dropped:
                    outputs.append(vae.predict(video[:, :, :observed], dropped, chunk))
            quality.add(video, outputs[0].clamp(-1, 1))
            latents.add(posterior)
            if dropped:
                ours, repeat = prediction_errors(video, outputs[1], observed)
                blank, _ = prediction_errors(video, blank_like(video), observed)
                errors.append(torch.stack([ours, repeat, blank]).sum(1))
            shown += list(zip(video, *outputs, strict=True))[: CLIPS_SHOWN - len(shown)]
    vae.train(was_training)
    values = quality.means() | latents.summary()
    if errors:
        values |= _over_rivals(torch.stack(errors).sum(0))
    pictures = {f"val_{name}": picture for name, picture in strips(shown, observed).items()}
    return Validation({f"val_{name}": float(value) for name, value in values.items()}, pictures)


def small_batches(clips: Sequence[Tensor]) -> Iterator[Tensor]:
    """The same clips `[B, 3, 1+T, H, W]` in order, as many at a time as `PIXELS` allow, at least one."""
    for batch in clips:
        yield from batch.split(max(1, PIXELS // batch[0, 0].numel()))


def chunk_groups(spec: TokenizerSpec, shape: Sequence[int]) -> int | None:
    """Latent groups of a batch `[B, 3, 1+T, H, W]` whose frames are at most `PIXELS`, at least one; None: all."""
    batch, _, num_frames, height, width = shape
    frames = PIXELS // (batch * height * width)
    return None if frames >= num_frames else max(1, frames // spec.temporal)


class _Quality:
    """Collects what reconstruction loses, clip by clip."""

    def __init__(self, networks: Mapping[str, Callable]):
        self.networks, self.found = networks, {}

    def add(self, video: Tensor, output: Tensor) -> None:
        """Both `[B, 3, N, H, W]` in [-1, 1]."""
        real, ours = (video + 1) / 2, (output + 1) / 2
        side = min(video.shape[-2:])
        frames = [psnr(ours[:, :, [n]], real[:, :, [n]]) for n in range(video.shape[2])]
        self._keep("psnr", torch.stack(frames, dim=1))
        if side >= SSIM_WINDOW:
            self._keep("ssim", ssim(ours, real))
        few = max(1, PIXELS // real[0, 0, 0].numel())
        parts = list(zip(ours.split(few, dim=2), real.split(few, dim=2), strict=True))
        for name, network in self.networks.items():
            if side >= LPIPS_SMALLEST[name]:
                means = [lpips(*part, network=network)[:, None].expand(-1, part[0].shape[2]) for part in parts]
                self._keep(f"lpips_{name}", torch.cat(means, dim=1))

    def _keep(self, name: str, values: Tensor) -> None:
        self.found.setdefault(name, []).append(values.cpu())

    def means(self) -> dict[str, float]:
        """The mean of each over clips, and of PSNR also by frame."""
        found = {name: torch.cat(parts) for name, parts in self.found.items()}
        by_frame = {f"psnr_frame_{n:02d}": value for n, value in enumerate(found["psnr"].mean(0))}
        return {name: value.mean() for name, value in found.items()} | by_frame


class _Latents:
    """Collects the statistics of the posteriors' channels."""

    def __init__(self, channels: int):
        self.moments, self.kl, self.count = ChannelStatistics(channels), torch.zeros(channels).double(), 0

    def add(self, posterior: Posterior) -> None:
        """A posterior over `[B, C, G, h, w]`."""
        mean, logvar = posterior.mean.cpu(), posterior.logvar.cpu()
        self.moments.add(mean.numpy(), logvar.numpy())
        # With channels in the place of the batch, the KL of each is summed over everything else.
        self.kl += Posterior(mean.transpose(0, 1), logvar.transpose(0, 1)).kl().double()
        self.count += mean[:, 0].numel()

    def summary(self) -> dict[str, float]:
        kl = self.kl / self.count
        return {
            "latent_mean_abs": np.abs(self.moments.mean).mean(),
            "latent_std_min": self.moments.std.min(),
            "latent_std_max": self.moments.std.max(),
            "kl": kl.mean(),
            "dead_channels": (kl < DEAD_CHANNEL_KL).double().mean(),
        }


def _over_rivals(errors: Tensor) -> dict[str, Tensor]:
    """Ratios from `[3, F]` sums: of the prediction, of repetition and of a flat picture, by frames ahead."""
    ours, *rivals = torch.cat([errors.sum(1, keepdim=True), errors], dim=1).cpu()
    return {
        f"predicted_over_{name}" + (f"_plus_{ahead}" if ahead else ""): ours[ahead] / rival[ahead]
        for name, rival in zip(("repeat", "blank"), rivals, strict=True)
        for ahead in range(len(ours))
        if rival[ahead] > 0
    }
