"""What a tokenizer in training is worth: reconstruction and prediction on a few fixed clips.

Prediction is judged against the cheapest rival: repeating the last observed frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.processes import autocast
from tokenizer.pvvae import PVVAE
from videos import psnr, to_float

# A pixel moves when some channel of the true frame differs from the last observed one by more than this ([-1, 1] units;
# 10 of 255).
MOVING_THRESHOLD = 20.0 / 255.0


def moving_pixels(video: Tensor, observed_frames: int) -> Tensor:
    """Where the frames after the first `observed_frames` differ from the last observed one.

    Args:
        video: `[B, 3, N, H, W]` in [-1, 1].

    Returns:
        Bool `[B, 1, N - observed_frames, H, W]`.
    """
    last = video[:, :, observed_frames - 1 : observed_frames]
    return (video[:, :, observed_frames:] - last).abs().amax(1, keepdim=True) > MOVING_THRESHOLD


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


@torch.no_grad()
def validate(vae: PVVAE, clips: Sequence[Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """PSNR of reconstruction (dB), and predicted over repeat when the latter half of the groups is dropped.

    Args:
        clips: uint8 batches `[B, 3, 1+T, H, W]`.
    """
    was_training = vae.training
    vae.eval()
    decibels, predicted_error, repeat_error = [], 0.0, 0.0
    for clip in clips:
        video = to_float(clip.to(device))
        groups = vae.spec.groups(video.shape[2])
        with autocast(device, dtype):
            output = vae.decode(vae.encode(video).mode())
        decibels.append(psnr((output.clamp(-1, 1) + 1) / 2, (video + 1) / 2))
        if groups > 1:
            dropped = groups // 2
            observed = vae.spec.frames(groups - dropped)
            with autocast(device, dtype):
                predicted = vae.predict(video[:, :, :observed], dropped)
            ours, repeat = prediction_errors(video, predicted, observed)
            predicted_error += float(ours.sum())
            repeat_error += float(repeat.sum())
    vae.train(was_training)
    values = {"val_psnr": float(torch.cat(decibels).mean())}
    if repeat_error > 0:
        values["val_predicted_over_repeat"] = predicted_error / repeat_error
    return values
