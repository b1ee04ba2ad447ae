"""The published tables as data: what others measured, to stand beside what is measured here.

All numbers are those of PV-VAE (arXiv 2605.02134v1), which measured every row itself. "UCF101 FVD" and the like are of
generators trained on the tokenizer's latents; speeds and memory are of one machine, which the paper does not name.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "arXiv 2605.02134v1"


@dataclass(frozen=True)
class Column:
    """One column of a table, and what of our results belongs there.

    Attributes:
        title: As printed.
        metric: `Row.metric` of results that fill it; "" for what no results file holds.
        subject: `Row.subject` likewise.
        data: Data set of those results.
        size: Pixels of those results; 0: of any size.
        better: "lower", "higher", or "" where neither is.
        digits: After the decimal point, as published.
    """

    title: str
    metric: str = ""
    subject: str = "generated"
    data: str = ""
    size: int = 0
    better: str = ""
    digits: int = 2


@dataclass(frozen=True)
class PublishedTable:
    """One table of a paper: `lines` are (name, values), a value for each column, text where it is no number."""

    name: str
    title: str
    source: str
    protocol: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, tuple[float | str, ...]], ...]


def _generated(metric: str, data: str, title: str) -> Column:
    return Column(title, metric, data=data, better="higher" if metric == "IS" else "lower")


def _reconstructed(metric: str, title: str, size: int) -> Column:
    better = "higher" if metric in ("PSNR", "SSIM") else "lower"
    digits = 3 if metric.startswith("LPIPS") else 2
    return Column(title, metric, "reconstructed", "kinetics400", size, better, digits)


_UCF101 = tuple(_generated(metric, "ucf101", f"UCF101 {metric}") for metric in ("FVD", "KVD", "IS"))
_RE10K = tuple(_generated(metric, "realestate10k", f"RE10K {metric}") for metric in ("FVD", "KVD"))
_QUALITY = (("rFVD", "rFVD"), ("PSNR", "PSNR"), ("SSIM", "SSIM"), ("LPIPS (alex)", "LPIPS"))
_AT_256 = tuple(_reconstructed(metric, f"{title} 256", 256) for metric, title in _QUALITY)
_AT_512 = tuple(_reconstructed(metric, f"{title} 512", 512) for metric, title in _QUALITY)
_FROM_UCF101 = "17 frames at 256 pixels, 2,048 samples, Latte with rectified flow, 250K steps, 100 Euler steps, UCF101"

TABLES: dict[str, PublishedTable] = {
    table.name: table
    for table in (
        PublishedTable(
            "generation",
            "Generation on the latents of each tokenizer",
            f"{SOURCE}, table 1",
            "17 frames at 256 pixels, 2,048 samples, Latte with rectified flow, 250K steps, 100 Euler steps; "
            "training speed and memory at batch 4",
            (
                Column("latent"),
                *_UCF101,
                *_RE10K,
                Column("TSpeed it/s", better="higher"),
                Column("TMem GiB", better="lower"),
                Column("params M", digits=0),
            ),
            (
                ("CogVideoX", ("t4s8c16", 176.90, 16.47, 64.19, 94.12, 10.41, 0.76, 85.93, 216)),
                ("IV-VAE", ("t4s8c16", 175.74, 22.32, 64.51, 92.37, 8.35, 1.28, 88.34, 242)),
                ("WF-VAE-L", ("t4s8c16", 188.19, 33.01, 67.49, 107.26, 12.56, 2.52, 87.36, 317)),
                ("HunyuanVideo", ("t4s8c16", 210.30, 52.81, 66.40, 83.45, 13.23, 1.64, 87.36, 246)),
                ("Wan2.1", ("t4s8c16", 167.10, 11.54, 66.04, 83.84, 10.64, 1.88, 86.44, 127)),
                ("Wan2.2", ("t4s16c48", 180.79, 17.80, 67.32, 87.15, 10.11, 4.96, 30.90, 705)),
                ("SSVAE", ("t4s16c48", 168.68, 19.71, 66.39, 79.08, 8.79, 3.92, 34.00, 315)),
                ("PV-VAE", ("t4s16c64", 146.37, 14.52, 69.72, 72.50, 4.06, 4.40, 33.34, 661)),
            ),
        ),
        PublishedTable(
            "reconstruction",
            "Reconstruction of Kinetics-400 (validation)",
            f"{SOURCE}, table 2",
            "2,048 videos, first 17 frames; inference speed and memory at 256 pixels, batch 4",
            (
                *_AT_256,
                *_AT_512,
                Column("ISpeed it/s", better="higher"),
                Column("IMem GiB", better="lower"),
            ),
            (
                ("CogVideoX", (4.90, 33.78, 0.97, 0.027, 1.79, 36.00, 0.99, 0.024, 0.46, 13.64)),
                ("IV-VAE", (2.78, 34.08, 0.96, 0.019, 0.97, 37.24, 0.96, 0.016, 0.32, 5.39)),
                ("WF-VAE-L", (3.06, 33.48, 0.96, 0.023, 1.08, 35.93, 0.96, 0.023, 0.87, 5.00)),
                ("HunyuanVideo", (2.96, 34.30, 0.97, 0.016, 0.90, 37.13, 0.97, 0.015, 0.50, 22.00)),
                ("Wan2.1", (2.92, 33.21, 0.95, 0.018, 1.02, 36.15, 0.97, 0.017, 0.60, 6.77)),
                ("Wan2.2", (3.42, 33.78, 0.96, 0.015, 1.22, 36.75, 0.97, 0.015, 0.58, 9.36)),
                ("SSVAE", (7.50, 31.18, 0.96, 0.036, 2.16, 34.45, 0.97, 0.028, 0.64, 7.63)),
                ("PV-VAE", (3.45, 32.26, 0.95, 0.020, 1.88, 35.03, 0.97, 0.020, 0.69, 7.97)),
            ),
        ),
        PublishedTable(
            "probes",
            "Probes of the generator's features",
            f"{SOURCE}, table 3",
            "layer 14 of 28: flow on Sintel, next frame of Kinetics-400, tracking on TAP-Vid-DAVIS",
            (
                Column("flow EPE", better="lower", digits=4),
                Column("next-frame MSE", better="lower", digits=4),
                Column("tracking AUC %", better="higher"),
            ),
            (
                ("without predictive reconstruction", (5.9223, 0.0314, 70.95)),
                ("with predictive reconstruction", (5.1805, 0.0289, 76.99)),
            ),
        ),
        PublishedTable(
            "components",
            "What each part of the method brings",
            f"{SOURCE}, table 4",
            f"{_FROM_UCF101}; reconstruction of Kinetics-400 (validation) at 256 pixels",
            (_UCF101[0], *_AT_256),
            (
                ("baseline", (174.81, 3.03, 33.44, 0.96, 0.017)),
                ("+ predictive reconstruction", (156.33, 5.66, 31.47, 0.94, 0.026)),
                ("+ motion", (150.10, 5.79, 31.38, 0.94, 0.026)),
                ("+ decoder fine-tuning", (146.37, 3.45, 32.26, 0.95, 0.020)),
            ),
        ),
        PublishedTable(
            "dropping",
            "Maximum dropping ratio",
            f"{SOURCE}, table 5",
            _FROM_UCF101,
            _UCF101,
            (
                ("50 %", (159.82, 14.67, 69.35)),
                ("75 %", (154.06, 16.93, 70.27)),
                ("100 %", (146.37, 14.52, 69.72)),
            ),
        ),
        PublishedTable(
            "padding",
            "Padding of the dropped groups",
            f"{SOURCE}, table 6",
            _FROM_UCF101,
            _UCF101,
            (("gaussian", (150.68, 11.87, 68.01)), ("learnable", (146.37, 14.52, 69.72))),
        ),
        PublishedTable(
            "transformer",
            "The Transformer variant",
            f"{SOURCE}, table 7",
            f"{_FROM_UCF101}; reconstruction of Kinetics-400 (validation) at 256 pixels",
            (*_UCF101, *_AT_256, Column("ISpeed it/s", better="higher")),
            (("PV-VAE-T", (178.86, 20.66, 69.80, 4.03, 33.02, 0.95, 0.022, 1.29)),),
        ),
    )
}
