"""Synthetic clips of one moving shape, generated from (seed, index) alone, with exact flow, point tracks and
visibility.

Twelve classes, label = shape * 4 + motion. Level "plain": a flat background and a two-tone shape. Level "textured":
background, shape and an occluder in front carry textures, all of them move, and the shape's speed changes. Level
"unpredictable": as plain, but the direction of the motion is drawn anew after frames 0, 4, 8, …, the ends of the groups
of a causal tokenizer that takes four frames together. Frames, and pairs of neighbouring frames, are then distributed
exactly as those of plain clips, and a group is as hard to encode as there; what has gone is that past groups tell the
direction in the next.

Lengths are in units of the shorter frame side, angles in radians, time in frames; y points down. Layers are drawn from
signed distances, so edges are anti-aliased and the flow is known in closed form.
"""

from __future__ import annotations

import colorsys
import copy
import hashlib
from dataclasses import dataclass, replace

import numpy as np

from runtime.errors import InputError
from videos.clip import ClipSpec

SHAPES = ("disc", "square", "triangle")
MOTIONS = ("bounce", "orbit", "sway", "spin")
LEVELS = ("plain", "textured", "unpredictable")
NUM_TRAIN, NUM_TEST = 20_000, 2_000
NUM_POINTS = 64
VERSIONS = {"unpredictable": 2}  # grow when the same scenes become other clips; 1 of other levels
HELD = 4  # steps between two frames for which an unpredictable motion keeps its direction


@dataclass(frozen=True)
class _Scene:
    """Everything that one clip is drawn from; arrays over frames where the name says `_path`."""

    shape: str
    radius: float
    centre_path: np.ndarray  # [N, 2] x, y
    angle_path: np.ndarray  # [N]
    colours: np.ndarray  # [4, 3] background, shape's halves, occluder; in [0, 1]
    drift_path: np.ndarray  # [N, 2] background displacement
    waves: np.ndarray | None  # [3 layers, 3 waves, 5]: wave vector x, y, phase, amplitude, colour tilt; None: flat
    occluder_path: np.ndarray | None  # [N] distance of the bar's middle along its normal; None: no occluder
    occluder_normal: np.ndarray  # [2]
    occluder_half_width: float


class MovingShapes:
    """The data set; `moving_shapes` (plain), and `moving_shapes_` and the level for others, in `open_dataset`.

    Items are independent of each other, of the process and of the order. `split` "train" holds 20,000 of them, "test"
    2,000 others, "all" both. A frame stride above 1 plays the same scene faster.
    """

    num_classes = len(SHAPES) * len(MOTIONS)
    class_names = tuple(f"{shape} {motion}" for shape in SHAPES for motion in MOTIONS)
    skipped: tuple = ()
    num_enlarged = 0

    def __init__(
        self,
        root: str | None = None,
        split: str = "all",
        clip: ClipSpec | None = None,
        truth: bool = False,
        level: str = "plain",
        seed: int = 0,
    ):
        ranges = {"train": (0, NUM_TRAIN), "test": (NUM_TRAIN, NUM_TRAIN + NUM_TEST), "all": (0, NUM_TRAIN + NUM_TEST)}
        if split not in ranges:
            raise InputError(f"split {split!r} is not known; known: {', '.join(ranges)}")
        if level not in LEVELS:
            raise InputError(f"level {level!r} is not known; known: {', '.join(LEVELS)}")
        self.clip = clip or ClipSpec(size=32)
        self.truth, self.level, self.seed = truth, level, seed
        self.name = "moving_shapes" if level == "plain" else f"moving_shapes_{level}"
        self._start, self._stop = ranges[split]

    def __len__(self) -> int:
        return self._stop - self._start

    def with_clip(self, clip: ClipSpec, *, enlarge: bool = True) -> MovingShapes:
        """The same scenes as clips of another kind; they are drawn at any size."""
        other = copy.copy(self)
        other.clip = clip
        return other

    def labels(self) -> list[int]:
        """Label of every item, without drawing any."""
        return [number % self.num_classes for number in range(self._start, self._stop)]

    def fingerprint(self) -> str:
        """Hash of what decides the content."""
        words = f"{self.name} v{VERSIONS.get(self.level, 1)} {self.seed} {self._start} {self._stop}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def __getitem__(self, index: int) -> dict:
        """{"video": uint8 `[3, 1+T, H, W]`, "label": int, "name": str}; with truth also flow, tracks and visible (see
        `truth_of`)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self._start + index
        scene = make_scene(self.seed, number, self.level, self.clip)
        item: dict = {
            "video": render(scene, self.clip.height, self.clip.width),
            "label": number % self.num_classes,
            "name": f"{self.name}-{number:06d}",
        }
        if self.truth:
            item |= truth_of(scene, self.clip.height, self.clip.width, np.random.default_rng([self.seed, number, 1]))
        return item

    def item(self, index: int, seed: int) -> dict:
        """As `[index]`, the whole clip: there is no window to choose, but in a range of strides `seed` draws one."""
        if self.clip.strides[0] == self.clip.strides[1]:
            return self[index]
        stride = self.clip.drawn_stride(np.random.default_rng(seed), self.clip.strides[1])
        return self.with_clip(replace(self.clip, frame_stride=stride))[index]


def make_scene(seed: int, number: int, level: str, clip: ClipSpec) -> _Scene:
    """Draw the parameters of clip `number`; its label is `number % 12`."""
    rng = np.random.default_rng([seed, number, 0])
    label = number % (len(SHAPES) * len(MOTIONS))
    shape, motion = SHAPES[label // len(MOTIONS)], MOTIONS[label % len(MOTIONS)]
    unit = min(clip.height, clip.width)
    room = np.array([clip.width / unit, clip.height / unit])
    textured = level == "textured"
    times = np.arange(clip.num_frames, dtype=np.float64) * clip.strides[0]
    radius = rng.uniform(0.17, 0.23)
    warped = times
    if textured:
        # A monotone warp of time: the speed swings by up to 60 %.
        depth, rate, phase = rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.5), rng.uniform(0, 2 * np.pi)
        warped = times + depth / rate * (np.sin(rate * times + phase) - np.sin(phase))
    anew = np.random.default_rng([seed, number, 2]) if level == "unpredictable" else None
    centre, angle = _motion_path(motion, warped, radius, room, rng, anew)

    hue = rng.uniform()
    colours = np.array(
        [
            colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.55)),
            colorsys.hsv_to_rgb((hue + 0.28 + 0.1 * rng.uniform()) % 1, rng.uniform(0.6, 1), rng.uniform(0.75, 1)),
            colorsys.hsv_to_rgb((hue + 0.62 + 0.1 * rng.uniform()) % 1, rng.uniform(0.6, 1), rng.uniform(0.75, 1)),
            colorsys.hsv_to_rgb((hue + 0.5) % 1, rng.uniform(0, 0.3), rng.uniform(0.4, 0.9)),
        ]
    )
    drift, waves, occluder = np.zeros((clip.num_frames, 2)), None, None
    normal, half_width = np.array([1.0, 0.0]), 0.0
    if textured:
        heading = rng.uniform(0, 2 * np.pi)
        drift = times[:, None] * rng.uniform(0.005, 0.03) * np.array([np.cos(heading), np.sin(heading)])
        waves = np.empty((3, 3, 5))
        direction = rng.uniform(0, 2 * np.pi, (3, 3))
        frequency = 2 * np.pi * rng.uniform(1.0, 3.5, (3, 3))
        waves[..., 0], waves[..., 1] = frequency * np.cos(direction), frequency * np.sin(direction)
        waves[..., 2], waves[..., 3] = rng.uniform(0, 2 * np.pi, (3, 3)), rng.uniform(0.04, 0.09, (3, 3))
        waves[..., 4] = rng.uniform(-1, 1, (3, 3))
        turn = rng.uniform(0, 2 * np.pi)
        normal, half_width = np.array([np.cos(turn), np.sin(turn)]), rng.uniform(0.04, 0.09)
        # The bar crosses the middle of the frame at a random time of the clip.
        speed, crossing = rng.uniform(0.02, 0.06), rng.uniform(0, max(1.0, times[-1]))
        occluder = normal @ (room / 2) + speed * (times - crossing)
    return _Scene(shape, radius, centre, angle, colours, drift, waves, occluder, normal, half_width)


def _motion_path(
    motion: str,
    times: np.ndarray,
    radius: float,
    room: np.ndarray,
    rng: np.random.Generator,
    anew: np.random.Generator | None = None,
):
    """Centre `[N, 2]` and angle `[N]` over time; the shape stays inside the frame.

    Args:
        anew: Draws the direction of every four steps between two frames; None: it stays. An orbit, a swing and a spin
            then go on or back along their own curve, a bounce goes anywhere.
    """
    angle = np.full(len(times), rng.uniform(0, 2 * np.pi))
    low, high = np.full(2, radius), room - radius
    heading, way = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    steps = np.diff(times, prepend=times[:1])
    draws = -(-len(times) // HELD)

    def held(drawn: np.ndarray) -> np.ndarray:
        """One drawn number for each step; the first step is none, from frame 0 to itself."""
        return np.concatenate([drawn[:1], np.repeat(drawn, HELD)])[: len(times)]

    # Time as far as the phase of a motion has come.
    phased = times if anew is None else times[0] + np.cumsum(steps * held(anew.choice([-1.0, 1.0], draws)))
    if motion == "bounce":
        speed = rng.uniform(0.045, 0.075)
        if anew is None:
            moved = times[:, None] * (speed * np.array([np.cos(heading), np.sin(heading)]))
        else:
            headings = held(anew.uniform(0, 2 * np.pi, draws))
            moved = np.cumsum((speed * steps)[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)
        path = rng.uniform(low, high) + moved
        span = high - low
        centre = low + span - np.abs(np.mod(path - low, 2 * span) - span)
    elif motion == "orbit":
        reach = rng.uniform(0.14, 0.24)
        turn = heading + way * rng.uniform(0.28, 0.45) * phased
        middle = rng.uniform(low + reach, high - reach)
        centre = middle + reach * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    elif motion == "sway":
        reach = rng.uniform(0.16, 0.26)
        line = np.array([np.cos(heading), np.sin(heading)])
        swing = np.sin(rng.uniform(0, 2 * np.pi) + rng.uniform(0.35, 0.55) * phased)
        centre = rng.uniform(low + reach * np.abs(line), high - reach * np.abs(line)) + reach * swing[:, None] * line
    else:
        centre = np.broadcast_to(rng.uniform(low, high), (len(times), 2)).copy()
        angle = angle + way * rng.uniform(0.2, 0.4) * phased
    return centre, angle


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance to the outline, negative inside, in the shape's own coordinates.

    The triangle has three quarters of the area of the other two, so that its tips hardly leave the frame.
    """
    if shape == "disc":
        return np.sqrt(x * x + y * y) - np.float32(radius * 0.95)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.float32(radius * 0.84)
    half = np.float32(np.sqrt(3) / 2)
    return np.maximum(np.maximum(half * x - 0.5 * y, -half * x - 0.5 * y), y) - np.float32(radius * 0.64)


def _local(scene: _Scene, x: np.ndarray, y: np.ndarray, frames: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points (broadcast against `[N, 1, 1]`) in the shape's own coordinates at each of `frames`."""
    centre, angle = scene.centre_path[frames], scene.angle_path[frames]
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    dx, dy = (x - centre[:, i].astype(np.float32)[:, None, None] for i, x in ((0, x), (1, y)))
    return cos * dx + sin * dy, cos * dy - sin * dx


def _texture(waves: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth texture `[3, …]` around 0 at the points x, y."""
    total = np.zeros((3, *np.broadcast_shapes(x.shape, y.shape)), dtype=np.float32)
    for kx, ky, phase, amplitude, tilt in waves.astype(np.float32):
        wave = amplitude * np.sin(kx * x + ky * y + phase)
        for channel, gain in enumerate((1.0, 1.0 + tilt, 1.0 - tilt)):
            total[channel] += np.float32(gain) * wave
    return total


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates of pixel centres, x `[1, 1, W]` and y `[1, H, 1]`."""
    unit = min(height, width)
    x = ((np.arange(width, dtype=np.float32) + 0.5) / unit)[None, None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / unit)[None, :, None]
    return x, y


def _bar_distance(scene: _Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the occluder at each frame, for points that broadcast against `[N, 1, 1]`."""
    across = np.float32(scene.occluder_normal[0]) * x + np.float32(scene.occluder_normal[1]) * y
    return np.abs(across - scene.occluder_path.astype(np.float32)[:, None, None]) - np.float32(
        scene.occluder_half_width
    )


def render(scene: _Scene, height: int, width: int) -> np.ndarray:
    """Draw the scene: uint8 `[3, N, H, W]`."""
    x, y = _grid(height, width)
    unit = np.float32(min(height, width))
    colours = scene.colours.astype(np.float32)
    qx, qy = _local(scene, x, y, slice(None))
    cover = np.clip(0.5 - unit * signed_distance(scene.shape, qx, qy, scene.radius), 0, 1)
    half = np.clip(0.5 + unit * qy, 0, 1)
    frames = len(scene.centre_path)
    video = np.empty((3, frames, height, width), dtype=np.float32)
    if scene.waves is not None:
        drift = scene.drift_path.astype(np.float32)
        ground = _texture(scene.waves[0], x - drift[:, 0, None, None], y - drift[:, 1, None, None])
        skin = _texture(scene.waves[1], 2 * qx, 2 * qy)
        bar_cover = np.clip(0.5 - unit * _bar_distance(scene, x, y), 0, 1)
        shift = (
            scene.occluder_path.astype(np.float32)[:, None, None]
            * scene.occluder_normal.astype(np.float32)[:, None, None, None]
        )
        bar_skin = _texture(scene.waves[2], x - shift[0], y - shift[1])
    for channel in range(3):
        body = colours[1, channel] + half * (colours[2, channel] - colours[1, channel])
        back = colours[0, channel]
        if scene.waves is not None:
            body, back = body + skin[channel], back + ground[channel]
        picture = back + cover * (body - back)
        if scene.waves is not None:
            picture = picture + bar_cover * (colours[3, channel] + bar_skin[channel] - picture)
        video[channel] = picture
    return (np.clip(video, 0, 1) * 255 + 0.5).astype(np.uint8)


def truth_of(scene: _Scene, height: int, width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Exact motion of the scene. Pixel coordinates: (0, 0) is the centre of the top left pixel.

    Returns:
        "flow" float32 `[T, 2, H, W]`: (u, v) in pixels of what is visible at each pixel, from frame i to i + 1;
        "tracks" float32 `[P, 1+T, 2]`: (x, y) in pixels of points on the shape (first half) and on the background
        (second half); "visible" bool `[P, 1+T]`: inside the frame and not covered.
    """
    frames, unit = len(scene.centre_path), min(height, width)
    x, y = _grid(height, width)
    before = slice(0, frames - 1)
    qx, qy = _local(scene, x, y, before)
    step = np.diff(scene.drift_path, axis=0).astype(np.float32)
    flow = np.broadcast_to(step[:, :, None, None], (frames - 1, 2, height, width)).copy()
    on_shape = signed_distance(scene.shape, qx, qy, scene.radius) < 0
    ahead_x, ahead_y = _world(scene, qx, qy, slice(1, frames))
    flow[:, 0] = np.where(on_shape, ahead_x - x, flow[:, 0])
    flow[:, 1] = np.where(on_shape, ahead_y - y, flow[:, 1])
    if scene.occluder_path is not None:
        moved = np.diff(scene.occluder_path)[:, None] * scene.occluder_normal
        on_bar = (_bar_distance(scene, x, y) < 0)[before, None]
        flow = np.where(on_bar, moved[:, :, None, None], flow)

    half = NUM_POINTS // 2
    inside = _points_inside(scene.shape, scene.radius, half, rng).astype(np.float32)
    ox, oy = _world(scene, inside[None, None, :, 0], inside[None, None, :, 1], slice(None))
    on_object = np.stack([ox[:, 0], oy[:, 0]], axis=-1)  # [N, P/2, 2]
    start = rng.uniform((0, 0), (width / unit, height / unit), (NUM_POINTS - half, 2))
    on_ground = start[None] + scene.drift_path[:, None] - scene.drift_path[0]
    points = np.concatenate([on_object, on_ground], axis=1).astype(np.float32)
    px, py = points[:, None, :, 0], points[:, None, :, 1]
    covered = np.zeros((frames, NUM_POINTS), dtype=bool)
    gx, gy = _local(scene, px, py, slice(None))
    covered[:, half:] = (signed_distance(scene.shape, gx, gy, scene.radius) < 0)[:, 0, half:]
    if scene.occluder_path is not None:
        covered |= (_bar_distance(scene, px, py) < 0)[:, 0]
    outside = ((points < 0) | (points >= (width / unit, height / unit))).any(-1)
    return {
        "flow": (flow * unit).astype(np.float32),
        "tracks": (points * unit - 0.5).transpose(1, 0, 2).astype(np.float32),
        "visible": ~(covered | outside).T,
    }


def _world(scene: _Scene, qx: np.ndarray, qy: np.ndarray, frames: slice) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `_local`: points of the shape's own coordinates in the world at each of `frames`."""
    centre, angle = scene.centre_path[frames].astype(np.float32), scene.angle_path[frames]
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    return (cos * qx - sin * qy + centre[:, 0, None, None], sin * qx + cos * qy + centre[:, 1, None, None])


def _points_inside(shape: str, radius: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """`[count, 2]` points drawn uniformly from the shape's interior, a little away from its outline."""
    found = np.empty((0, 2))
    while len(found) < count:
        tries = rng.uniform(-2 * radius, 2 * radius, (4 * count, 2))
        found = np.concatenate([found, tries[signed_distance(shape, tries[:, 0], tries[:, 1], radius) < -0.1 * radius]])
    return found[:count]
