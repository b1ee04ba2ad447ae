"""Clips of the page: each a picture of all its frames, of which the page's script draws one at a time.

So they play in step, pause and scrub by single frames in any browser, need no codec, and lie side by side whole where
no script runs.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FPS = 8  # frames a second
# Pixels of a frame's height: of so small a one every pixel shows; larger ones are photographs.
LOSSLESS = 64
# A WebP has at most 16,383 pixels a side.
_SIDE = 16_000


@dataclass(frozen=True)
class Clip:
    """A clip to play.

    Attributes:
        frames: uint8 `[N, H, W, 3]`.
        caption: Below it.
        text: What is seen, for who does not see it; default: row, column and caption.
        observed: Of a prediction, the frames that it has seen: they are framed green, the later ones orange.
    """

    frames: np.ndarray
    caption: str = ""
    text: str = ""
    observed: int | None = None


def clip_grid(clips: Sequence[Clip]) -> str:
    """Clips that play in step below one row of controls, as many beside each other as fit."""
    return _player(f'<div class="clips">{"".join(_figure(clip) for clip in clips)}</div>')


def clip_table(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Clip | None]]], *, name: str = "clips"
) -> str:
    """Clips that play in step, in rows and columns: what several tokenizers make of the same clips, below each other.

    Args:
        columns: Above each column: the clips.
        rows: The name of each row, such as a tokenizer's, and its clips, one a column; None: an empty place.
        name: Of the table, for who does not see it.
    """
    head = "".join(f"<th scope=col>{html.escape(column)}</th>" for column in columns)
    body = []
    for words, clips in rows:
        pairs = zip(columns, clips, strict=True)
        places = "".join(f"<td>{_figure(clip, words, column) if clip else ''}</td>" for column, clip in pairs)
        body.append(f"<tr><th scope=row>{html.escape(words)}</th>{places}</tr>")
    table = (
        f'<table class="rows" style="--columns: {len(columns)}"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )
    return _player(f'<div class="wide" role="region" aria-label="{html.escape(name)}">{table}</div>')


def picture(pixels: np.ndarray, text: str, caption: str = "") -> str:
    """A still picture uint8 `[H, W, 3]`, such as a strip of frames: as wide as the page where that is legible, else it
    scrolls in a box of its own."""
    height, width = pixels.shape[:2]
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="picture"><div class="wide" role="region" aria-label="{html.escape(text)}"><img '
        f'src="{_address(pixels, height)}" width="{width}" height="{height}" alt="{html.escape(text)}"></div>'
        f"{below}</figure>"
    )


def _player(inside: str) -> str:
    return f'<div class="player" data-fps="{FPS}">{inside}</div>'


def _figure(clip: Clip, *place: str) -> str:
    count, height, width = clip.frames.shape[:3]
    columns = max(1, min(math.ceil(math.sqrt(count)), _SIDE // width))
    seen = "" if clip.observed is None else f' data-observed="{clip.observed}"'
    pixels = " pixels" if height <= LOSSLESS else ""
    below = f"<figcaption>{html.escape(clip.caption)}</figcaption>" if clip.caption else ""
    text = clip.text or ", ".join(filter(None, [*place, clip.caption]))
    return (
        f'<figure class="clip{pixels}"><img src="{_address(sheet(clip.frames, columns), height)}" '
        f'alt="{html.escape(text)}" data-frames="{count}" data-columns="{columns}"{seen}>{below}</figure>'
    )


def sheet(frames: np.ndarray, columns: int) -> np.ndarray:
    """Frames uint8 `[N, H, W, 3]` in rows of `columns`, from left to right: `[rows * H, columns * W, 3]`."""
    count, height, width, channels = frames.shape
    rows = -(-count // columns)
    out = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    out[:count] = frames
    grid = out.reshape(rows, columns, height, width, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def _address(pixels: np.ndarray, height: int) -> str:
    """A WebP as a data address; lossless where frames are up to `LOSSLESS` pixels high."""
    from PIL import Image

    buffer = io.BytesIO()
    more = {"lossless": True} if height <= LOSSLESS else {"quality": 80}
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", **more)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
