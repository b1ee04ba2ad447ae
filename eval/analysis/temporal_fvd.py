"""tFVD: what becomes of a clip when each of its latents is replaced by the mean of those before and after it.

It measures how far straight lines in latent time stay on the manifold of videos, plus the error of reconstruction; the
same clips without the means stand beside it, since the difference is the information. The rule of its authors (V-RAE,
arXiv 2608.13556) needs groups of four frames from the first frame on; of tokenizers whose first group is one frame the
number is another one and has another name. No published tFVD of another tokenizer than V-RAE can be computed again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.decode import clips_at_once
from eval.features import FRECHET_NAMES
from eval.features.store import FeatureSet
from runtime.errors import InputError
from runtime.processes import autocast
from runtime.records import check_fields
from tokenizer.spec import TokenizerSpec
from videos import to_float, to_uint8

AVERAGED, PLAIN = "averaged latents", "latents as they are"
TEMPORAL_SUBJECTS = (AVERAGED, PLAIN)
# Between frames of a clip of files, as V-RAE has it.
STRIDE = 3
_PARTS = ("real", AVERAGED, PLAIN)
_KEY = {"temporal": str, "network": str, "weights": str, "stratified": bool}


@dataclass(frozen=True)
class FrameRule:
    """Which latents are averaged, and which frames are judged.

    Attributes:
        suffix: Ends the number's name.
        num_frames: Frames of a clip.
        averaged: For each group that is decoded the two whose mean it is.
        plain: The groups that stand in their place without means.
        scored: Frames of the clip that are judged.
        decoded: The frames of what is decoded that stand in their place.
    """

    suffix: str
    num_frames: int
    averaged: tuple[tuple[int, int], ...]
    plain: tuple[int, ...]
    scored: range
    decoded: range


def frame_rule(spec: TokenizerSpec) -> FrameRule:
    """V-RAE's rule where the tokenizer can follow it, else the one for clips of 1 + t k frames.

    V-RAE: 24 frames are six groups; of groups i and i + 2 the mean, for i = 0 … 3, is decoded to 16 frames, which are
    held against frames 4 … 19. Otherwise, with t frames a group: 1 + 6 t frames are groups 0 … 6; 0 and 1 stay, 2 … 5
    are means of those beside them, and frames 1 + t … 5 t, which they stand for, are judged. Group 6 is decoded too
    where the tokenizer does not decode six groups.

    Raises:
        InputError: When the judged frames would be fewer than feature networks see.
    """
    if _fits(spec, 24, 6) and _fits(spec, 16, 4):
        return FrameRule("", 24, tuple((i, i + 2) for i in range(4)), (1, 2, 3, 4), range(4, 20), range(16))
    t = spec.temporal
    if not _fits(spec, 1 + 6 * t, 7):
        raise InputError(f"{spec.name} does not encode {1 + 6 * t} frames as seven groups")
    if 4 * t < 9:
        raise InputError(f"{spec.name}: four groups are {4 * t} frames, feature networks see no fewer than 9")
    averaged = ((0, 0), (1, 1), (1, 3), (2, 4), (3, 5), (4, 6))
    averaged += () if _fits(spec, 1 + 5 * t, 6) else ((6, 6),)
    scored = range(1 + t, 1 + 5 * t)
    return FrameRule(f"-1+{t}k", 1 + 6 * t, averaged, tuple(range(len(averaged))), scored, scored)


def _fits(spec: TokenizerSpec, frames: int, groups: int) -> bool:
    try:
        return spec.groups(frames) == groups and spec.frames(groups) == frames
    except InputError:
        return False


def temporal_name(rule: FrameRule, network: str) -> str:
    """What the number is called: tFVD by V-RAE's rule and with I3D's published weights alone."""
    name = f"t{FRECHET_NAMES[network]}"
    return name.lower() + rule.suffix if rule.suffix else name


def is_temporal(metric: str) -> bool:
    """Whether results files call one of these numbers so."""
    names = [f"t{name}" for name in FRECHET_NAMES.values()]
    other = re.fullmatch(r"(.+)-1\+\d+k", metric)
    return metric in names or bool(other) and other[1] in map(str.lower, names)


@dataclass(frozen=True, kw_only=True)
class TemporalView:
    """Looks at clips of `rule.num_frames` frames, as `View.see` of `eval.extract`.

    Attributes:
        network: For features.
        batch_size: Clips in one forward pass; None: by their size.
    """

    vae: torch.nn.Module
    network: object
    rule: FrameRule
    device: torch.device
    dtype: torch.dtype = torch.float32
    batch_size: int | None = None

    def key(self, clip, stratified: bool, **more) -> dict:
        """Everything that the rows depend on."""
        return {
            "temporal": temporal_name(self.rule, self.network.name),
            "network": self.network.name,
            "weights": self.network.version_hash,
            "encoder": self.vae.encoder_hash,
            "decoder": self.vae.decoder_hash,
            "clip": [clip.num_frames, clip.height, clip.width, clip.frame_stride, clip.window],
            "stratified": stratified,
            "dtype": str(self.dtype),
            **more,
        }

    def see(self, video: Tensor) -> tuple[Tensor, None]:
        """Features float32 `[B, 3 d]` of the judged frames: of real ones, by means of latents, and without means."""
        size = self.batch_size or clips_at_once(*video.shape[2:])
        return torch.cat([self._see(part) for part in video.split(size)]), None

    def _see(self, video: Tensor) -> Tensor:
        clip, rule = to_float(video.to(self.device)), self.rule
        decoded = [clip[:, :, rule.scored.start : rule.scored.stop]]
        with torch.no_grad(), autocast(self.device, self.dtype):
            latents = self.vae.encode(clip).mode()
            for made in (averaged(latents, rule), latents[:, :, list(rule.plain)]):
                decoded.append(self.vae.decode(made)[:, :, rule.decoded.start : rule.decoded.stop])
        decoded[1:] = [to_float(to_uint8(part.float().clamp(-1, 1))) for part in decoded[1:]]
        with torch.no_grad():
            return torch.cat([self.network.features(part).float() for part in decoded], dim=1)


def averaged(latents: Tensor, rule: FrameRule) -> Tensor:
    """The latents `[B, C, G, h, w]` that are decoded, each the mean of two; normalised or raw are the same."""
    before, after = (list(groups) for groups in zip(*rule.averaged, strict=True))
    return (latents[:, :, before] + latents[:, :, after]) / 2


def temporal_features(kept: FeatureSet, subject: str) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, d]` of decoded and of real frames; InputError when the rows are of something else."""
    key, width = kept.key or {}, kept.features.shape[1]
    if "temporal" not in key:
        raise InputError(f"{kept.path}: holds no features of averaged latents")
    check_fields(key, _KEY, kept.path)
    if width % len(_PARTS) or key["network"] not in FRECHET_NAMES:
        raise InputError(
            f"{kept.path}: rows of {width} numbers of {key['network']!r} are not laid out as their key says"
        )
    real, *decoded = np.split(kept.features, len(_PARTS), axis=1)
    return decoded[TEMPORAL_SUBJECTS.index(subject)], real
