"""Curves of the page, as text: SVG whose axes can be read on a phone and in the dark."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 48
NAMES, ROW = 150, 26  # of `dots`: where its axis begins, and the height of a row
COLOURS, DASHES = 8, 4
# So many points are marked one by one.
MARKED = 24
# Numbers beyond it, or below one over it on a logarithmic axis, are not drawn.
LARGEST = 1e30


class Axis:
    """One axis: numbers to places on the page, and its ticks.

    Args:
        values: What has to fit.
        start, stop: Places of its two ends.
        log: Logarithmic; numbers at or below 0 have no place.
        pad: Share of its length to leave free at both ends.
    """

    def __init__(self, values: Sequence[float], start: float, stop: float, *, log: bool = False, pad: float = 0.0):
        self.log, self.start, self.stop = log, start, stop
        scaled = [math.log10(value) if log else value for value in values]
        room = pad * (max(scaled) - min(scaled)) or (0.5 * pad * abs(max(scaled)) or 0.5 if pad else 0.0)
        self.low, self.high = min(scaled) - room, max(scaled) + room

    def at(self, value: float) -> float:
        """Its place, at an end where it lies beyond."""
        scaled = math.log10(max(value, 1e-300)) if self.log else value
        share = (scaled - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        """Round numbers on it."""
        return log_ticks(10**self.low, 10**self.high) if self.log else ticks(self.low, self.high)


def curve(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    levels: Mapping[str, float] | None = None,
    joined: bool = True,
    from_zero: bool = True,
    title: str = "",
) -> str:
    """A chart of lines, or of points.

    Args:
        series: Points (x, y) by name. Points that cannot be drawn are left out.
        x_label, y_label: With their units.
        log_y: A logarithmic vertical axis.
        bands: Intervals (x, low, high) by the name of a series.
        levels: Horizontal lines by name.
        joined: Draw lines; else points alone, each named beside it.
        from_zero: The horizontal axis begins at 0.
        title: Above it; default: `y_label`.
    """
    bands, levels = bands or {}, levels or {}

    def drawable(x: float | None, *ys: float | None) -> bool:
        known = all(value is not None and abs(value) < LARGEST for value in (x, *ys))
        return known and (not log_y or ys[-1] > 1 / LARGEST)

    series = {name: [point for point in points if drawable(*point)] for name, points in series.items()}
    xs = [x for points in series.values() for x, _ in points]
    if not xs:
        return f"<p class=quiet>{html.escape(title or y_label)}: nothing was logged.</p>"
    ys = [y for points in series.values() for _, y in points] + list(levels.values())
    ys += [edge for points in bands.values() for x, *edges in points for edge in edges if drawable(x, edge)]
    ys = [y for y in ys if drawable(1.0, y)]
    xs += [0.0] if from_zero and joined else []
    across = Axis(xs, LEFT, WIDTH - RIGHT, pad=0.0 if joined else 0.1)
    down = Axis(ys, HEIGHT - BOTTOM, TOP, log=log_y, pad=0.06)

    parts = [_grid(across, down, x_label, y_label)]
    for name, y in levels.items():
        if drawable(1.0, y):
            parts += [_rule("level", down.at(y)), _text(WIDTH - RIGHT, down.at(y) - 5, name, "end")]
    for number, (name, points) in enumerate(series.items()):
        drawn = [(x, *edges) for x, *edges in bands.get(name, ()) if drawable(x, *edges)]
        parts.append(_series(number, name, points, drawn, across, down, joined))
    label = f"{y_label} against {x_label}. {_in_words(series)}"
    title = html.escape(title or y_label)
    return (
        f'<figure class="chart"><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>{_legend(series) if joined else ""}</figure>'
    )


def dots(
    rows: Mapping[str, Sequence[float]],
    means: Mapping[str, tuple[float, float | None, float | None]],
    *,
    x_label: str,
    title: str,
    level: tuple[str, float] | None = None,
) -> str:
    """A chart with a row for each name: its numbers as points, their mean as a diamond on its interval.

    Args:
        rows: Numbers by name, from top to bottom; a name without any keeps an empty row.
        means: (mean, low, high) by name.
        x_label: With its unit.
        title: Above it.
        level: Name and place of a vertical line.
    """
    ends = [end for name in rows for end in means.get(name, ()) if end is not None]
    values = [*(value for numbers in rows.values() for value in numbers), *ends, *([level[1]] if level else [])]
    if not ends:
        return f"<p class=quiet>{html.escape(title)}: nothing was measured.</p>"
    across = Axis(values, NAMES, WIDTH - RIGHT, pad=0.05)
    base, parts = TOP + 12 + ROW * len(rows), []
    for x in across.ticks():
        parts.append(f'<line class="grid" x1="{across.at(x)}" x2="{across.at(x)}" y1="{TOP + 12}" y2="{base}"/>')
        parts.append(_text(across.at(x), base + 18, short(x), "middle"))
    if level:
        x = across.at(level[1])
        parts.append(f'<line class="level" x1="{x}" x2="{x}" y1="{TOP + 12}" y2="{base}"/>')
        parts.append(_text(x, TOP + 5, level[0], "middle"))
    for number, (name, numbers) in enumerate(rows.items()):
        y = TOP + 12 + ROW * (number + 0.5)
        parts.append(_text(NAMES - 9, y + 4, name, "end", "name"))
        points = [f'<circle class="seed" cx="{across.at(x)}" cy="{y}" r="2.6"/>' for x in numbers]
        if name in means:
            mean, low, high = means[name]
            if None not in (low, high):
                points.append(f'<line class="band" x1="{across.at(low)}" x2="{across.at(high)}" y1="{y}" y2="{y}"/>')
            words = html.escape(f"{name}: {in_words(means[name])}")
            points.append(f'<path class="mark" d="{_mark(2, across.at(mean), y)}"><title>{words}</title></path>')
        parts.append(f'<g class="s0">{"".join(points)}</g>')
    parts.append(f'<line class="axis" x1="{NAMES}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(_text((NAMES + WIDTH - RIGHT) / 2, base + 38, x_label, "middle", "name"))
    label = f"{title}, {x_label}. " + "; ".join(f"{name}: {in_words(means[name])}" for name in rows if name in means)
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {base + 46:g}" '
        f'role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg></figure>'
    )


def in_words(mean: tuple[float, float | None, float | None]) -> str:
    """A mean and its interval."""
    value, low, high = mean
    return short(value) if None in (low, high) else f"{short(value)} ({short(low)} to {short(high)})"


def _grid(across: Axis, down: Axis, x_label: str, y_label: str) -> str:
    base, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for y in down.ticks():
        parts += [_rule("grid", down.at(y)), _text(LEFT - 7, down.at(y) + 4, short(y), "end")]
    for x in across.ticks():
        parts.append(f'<line class="axis" x1="{across.at(x)}" x2="{across.at(x)}" y1="{base}" y2="{base + 4}"/>')
        parts.append(_text(across.at(x), base + 18, short(x), "middle"))
    parts.append(_rule("axis", base))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle", "name"))
    upright = f' transform="rotate(-90 12 {middle})"'
    parts.append(f'<text class="name" x="12" y="{middle}" text-anchor="middle"{upright}>{html.escape(y_label)}</text>')
    return "".join(parts)


def _series(number: int, name: str, points, bands, across: Axis, down: Axis, joined: bool) -> str:
    colour, dash = f"s{number % COLOURS}", f"d{number % DASHES}"
    places = [(across.at(x), down.at(y)) for x, y in points]
    parts = []
    if joined and len(bands) > 1:
        edges = [(across.at(x), down.at(high)) for x, _, high in bands]
        edges += [(across.at(x), down.at(low)) for x, low, _ in reversed(bands)]
        parts.append(f'<polygon class="area" points="{_joined(edges)}"/>')
    for x, low, high in bands if not joined or len(bands) == 1 else ():
        x = across.at(x)
        parts.append(f'<line class="band" x1="{x}" x2="{x}" y1="{down.at(low)}" y2="{down.at(high)}"/>')
    if joined:
        parts.append(f'<polyline class="line {dash}" points="{_joined(places)}"/>')
    if not joined or len(points) <= MARKED:
        for (x, y), (left, top) in zip(points, places, strict=True):
            words = html.escape(f"{name}: {short(x)}, {short(y)}")
            parts.append(f'<path class="mark" d="{_mark(number, left, top)}"><title>{words}</title></path>')
    if not joined and places:
        x, y = places[-1]
        right = x > (LEFT + WIDTH - RIGHT) / 2
        parts.append(_text(x - 8 if right else x + 8, y - 7, name, "end" if right else "start", "name"))
    return f'<g class="{colour}">{"".join(parts)}</g>'


def _mark(number: int, x: float, y: float) -> str:
    """A disc, square, diamond or triangle, so that series differ by more than colour."""
    disc = f"M{x - 3.4:.1f} {y}a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0z"
    square = f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z"
    diamond = f"M{x} {y - 4.4:.1f}l4.4 4.4l-4.4 4.4l-4.4 -4.4z"
    triangle = f"M{x} {y - 4.2:.1f}l4.2 7.4h-8.4z"
    return (disc, square, diamond, triangle)[number % 4]


def _legend(series: Mapping[str, Sequence]) -> str:
    if len(series) < 2:
        return ""
    keys = (
        f'<li><svg class="s{i % COLOURS}" viewBox="0 0 30 12" aria-hidden="true"><line class="line d{i % DASHES}" x1="0" x2="30" '
        f'y1="6" y2="6"/><path class="mark" d="{_mark(i, 15, 6)}"/></svg>{html.escape(name)}</li>'
        for i, name in enumerate(series)
    )
    return f'<ul class="legend">{"".join(keys)}</ul>'


def _in_words(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """What a curve says, for who does not see it: where each line begins and ends."""
    words = []
    for name, points in series.items():
        if len(points) == 1:
            words.append(f"{name}: {short(points[0][1])} at {short(points[0][0])}")
        elif points:
            (x0, y0), (x1, y1) = points[0], points[-1]
            words.append(f"{name}: from {short(y0)} at {short(x0)} to {short(y1)} at {short(x1)}")
    return "; ".join(words)


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _rule(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def short(value: float) -> str:
    """A number as beside a tick: 4 digits, thousands with commas, and powers of ten for what is very small or large."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) in [low, high], about five of them."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * 5 >= (high - low) * 0.999)
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
