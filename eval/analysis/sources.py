"""What each cheap number has been shown to go with, and by whom: one table for cards and pages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PV_VAE, SSVAE, V_RAE, RIGHT_SPACE = "arXiv 2605.02134", "arXiv 2512.05394", "arXiv 2608.13556", "arXiv 2606.03578"
NOBODY = "nobody that is known here has compared it with generation"


@dataclass(frozen=True)
class Source:
    """What is known of some numbers.

    Attributes:
        numbers: What to call them.
        pattern: Of their names in results.
        shown: What they were shown to go with, in words.
        by: Who has shown it.
    """

    numbers: str
    pattern: str
    shown: str
    by: str


# Rank correlations over the eight tokenizers of PV-VAE's tables are ours: `eval.correlate published`.
SOURCES = (
    Source(
        "PSNR, SSIM, LPIPS",
        r"PSNR|SSIM|LPIPS.*",
        "not with better generation: over eight video tokenizers those of higher PSNR and SSIM (256 pixels) have the "
        "worse gFVD on UCF101, rank correlations 0.71 and 0.77",
        f"tables 1 and 2 of PV-VAE ({PV_VAE}), correlated here",
    ),
    Source(
        "rFVD",
        r"r(FVD|FD-.*)",
        "not with gFVD: rank correlation -0.17 over eight tokenizers; with predictive reconstruction rFVD rises from "
        "3.03 to 5.66 while gFVD falls from 174.81 to 156.33",
        f"tables 1, 2 and 4 of PV-VAE ({PV_VAE}), correlated here",
    ),
    Source(
        "prediction",
        r"error / repeat.*|change explained",
        "lower gFVD where the dropped half of a clip is predicted better, over checkpoints and tokenizers (figure 5a)",
        f"PV-VAE ({PV_VAE}); as a picture, without a coefficient",
    ),
    Source(
        "LTD",
        r"LTD.*",
        "PV-VAE's latents move otherwise than those of its baselines (figures 5c, 5d); no correlation is given",
        f"PV-VAE ({PV_VAE}); as a picture, of few tokenizers",
    ),
    Source(
        "eigenspectrum",
        r"effective channels|variance in 3 directions",
        "faster training of the generator where few directions of the channels dominate",
        f"SSVAE ({SSVAE}); by regularising one architecture",
    ),
    Source(
        "spectra",
        r"high frequencies.*",
        "faster training of the generator where low frequencies in time and space dominate",
        f"SSVAE ({SSVAE}); by regularising one architecture",
    ),
    Source(
        "VIV",
        r"VIV.*",
        "gFID: r = 0.87 over 86 image tokenizers and 4 generators, the best of the numbers without training there",
        f"Diffusing in the Right Space ({RIGHT_SPACE}); of pictures, not of videos",
    ),
    Source(
        "SEC",
        r"SEC.*",
        "gFID, less than VIV does",
        f"Diffusing in the Right Space ({RIGHT_SPACE}); of pictures, not of videos",
    ),
    Source(
        "tFVD",
        r"tFVD|tFD-.*|tfvd.*|tfd-.*",
        "gFVD: 0.62 on UCF101, 0.92 on K600, by its own rule of frames and with I3D; of others nothing is known",
        f"V-RAE ({V_RAE})",
    ),
    Source("rate", r"rate", "a tokenizer that tells more can lose less; " + NOBODY, "–"),
    Source(
        "speed, memory, size",
        r"[IT](Speed|Mem).*|parameters|multiply-adds|tokens",
        "a price, not a quality: rank correlation of the number of parameters with gFVD 0.14 over eight tokenizers",
        f"tables 1 and 2 of PV-VAE ({PV_VAE}), correlated here",
    ),
)


def source_of(metric: str) -> Source | None:
    """What is known of a number by its name in results."""
    return next((source for source in SOURCES if re.fullmatch(source.pattern, metric)), None)


def sources_of(metrics: Iterable[str]) -> list[Source]:
    """What is known of some numbers, each source once, in the order of the table."""
    metrics = set(metrics)
    return [source for source in SOURCES if any(re.fullmatch(source.pattern, metric) for metric in metrics)]
