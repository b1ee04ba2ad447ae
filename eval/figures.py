"""Small line charts as inline SVG, and clips as animated pictures, for a page that needs nothing but itself.

Charts take their colours from the page (`currentColor`, `--series-1` …), so one drawing serves light and dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from runtime.errors import InputError

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 14, 40
MAX_POINTS = 240
# Clips up to this many pixels a side are stored without loss; larger ones would make the page too heavy.
LOSSLESS_SIZE = 64


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: For the legend.
        x, y: Points, in the order of x; a y that is None or not finite leaves a gap.
        low, high: A band around the line (an interval at each point), or empty.
        points: Mark every point, for curves of few of them.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    points: bool = False


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str = "", log_y: bool = False,
               lines: Sequence[tuple[str, float]] = ()) -> str:
    """A figure with legend, as HTML.

    Args:
        series: Lines; those without a finite point are left out.
        log_y: Logarithmic y axis; points at or below zero are left out.
        lines: Named horizontal levels, drawn dashed.

    Returns:
        A `<figure>` element; "" when there is nothing to draw.
    """
    drawn = [(item, _points(item, log_y)) for item in series]
    drawn = [(item, points) for item, points in drawn if points]
    if not drawn:
        return ""
    levels = [(name, value) for name, value in lines if _drawable(value, log_y)]
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points] + [value for _, value in levels]
    for item, _ in drawn:
        ys += [value for value in (*item.low, *item.high) if _drawable(value, log_y)]
    place = _Axes(min(xs), max(xs), min(ys), max(ys), log_y)
    parts = [place.grid(x_label, y_label)]
    for number, (item, points) in enumerate(drawn, 1):
        colour = f"var(--series-{(number - 1) % 5 + 1})"
        parts.append(_band(item, place, log_y, colour))
        path = " ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
        if item.points or len(points) == 1:
            parts += [f'<circle cx="{place.x(x):.1f}" cy="{place.y(y):.1f}" r="3.2" fill="{colour}"/>' for x, y in points]
    for _, value in levels:
        y = place.y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="level"/>')
    legend = [f'<span><i style="background:var(--series-{(n - 1) % 5 + 1})"></i>{escape(item.name)}</span>'
              for n, (item, _) in enumerate(drawn, 1)]
    legend += [f'<span><i class="dashed"></i>{escape(name)}: {_number(value)}</span>' for name, value in levels]
    return (f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
            f'<div class="legend">{"".join(legend)}</div></figure>')


class _Axes:
    """Where values lie on the drawing."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float, log_y: bool):
        self.log_y = log_y
        self.x_low, self.x_high = x_low, x_high if x_high > x_low else x_low + 1.0
        low, high = (math.log10(y_low), math.log10(y_high)) if log_y else (y_low, y_high)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
        self.y_low, self.y_high = low - room, high + room

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        value = math.log10(value) if self.log_y else value
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y_low) / (self.y_high - self.y_low)

    def y_ticks(self) -> list[float]:
        if not self.log_y:
            return ticks(self.y_low, self.y_high)
        decades = range(math.floor(self.y_low), math.ceil(self.y_high) + 1)
        found = [m * 10.0**d for d in decades for m in (1, 2, 5) if self.y_low <= math.log10(m * 10.0**d) <= self.y_high]
        whole = [value for value in found if math.isclose(math.log10(value) % 1, 0, abs_tol=1e-9)]
        return whole if len(whole) >= 3 else found or ticks(10**self.y_low, 10**self.y_high)

    def grid(self, x_label: str, y_label: str) -> str:
        parts = []
        for value in self.y_ticks():
            y = self.y(value)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
                         f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
        for value in ticks(self.x_low, self.x_high):
            parts.append(f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_number(value)}</text>')
        parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
        if y_label:
            middle = (TOP + HEIGHT - BOTTOM) / 2
            parts.append(f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
        return "".join(parts)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) in [low, high], about `wanted` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """Running mean over the last `window` values that are there; noisy training losses are unreadable without."""
    out: list[float | None] = []
    for i in range(len(values)):
        part = [v for v in values[max(0, i - window + 1) : i + 1] if v is not None and math.isfinite(v)]
        out.append(sum(part) / len(part) if part else None)
    return out


def _drawable(value: float | None, log_y: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log_y)


def _points(series: Series, log_y: bool) -> list[tuple[float, float]]:
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None and _drawable(y, log_y)]
    if len(points) <= MAX_POINTS:
        return points
    kept = np.unique(np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int))
    return [points[i] for i in kept]


def _band(series: Series, place: _Axes, log_y: bool, colour: str) -> str:
    if not series.low or not series.high:
        return ""
    whole = [(x, low, high) for x, low, high in zip(series.x, series.low, series.high, strict=True)
             if _drawable(low, log_y) and _drawable(high, log_y)]
    edge = [(x, high) for x, _, high in whole] + [(x, low) for x, low, _ in reversed(whole)]
    return f'<polygon points="{" ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in edge)}" fill="{colour}" opacity=".18"/>'


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def animated_uri(video: np.ndarray, milliseconds: int = 125, hold: int = 700) -> str:
    """A clip as an endlessly playing WebP in a data URI.

    Args:
        video: uint8 `[N, H, W, 3 or 4]`.
        milliseconds: How long a frame shows.
        hold: How long the last one does, so that the eye finds the end.
    """
    from PIL import Image, features

    if not features.check("webp"):
        raise InputError("Pillow has no WebP here; install Pillow from its wheels (pip install --force-reinstall pillow)")
    frames = [Image.fromarray(np.ascontiguousarray(frame)) for frame in video]
    small = max(video.shape[1:3]) <= LOSSLESS_SIZE * 4
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], loop=0, lossless=small, quality=85, method=4,
                   duration=[milliseconds] * (len(frames) - 1) + [hold], minimize_size=small)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def framed(video: np.ndarray, colours: Sequence[tuple[int, int, int] | None], border: int) -> np.ndarray:
    """Put a border around every frame: uint8 `[N, H, W, 3]` -> RGBA `[N, H + 2b, W + 2b, 4]`; colour None is transparent."""
    frames, height, width, _ = video.shape
    out = np.zeros((frames, height + 2 * border, width + 2 * border, 4), dtype=np.uint8)
    for frame, colour in enumerate(colours):
        if colour is not None:
            out[frame] = (*colour, 255)
    inside = (slice(None), slice(border, border + height), slice(border, border + width))
    out[(*inside, slice(0, 3))], out[(*inside, 3)] = video, 255
    return out
