"""Pictures for the report, as text: animated clips and curves that need no network and no script."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np

OBSERVED, PREDICTED = (46, 160, 67), (227, 116, 0)


def bordered(clip: np.ndarray, observed: int, width: int = 2) -> np.ndarray:
    """Frame uint8 `[N, H, W, 3]`: green around the first `observed` frames, orange around the predicted rest."""
    out = np.pad(clip, ((0, 0), (width, width), (width, width), (0, 0)))
    for colour, frames in ((OBSERVED, out[:observed]), (PREDICTED, out[observed:])):
        for edge in (frames[:, :width], frames[:, -width:], frames[:, :, :width], frames[:, :, -width:]):
            edge[...] = colour
    return out


def side_by_side(clips: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Clips uint8 `[N, H, W, 3]` of any heights next to each other, centred: RGBA, with transparent gaps."""
    height = max(clip.shape[1] for clip in clips)
    width = sum(clip.shape[2] for clip in clips) + gap * (len(clips) - 1)
    out = np.zeros((len(clips[0]), height, width, 4), dtype=np.uint8)
    left = 0
    for clip in clips:
        top = (height - clip.shape[1]) // 2
        place = out[:, top : top + clip.shape[1], left : left + clip.shape[2]]
        place[..., :3], place[..., 3] = clip, 255
        left += clip.shape[2] + gap
    return out


def animation(clip: np.ndarray, fps: float = 8.0, quality: int | None = None) -> str:
    """A looping animated WebP of uint8 `[N, H, W, 3 or 4]` as a data address; lossless unless `quality` is given."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in clip]
    buffer = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality}
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, **options
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def curve(
    series: dict[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    bands: dict[str, Sequence[tuple[float, float, float]]] | None = None,
    levels: dict[str, float] | None = None,
) -> str:
    """An SVG line chart.

    Args:
        series: Points (x, y) by name.
        bands: Intervals (x, low, high) by the name of a series.
        levels: Horizontal lines by name.
        log_y: Logarithmic vertical axis; points at or below 0 are left out.
    """
    bands, levels = bands or {}, levels or {}
    series = {
        name: [(x, y) for x, y in points if y is not None and math.isfinite(y) and (y > 0 or not log_y)]
        for name, points in series.items()
    }
    ys = [y for points in series.values() for _, y in points] + list(levels.values())
    ys += [edge for band in bands.values() for _, low, high in band for edge in (low, high) if edge > 0 or not log_y]
    xs = [x for points in series.values() for x, _ in points]
    if not xs:
        return "<p class=quiet>Nothing was logged.</p>"
    width, height, left, bottom, top, right = 560, 260, 58, 40, 12, 26
    scale = math.log10 if log_y else float
    low_y, high_y = scale(min(ys)), scale(max(ys))
    pad = 0.06 * (high_y - low_y) or 1.0
    low_y, high_y, low_x, high_x = low_y - pad, high_y + pad, min(0.0, *xs), max(xs)

    def place(x: float, y: float) -> str:
        across = left + (x - low_x) / ((high_x - low_x) or 1) * (width - left - right)
        down = top + (high_y - min(max(scale(y), low_y), high_y)) / (high_y - low_y) * (height - top - bottom)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(y_label)} against {html.escape(x_label)}">'
    ]
    for value in log_ticks(10**low_y, 10**high_y) if log_y else ticks(low_y, high_y):
        y = float(place(low_x, value).split(",")[1])
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for value in ticks(low_x, high_x):
        x = float(place(value, 10**low_y if log_y else low_y).split(",")[0])
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{value:,.6g}</text>')
    for name, value in levels.items():
        y = place(low_x, value).split(",")[1]
        parts.append(
            f'<line class="level" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>'
            f'<text x="{width - right - 4}" y="{float(y) - 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
        )
    for number, (name, points) in enumerate(series.items()):
        for x, low, high in bands.get(name, ()):
            floor = 10**low_y if log_y else low_y
            parts.append(
                f'<polyline class="band s{number % 4}" points="{place(x, max(low, floor))} {place(x, high)}"/>'
            )
        parts.append(f'<polyline class="line s{number % 4}" points="{" ".join(place(x, y) for x, y in points)}"/>')
        if len(points) <= 20:
            parts += [
                f'<circle class="s{number % 4}" r="3" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}"/>'
                for p in (place(x, y) for x, y in points)
            ]
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text></svg>'
    )
    key = " ".join(f'<span class="key s{i % 4}">{html.escape(name)}</span>' for i, name in enumerate(series))
    return f"<figure>{''.join(parts)}<figcaption>{html.escape(y_label)} {key if len(series) > 1 else ''}</figcaption></figure>"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) in [low, high], about `wanted` of them."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / wanted))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * wanted >= (high - low) * 0.999)
    return [
        round(number * step, 12) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; where they are few, also 2 and 5 times them; within one step, `ticks`."""
    powers = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    whole = [value for value in powers if low <= value <= high]
    finer = [m * value for value in powers for m in (1, 2, 5) if low <= m * value <= high]
    return whole if len(whole) > 2 else finer if len(finer) > 1 else ticks(low, high)


def smoothed(points: Sequence[tuple[float, float]], count: int = 150) -> list[tuple[float, float]]:
    """At most `count` means of consecutive points, so that a long log stays a small picture."""
    points = [point for point in points if point[1] is not None and math.isfinite(point[1])]
    if len(points) <= count:
        return list(points)
    parts = np.array_split(np.array(points, dtype=float), count)
    return [tuple(part.mean(0)) for part in parts]
