"""Points followed by features alone: the place in every later frame that is most like where the point was first seen.

Nothing is trained. Features of groups are interpolated in time, and those of cells in space (as DIFT, arXiv 2306.03881,
matches images); likeness is the cosine. Of equally similar places the one nearest to where the point
was first seen is taken, so that features that know nothing answer that nothing moves.

Errors are those of the points visible in a frame after the one where they are first seen, in pixels of a 256 x 256
picture, whatever the clip's size, as TAP-Vid (arXiv 2211.03726) has them. On small clips ten of these are a fraction of
a latent cell, so there is a second area, in the clip's own pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eval.metrics.motion import accuracy_within, tracking_scores

OWN_PIXELS = "tracking AUC, own pixels"
RASTER = 256
_TIE = 1e-5  # difference of cosines below which two places are equally similar


def group_times(groups: int, temporal: int) -> np.ndarray:
    """The middle of each group's frames: 0, then (1 + temporal) / 2 and on by `temporal`; float64 `[groups]`."""
    middles = (1 + temporal) / 2 + temporal * np.arange(groups - 1)
    return np.concatenate([[0.0], middles])


def features_at(features: Tensor, frame: float, times: np.ndarray) -> Tensor:
    """Features `[D, h, w]` of a frame, between those of the two nearest groups of `[D, G, h, w]`."""
    place = float(np.interp(frame, times, np.arange(len(times))))
    low = min(int(place), len(times) - 1)
    high = min(low + 1, len(times) - 1)
    return torch.lerp(features[:, low], features[:, high], place - low)


def first_seen(visible: np.ndarray) -> np.ndarray:
    """The frame in which each point is first visible, int64 `[P]`; -1 where it never is."""
    return np.where(visible.any(1), visible.argmax(1), -1)


def judged(visible: np.ndarray) -> np.ndarray:
    """Which points count in which frames, bool `[P, N]`: visible, after the frame where they are first seen."""
    return visible & (np.arange(visible.shape[1])[None] > first_seen(visible)[:, None]) & visible.any(1)[:, None]


def finer(size: tuple[int, int]) -> tuple[int, int]:
    """The grid on which places are looked for: that of pixels, or an odd number of places a pixel where pictures are
    small, so that it is no coarser than 3 pixels of the raster."""
    factor = -(-RASTER // (3 * min(size)))
    factor += 1 - factor % 2
    return size[0] * factor, size[1] * factor


def sample(features: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Features `[P, D]` at points `[P, 2]` (x, y in pixels of `size`) of cells `[D, h, w]`, bilinear."""
    ends = torch.tensor(size[::-1], dtype=torch.float32, device=points.device)
    grid = (2 * points + 1) / ends - 1
    return F.grid_sample(features[None], grid[None, None], align_corners=False, padding_mode="border")[0, :, 0].T


def enlarge(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """`[D, h, w]` to `[D, H, W]`, bilinear, as `sample` sees them."""
    return F.interpolate(cells[None], size=size, mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def follow(features: Tensor, tracks: np.ndarray, visible: np.ndarray, size: tuple[int, int], temporal: int):
    """Where the features say that points are: float64 `[P, N, 2]`, (x, y) in pixels of the clip.

    Args:
        features: `[D, G, h, w]`.
        tracks: `[P, N, 2]`; only the place where a point is first seen is looked at.
        visible: `[P, N]`.
        size: (H, W) of the clip.
    """
    start, times = first_seen(visible), group_times(features.shape[1], temporal)
    queries = tracks[np.arange(len(tracks)), np.maximum(start, 0)].astype(np.float64)
    answer = np.repeat(queries[:, None], tracks.shape[1], 1)
    places = torch.tensor(queries, dtype=torch.float32, device=features.device)
    wanted = torch.zeros(len(tracks), features.shape[0], device=features.device)
    for frame in np.unique(start[start >= 0]):
        those = torch.from_numpy(np.flatnonzero(start == frame)).to(features.device)
        wanted[those] = sample(features_at(features, frame, times), places[those], size)
    wanted = F.normalize(wanted, dim=1)
    grid = finer(size)
    rows, columns = (
        (torch.arange(n, device=features.device, dtype=torch.float32) + 0.5) * whole / n - 0.5
        for n, whole in zip(grid, size, strict=True)
    )
    far = (rows[None, :, None] - places[:, 1, None, None]) ** 2 + (columns[None, None] - places[:, 0, None, None]) ** 2
    counted = judged(visible)
    for frame in np.flatnonzero(counted.any(0)):
        cells = features_at(features, frame, times)
        those = torch.from_numpy(np.flatnonzero(counted[:, frame])).to(features.device)
        # Both are linear in the cells, so that only lengths need all channels on the grid.
        length = enlarge(cells, grid).norm(dim=0).clamp_min(1e-12)
        likeness = enlarge(torch.einsum("pd,dhw->phw", wanted[those], cells), grid) / length
        most = likeness.flatten(1).amax(1)
        nearest = torch.where(likeness >= most[:, None, None] - _TIE, far[those], torch.inf).flatten(1).argmin(1)
        found = torch.stack([columns[nearest % grid[1]], rows[nearest // grid[1]]], 1)
        stays = (F.normalize(sample(cells, places[those], size), dim=1) * wanted[those]).sum(1) >= most - _TIE
        found = torch.where(stays[:, None], places[those], found)
        answer[those.cpu().numpy(), frame] = found.double().cpu().numpy()
    return answer


class Tracks:
    """The points of clips, to judge by."""

    metrics, trivial_answer, is_trained = ("tracking AUC", "tracking delta", OWN_PIXELS), "no motion", False

    @staticmethod
    def part(item: dict, observed: int) -> dict:
        """Points `[P, 1+T, 2]` of a clip, where they are visible, `[P, 1+T]`, and (H, W)."""
        return {"tracks": item["tracks"], "visible": item["visible"], "size": item["video"].shape[-2:]}

    def __init__(self, items: Sequence[dict], temporal: int):
        """Args:
        items: What `part` keeps of each clip.
        temporal: Frames of a group.
        """
        self.temporal, self.items = temporal, [(item["tracks"], item["visible"]) for item in items]
        self.size: tuple[int, int] = items[0]["size"]

    def sums(self, values: Tensor, places: list[int]) -> dict[str, np.ndarray]:
        """Of features `[B, D, G, h, w]`, for each clip the sum of scores and the number of judged points: float64
        `[B, 2]` by metric."""
        followed = [
            follow(one, *self.items[p], self.size, self.temporal) for one, p in zip(values, places, strict=True)
        ]
        return self._sums(followed, places)

    def _sums(self, followed: Sequence[np.ndarray], places: list[int]) -> dict[str, np.ndarray]:
        scale = RASTER / np.array(self.size[::-1])
        rows: dict[str, list] = {metric: [] for metric in self.metrics}
        for answer, place in zip(followed, places, strict=True):
            tracks, visible = self.items[place]
            counted = judged(visible)
            off = (answer - tracks.astype(np.float64))[counted]
            errors, own = np.linalg.norm(off * scale, axis=-1), np.linalg.norm(off, axis=-1)
            scores = tracking_scores(errors), accuracy_within(errors), tracking_scores(own)
            for metric, found in zip(self.metrics, scores, strict=True):
                rows[metric].append((found.sum(), counted.sum()))
        return {metric: np.array(found, np.float64) for metric, found in rows.items()}

    def trivial(self) -> dict[str, np.ndarray]:
        """`sums` of the answer that every point stays where it is first seen."""
        stay = [
            np.repeat(tracks[np.arange(len(tracks)), np.maximum(first_seen(visible), 0)][:, None], tracks.shape[1], 1)
            for tracks, visible in self.items
        ]
        return self._sums(stay, list(range(len(self.items))))
