"""Pictures for the report, as text: animated clips and curves that need no network and no script."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np

OBSERVED, PREDICTED = (46, 160, 67), (227, 116, 0)
# Pixels of a picture's height, borders included: in so small a one every pixel shows, larger ones are photographs.
LOSSLESS = 52


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


def animation(clip: np.ndarray, fps: float = 8.0) -> str:
    """A looping animated WebP of uint8 `[N, H, W, 3 or 4]` as a data address; lossless up to `LOSSLESS` pixels high."""
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in clip)
    buffer = io.BytesIO()
    more = {"lossless": True} if clip.shape[1] <= LOSSLESS else {"quality": 80}
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, **more)
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

    def fits(y: float | None) -> bool:
        return y is not None and math.isfinite(y) and (y > 0 or not log_y)

    def scale(y: float) -> float:
        return math.log10(max(y, 1e-300)) if log_y else y

    series = {name: [(x, y) for x, y in points if fits(y)] for name, points in series.items()}
    xs = [x for points in series.values() for x, _ in points]
    if not xs:
        return "<p class=quiet>Nothing was logged.</p>"
    ys = [y for points in series.values() for _, y in points] + list(levels.values())
    ys += [edge for band in bands.values() for _, *edges in band for edge in edges]
    ys = [scale(y) for y in ys if fits(y)]
    width, height, left, bottom, top, right = 560, 260, 58, 40, 12, 26
    pad = 0.06 * (max(ys) - min(ys)) or 1.0
    low_x, high_x, low_y, high_y = min(0.0, *xs), max(xs), min(ys) - pad, max(ys) + pad

    def across(x: float) -> str:
        return f"{left + (x - low_x) / ((high_x - low_x) or 1) * (width - left - right):.1f}"

    def down(y: float) -> str:
        inside = min(max(scale(y), low_y), high_y)
        return f"{top + (high_y - inside) / (high_y - low_y) * (height - top - bottom):.1f}"

    def text(x: object, y: object, words: str, anchor: str, lower: int = 0) -> str:
        return f'<text x="{x}" y="{y}" dy="{lower}" text-anchor="{anchor}">{html.escape(words)}</text>'

    def rule(kind: str, y: str) -> str:
        return f'<line class="{kind}" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>'

    label = f"{html.escape(y_label)} against {html.escape(x_label)}"
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">']
    for y in log_ticks(10**low_y, 10**high_y) if log_y else ticks(low_y, high_y):
        parts += [rule("grid", down(y)), text(left - 6, down(y), f"{y:.4g}", "end", 4)]
    parts += [text(across(x), height - bottom, f"{x:,.6g}", "middle", 16) for x in ticks(low_x, high_x)]
    for name, y in levels.items():
        parts += [rule("level", down(y)), text(width - right - 4, down(y), name, "end", -4)]
    for number, (name, points) in enumerate(series.items()):
        colour, places = f"s{number % 4}", [(across(x), down(y)) for x, y in points]
        for x, low, high in bands.get(name, ()):
            ends = f"{across(x)},{down(low)} {across(x)},{down(high)}"
            parts.append(f'<polyline class="band {colour}" points="{ends}"/>')
        parts.append(f'<polyline class="line {colour}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
        if len(points) <= 20:
            parts += [f'<circle class="{colour}" r="3" cx="{x}" cy="{y}"/>' for x, y in places]
    parts.append(text((left + width - right) / 2, height - 6, x_label, "middle") + "</svg>")
    key = " ".join(f'<span class="key s{i % 4}">{html.escape(name)}</span>' for i, name in enumerate(series))
    caption = f"{html.escape(y_label)} {key if len(series) > 1 else ''}"
    return f"<figure>{''.join(parts)}<figcaption>{caption}</figcaption></figure>"


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
