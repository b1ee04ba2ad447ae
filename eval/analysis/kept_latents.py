"""Latents of a tokenizer as they are kept, one row a clip, so that every number of them can be computed again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.analysis.arrays import blocks_of_clips
from eval.features.store import FeatureSet
from eval.tokenizer_clips import Encoded
from latents_cache import open_latents
from latents_cache.moments import ChannelStatistics
from runtime.errors import InputError
from runtime.records import check_fields, from_record, parse_json
from tokenizer.spec import Posterior
from videos import ClipSpec
from videos.splits import stratified_order

# What rows are read by: shape (C, G, h, w), whether there is a posterior and no point alone, pixels of a clip.
_KEY = {"latents": list[int], "posterior": bool, "pixels": int, "stratified": bool}


@dataclass(frozen=True)
class LatentSet:
    """Latents of some clips.

    Attributes:
        latents: Posterior means `[N, C, G, h, w]`, as the encoder gives them.
        labels: Classes `[N]`, or None.
        rate: KL to the standard normal in nats per pixel `[N]`; None without posteriors.
        mean, std: Of each channel of sampled latents, float64 `[C]`: what the generator normalises by.
    """

    latents: np.ndarray
    labels: np.ndarray | None
    rate: np.ndarray | None
    mean: np.ndarray
    std: np.ndarray

    def normalised(self) -> np.ndarray:
        """Like `latents`: (latents - mean) / std, float32; a channel that never changes is 0."""
        mean, std = (part.astype(np.float32)[:, None, None, None] for part in (self.mean, self.std))
        return (self.latents - mean) / np.where(std > 0, std, 1.0)


def latents_key(vae, clip, posterior: bool, dtype: torch.dtype, stratified: bool, **more) -> dict:
    """Everything that kept latents depend on.

    Args:
        posterior: Whether the tokenizer gives variances.
        more: Of the clips.
    """
    shape = vae.spec.latent_shape(clip.num_frames, clip.height, clip.width)
    return {
        "latents": list(shape),
        "posterior": posterior,
        "pixels": clip.num_frames * clip.height * clip.width,
        "encoder": vae.encoder_hash,
        "clip": [clip.num_frames, clip.height, clip.width, clip.frame_stride, clip.window],
        "stratified": stratified,
        "dtype": str(dtype),
        **more,
    }


def see_latents(encoded: Encoded) -> tuple[Tensor, None]:
    """Rows float32 `[B, width]` of clips, as a view of `eval.extract` gives features."""
    return torch.cat([_rows(posterior) for _, posterior in encoded.parts]), None


def _rows(posterior: Posterior) -> Tensor:
    """float32 `[B, width]`: where there are variances, KL and the mean variance of each channel; the means."""
    columns = [posterior.mean.float().flatten(1)]
    if posterior.logvar is not None:
        columns = [posterior.kl()[:, None], posterior.logvar.float().exp().mean((2, 3, 4)), *columns]
    return torch.cat(columns, dim=1)


def latent_set(kept: FeatureSet) -> LatentSet:
    """What rows hold; InputError when they are of something else."""
    key = kept.key or {}
    if "latents" not in key:
        raise InputError(f"{kept.path}: holds no latents of a tokenizer")
    check_fields(key, _KEY, kept.path)
    shape, before = key["latents"], 1 + key["latents"][0] if key["posterior"] and key["latents"] else 0
    if len(shape) != 4 or min(shape) < 1 or key["pixels"] < 1 or kept.features.shape[1] != before + np.prod(shape):
        raise InputError(f"{kept.path}: rows of {kept.features.shape[1]} numbers are no latents {shape}")
    latents = kept.features[:, before:].reshape(-1, *shape)
    statistics = ChannelStatistics(shape[0])
    for block in blocks_of_clips(latents):
        statistics.add(block)
    variance = statistics.std**2
    if before:
        variance = variance + kept.features[:, 1:before].astype(np.float64).mean(0)
    return LatentSet(
        latents=latents,
        labels=kept.labels if len(kept.labels) and kept.labels.min() >= 0 else None,
        rate=kept.features[:, 0].astype(np.float64) / key["pixels"] if before else None,
        mean=statistics.mean,
        std=np.sqrt(variance),
    )


def kept_of_file(path: str | Path, samples: int, seed: int) -> tuple[FeatureSet, dict]:
    """Up to `samples` rows of a latents file, a seeded draw that takes classes in turns, as `latent_set` takes them,
    and what results say of them.

    Raises:
        InputError: If it is no whole latents file, or holds fewer than two rows.
    """
    with open_latents(path) as reader:
        about = reader.attributes
        if len(reader) < 2:
            raise InputError(f"{path}: {len(reader)} rows; two are needed")
        clip = from_record(ClipSpec, parse_json(str(about.get("clip", "{}")), path), f"{path}: clip")
        chosen = sorted(stratified_order(reader.labels.tolist(), seed)[:samples])
        batch = reader.batch(chosen)
        moments = [batch[name] for name in ("mean", "logvar") if batch[name] is not None]
        posterior = Posterior(*(torch.from_numpy(values.astype(np.float32)) for values in moments))
        key = {
            "latents": list(reader.shape),
            "posterior": reader.has_logvar,
            "pixels": clip.num_frames * clip.height * clip.width,
            "stratified": len(set(batch["label"])) > 1,
        }
    names = ("tokenizer", "weights", "encoder_hash", "data", "split")
    facts = {name: about[name] for name in names if name in about} | {"latents": str(path)}
    facts |= {"size": clip.height, "num_frames": clip.num_frames, "frame_stride": clip.frame_stride}
    return FeatureSet(_rows(posterior).numpy(), None, batch["label"], key=key), facts
