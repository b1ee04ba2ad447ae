"""The published tables as data: what others measured, to stand beside what is measured here.

All numbers are those of PV-VAE (arXiv 2605.02134v1), which measured every row itself. "UCF101 FVD" and the like are of
generators trained on the tokenizer's latents; speeds and memory are of one machine, which the paper does not name.
"""

from __future__ import annotations

from eval.results.tables import PUBLISHED, SPEED, Cell, Column, Line, Table

SOURCE = "arXiv 2605.02134v1"


def _reconstructed(size: int) -> tuple[Column, ...]:
    """Quality of Kinetics-400 through a tokenizer, at so many pixels."""
    metrics = (("rFVD", "rFVD", 2), ("PSNR", "PSNR", 2), ("SSIM", "SSIM", 2), ("LPIPS (alex)", "LPIPS", 3))
    return tuple(
        Column(f"{title} {size}", metric, "reconstructed", "kinetics400", size, digits=digits)
        for metric, title, digits in metrics
    )


_UCF101 = tuple(Column(f"UCF101 {metric}", metric, data="ucf101") for metric in ("FVD", "KVD", "IS"))
_RE10K = tuple(Column(f"RE10K {metric}", metric, data="realestate10k") for metric in ("FVD", "KVD"))
_AT_256, _AT_512 = _reconstructed(256), _reconstructed(512)
_TRAINING = (
    Column("TSpeed it/s", "TSpeed (tokenizer inside)", SPEED, better="higher"),
    Column("TMem GiB", "TMem (tokenizer inside)", SPEED, better="lower"),
)
_INFERENCE = (
    Column("ISpeed it/s", "ISpeed", SPEED, better="higher"),
    Column("IMem GiB", "IMem", SPEED, better="lower"),
)
_TOKENS = "generator, 10 % noise"
_PROBES = (
    Column("flow EPE", "EPE", _TOKENS, "sintel", digits=4),
    Column("next-frame MSE", "next-frame MSE", _TOKENS, "kinetics400", digits=4),
    Column("tracking AUC %", "tracking AUC", _TOKENS, "tapvid_davis"),
)
_SAMPLES = "17 frames at 256 pixels, 2,048 samples, Latte with rectified flow, 250K steps, 100 Euler steps"
_KINETICS = "reconstruction of Kinetics-400 (validation) at 256 pixels"

# In the paper's order: name, title, protocol, columns, and values by the name of a line.
_ALL = (
    (
        "generation",
        "Generation on the latents of each tokenizer",
        f"{_SAMPLES}; training speed and memory at batch 4",
        (Column("latent"), *_UCF101, *_RE10K, *_TRAINING, Column("params M", "parameters", SPEED, digits=0)),
        {
            "CogVideoX": ("t4s8c16", 176.90, 16.47, 64.19, 94.12, 10.41, 0.76, 85.93, 216),
            "IV-VAE": ("t4s8c16", 175.74, 22.32, 64.51, 92.37, 8.35, 1.28, 88.34, 242),
            "WF-VAE-L": ("t4s8c16", 188.19, 33.01, 67.49, 107.26, 12.56, 2.52, 87.36, 317),
            "HunyuanVideo": ("t4s8c16", 210.30, 52.81, 66.40, 83.45, 13.23, 1.64, 87.36, 246),
            "Wan2.1": ("t4s8c16", 167.10, 11.54, 66.04, 83.84, 10.64, 1.88, 86.44, 127),
            "Wan2.2": ("t4s16c48", 180.79, 17.80, 67.32, 87.15, 10.11, 4.96, 30.90, 705),
            "SSVAE": ("t4s16c48", 168.68, 19.71, 66.39, 79.08, 8.79, 3.92, 34.00, 315),
            "PV-VAE": ("t4s16c64", 146.37, 14.52, 69.72, 72.50, 4.06, 4.40, 33.34, 661),
        },
    ),
    (
        "reconstruction",
        "Reconstruction of Kinetics-400 (validation)",
        "2,048 videos, first 17 frames; inference speed and memory at 256 pixels, batch 4",
        (*_AT_256, *_AT_512, *_INFERENCE),
        {
            "CogVideoX": (4.90, 33.78, 0.97, 0.027, 1.79, 36.00, 0.99, 0.024, 0.46, 13.64),
            "IV-VAE": (2.78, 34.08, 0.96, 0.019, 0.97, 37.24, 0.96, 0.016, 0.32, 5.39),
            "WF-VAE-L": (3.06, 33.48, 0.96, 0.023, 1.08, 35.93, 0.96, 0.023, 0.87, 5.00),
            "HunyuanVideo": (2.96, 34.30, 0.97, 0.016, 0.90, 37.13, 0.97, 0.015, 0.50, 22.00),
            "Wan2.1": (2.92, 33.21, 0.95, 0.018, 1.02, 36.15, 0.97, 0.017, 0.60, 6.77),
            "Wan2.2": (3.42, 33.78, 0.96, 0.015, 1.22, 36.75, 0.97, 0.015, 0.58, 9.36),
            "SSVAE": (7.50, 31.18, 0.96, 0.036, 2.16, 34.45, 0.97, 0.028, 0.64, 7.63),
            "PV-VAE": (3.45, 32.26, 0.95, 0.020, 1.88, 35.03, 0.97, 0.020, 0.69, 7.97),
        },
    ),
    (
        "probes",
        "Probes of the generator's features",
        "layer 14 of 28: flow on Sintel, next frame of Kinetics-400, tracking on TAP-Vid-DAVIS",
        _PROBES,
        {
            "without predictive reconstruction": (5.9223, 0.0314, 70.95),
            "with predictive reconstruction": (5.1805, 0.0289, 76.99),
        },
    ),
    (
        "components",
        "What each part of the method brings",
        f"{_SAMPLES}, UCF101; {_KINETICS}",
        (_UCF101[0], *_AT_256),
        {
            "baseline": (174.81, 3.03, 33.44, 0.96, 0.017),
            "+ predictive reconstruction": (156.33, 5.66, 31.47, 0.94, 0.026),
            "+ motion": (150.10, 5.79, 31.38, 0.94, 0.026),
            "+ decoder fine-tuning": (146.37, 3.45, 32.26, 0.95, 0.020),
        },
    ),
    (
        "dropping",
        "Maximum dropping ratio",
        f"{_SAMPLES}, UCF101",
        _UCF101,
        {"50 %": (159.82, 14.67, 69.35), "75 %": (154.06, 16.93, 70.27), "100 %": (146.37, 14.52, 69.72)},
    ),
    (
        "padding",
        "Padding of the dropped groups",
        f"{_SAMPLES}, UCF101",
        _UCF101,
        {"gaussian": (150.68, 11.87, 68.01), "learnable": (146.37, 14.52, 69.72)},
    ),
    (
        "transformer",
        "The Transformer variant",
        f"{_SAMPLES}, UCF101; {_KINETICS}",
        (*_UCF101, *_AT_256, _INFERENCE[0]),
        {"PV-VAE-T": (178.86, 20.66, 69.80, 4.03, 33.02, 0.95, 0.022, 1.29)},
    ),
)


def _table(number: int, name: str, title: str, protocol: str, columns: tuple[Column, ...], lines: dict) -> Table:
    made = []
    for who, values in lines.items():
        cells = {c.title: Cell(value, digits=c.digits) for c, value in zip(columns, values, strict=True)}
        made.append(Line(who, PUBLISHED, f"{SOURCE}, table {number}", cells))
    return Table(name, title, protocol, columns, made)


TABLES = {table[0]: _table(number, *table) for number, table in enumerate(_ALL, 1)}
