"""Synthetic clips: a function of (seed, index), balanced, with truth that fits the pixels."""

import numpy as np
import pytest

from runtime.errors import InputError
from videos import ClipSpec, open_dataset
from videos.moving_shapes import MOTIONS, NUM_TEST, NUM_TRAIN, SHAPES, MovingShapes, make_scene, signed_distance

LEVELS = ("moving_shapes", "moving_shapes_textured", "moving_shapes_unpredictable")


def open_level(name: str, size=32, frames: int = 17, **rest):
    return open_dataset(name, clip=ClipSpec(num_frames=frames, size=size), **rest)


@pytest.mark.parametrize("name", LEVELS)
def test_items_depend_on_their_index_alone(name):
    forwards = open_level(name)
    items = {i: forwards[i]["video"].tobytes() for i in (0, 5, 11)}
    backwards = open_level(name)
    assert all(backwards[i]["video"].tobytes() == items[i] for i in (11, 5, 0))
    assert len(set(items.values())) == 3
    assert forwards.item(5, 1)["video"].tobytes() == items[5]


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize(("size", "frames"), [(32, 17), ((24, 40), 9), (64, 1)])
def test_items_have_the_asked_shape(name, size, frames):
    item = open_level(name, size, frames)[3]
    height, width = (size, size) if isinstance(size, int) else size
    assert item["video"].shape == (3, frames, height, width) and item["video"].dtype == np.uint8
    assert item["label"] == 3 and item["name"].startswith(name)


def test_splits_are_disjoint_and_classes_balanced():
    train, test, everything = (MovingShapes(split=split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(everything)) == (NUM_TRAIN, NUM_TEST, NUM_TRAIN + NUM_TEST)
    assert np.array_equal(test[0]["video"], everything[NUM_TRAIN]["video"])
    assert not np.array_equal(test[0]["video"], train[0]["video"])
    counts = np.bincount(train.labels(), minlength=12)
    assert counts.max() - counts.min() <= 1 and len(train.class_names) == train.num_classes == len(SHAPES) * len(
        MOTIONS
    )
    assert [train[i]["label"] for i in (0, 1, 13)] == [train.labels()[i] for i in (0, 1, 13)]
    with pytest.raises(IndexError):
        test[NUM_TEST]


def test_another_seed_gives_other_clips_and_another_fingerprint():
    a, b = MovingShapes(seed=0), MovingShapes(seed=1)
    assert not np.array_equal(a[0]["video"], b[0]["video"]) and a.fingerprint() != b.fingerprint()


@pytest.mark.parametrize(
    ("level", "fingerprint", "ends"),
    [
        ("plain", "5d5820b7302b82fb", 12.136780470760575),
        ("textured", "59fa7a9cf4667e65", 11.580720488715286),
        ("unpredictable", "5ad491bc9ab1e5f8", 12.130648683780747),  # 4551fcecd393c8fe when frames had their own way
    ],
)
def test_a_fingerprint_stands_for_the_clips_that_it_was_given_to(level, fingerprint, ends):
    """Runs go on, and what was kept of clips is taken again, by the fingerprint: other clips need another version."""
    assert MovingShapes(level=level).fingerprint() == fingerprint
    scenes = [make_scene(0, number, level, ClipSpec(size=32)) for number in range(12)]
    assert sum(scene.centre_path[-1].sum() for scene in scenes) == pytest.approx(ends)


@pytest.mark.parametrize("label", range(12))
def test_the_shape_moves_but_for_spin_and_stays_inside(label):
    for number in range(label, label + 60, 12):
        scene = make_scene(0, number, "plain", ClipSpec(17, 32))
        travelled = np.abs(np.diff(scene.centre_path, axis=0)).sum()
        if MOTIONS[label % 4] == "spin":
            assert travelled == 0 and np.ptp(scene.angle_path) > 2
        else:
            assert travelled > 0.3 and np.ptp(scene.angle_path) == 0
        assert (scene.centre_path > 0.16).all() and (scene.centre_path < 0.84).all()


def test_a_frame_stride_plays_the_same_scene_faster():
    slow = MovingShapes(clip=ClipSpec(17, 32, frame_stride=1))[4]["video"]
    fast = MovingShapes(clip=ClipSpec(9, 32, frame_stride=2))[4]["video"]
    assert np.array_equal(slow[:, ::2], fast)


def test_no_shape_is_much_larger_than_another():
    line = np.linspace(-1, 1, 400)
    areas = [(signed_distance(shape, *np.meshgrid(line, line), 0.5) < 0).mean() for shape in SHAPES]
    assert max(areas) / min(areas) < 1.4


@pytest.mark.parametrize("name", LEVELS)
def test_tracks_move_with_the_flow(name):
    """A visible point that sits well inside a surface moves by the flow of its pixel."""
    errors = []
    for index in range(12):
        item = open_level(name, 64, truth=True)[index]
        flow, tracks, visible = item["flow"], item["tracks"], item["visible"]
        for frame in range(16):
            place = np.rint(tracks[:, frame]).astype(int)
            inside = visible[:, frame] & visible[:, frame + 1] & (place >= 2).all(1) & (place < 62).all(1)
            for point in np.flatnonzero(inside):
                x, y = place[point]
                around = flow[frame, :, y - 1 : y + 2, x - 1 : x + 2]
                if np.ptp(around, axis=(1, 2)).max() < 0.5:  # not at the edge between two surfaces
                    errors.append(tracks[point, frame + 1] - tracks[point, frame] - flow[frame, :, y, x])
    assert len(errors) > 2000
    # Half a pixel of rounding times at most 0.4 rad of spin.
    assert np.abs(errors).max() < 0.35 and np.abs(errors).mean() < 0.03


def test_flow_carries_the_picture_from_frame_to_frame():
    """Sampling frame i + 1 at the place that the flow points to gives frame i, away from edges and occlusions."""
    item = open_level("moving_shapes_textured", 96, truth=True)[6]
    video = item["video"].astype(np.float64)
    y, x = np.mgrid[0:96, 0:96]
    for frame in (2, 9):
        u, v = item["flow"][frame]
        tx, ty = x + u, y + v
        x0, y0 = np.floor(tx).astype(int), np.floor(ty).astype(int)
        good = (x0 >= 0) & (y0 >= 0) & (x0 < 95) & (y0 < 95)
        x0, y0 = np.clip(x0, 0, 94), np.clip(y0, 0, 94)
        wx, wy = tx - x0, ty - y0
        ahead = video[:, frame + 1]
        warped = (1 - wy) * ((1 - wx) * ahead[:, y0, x0] + wx * ahead[:, y0, x0 + 1]) + wy * (
            (1 - wx) * ahead[:, y0 + 1, x0] + wx * ahead[:, y0 + 1, x0 + 1]
        )
        error = np.abs(warped - video[:, frame]).max(0)[good]
        still = np.abs(ahead - video[:, frame]).max(0)[good]
        # The rest are pixels at edges, or hidden in the next frame.
        assert (error < 4).mean() > 0.85 and np.median(error) < 1.5 and np.median(still) > 2 * np.median(error)


def test_points_behind_the_occluder_or_outside_are_not_visible():
    hidden = outside = 0
    for index in range(24):
        item = open_level("moving_shapes_textured", 32, truth=True)[index]
        off = ((item["tracks"] < -0.5) | (item["tracks"] >= 31.5)).any(-1)
        assert not (item["visible"] & off).any()
        outside += int(off.sum())
        hidden += int((~item["visible"] & ~off).sum())
    assert hidden > 50 and outside > 50


def test_truth_has_its_shapes_and_file_data_sets_have_none(tmp_path):
    item = open_level("moving_shapes", 32, truth=True)[0]
    assert item["flow"].shape == (16, 2, 32, 32) and item["flow"].dtype == np.float32
    assert item["tracks"].shape == (64, 17, 2) and item["tracks"].dtype == np.float32
    assert item["visible"].shape == (64, 17) and item["visible"].dtype == bool
    with pytest.raises(InputError, match="no ground truth"):
        open_dataset("videos", root=str(tmp_path), truth=True)
    with pytest.raises(InputError, match="split"):
        MovingShapes(split="val")
    with pytest.raises(InputError, match="level"):
        MovingShapes(level="hard")


CLIP = ClipSpec(num_frames=10, size=32)
# Below, of 1,200 clips a class: a Kolmogorov-Smirnov statistic above this is rarer than once in 10^6.
LARGEST = 5.3 / 2 * (2 / 1200) ** 0.5


def paths(level: str, motion: str) -> np.ndarray:
    """Centre x, y and angle of 1,200 clips of a motion at each frame, `[n, 10, 3]`."""
    numbers = [label + 12 * k for k in range(400) for label in range(12) if MOTIONS[label % 4] == motion]
    # Other clips for each level: the same ones would share their first frame.
    scenes = [make_scene(0 if level == "plain" else 1, number, level, CLIP) for number in numbers]
    return np.array([np.column_stack([scene.centre_path, scene.angle_path]) for scene in scenes])


@pytest.mark.parametrize("motion", MOTIONS)
def test_unpredictable_clips_have_the_frames_and_the_pairs_of_frames_of_plain_ones(motion):
    from scipy.stats import ks_2samp

    plain, unpredictable = (paths(level, motion) for level in ("plain", "unpredictable"))
    for frame in (0, 4, 7):
        for axis in (0, 1):
            assert ks_2samp(plain[:, frame, axis], unpredictable[:, frame, axis]).statistic < LARGEST
    for frame in (0, 4, 6):  # steps: how far, and how they lie to the place that they begin at
        steps = [each[:, frame + 1] - each[:, frame] for each in (plain, unpredictable)]
        places = [each[:, frame] - 0.5 for each in (plain, unpredictable)]
        for numbers in (
            [np.hypot(step[:, 0], step[:, 1]) for step in steps],
            [step[:, 0] for step in steps],
            [step[:, 2] for step in steps],
            [(step[:, :2] * place[:, :2]).sum(1) for step, place in zip(steps, places, strict=True)],
        ):
            assert ks_2samp(*numbers).statistic < LARGEST


@pytest.mark.parametrize("motion", MOTIONS)
def test_in_unpredictable_clips_a_group_tells_nothing_of_the_next_ones_direction(motion):
    axes = [2] if motion == "spin" else [0, 1]
    for level, tells in (("plain", True), ("unpredictable", False)):
        steps = np.diff(paths(level, motion)[..., axes], axis=1)
        alike = (steps[:, :-1] * steps[:, 1:]).sum(-1) / np.maximum((steps[:, :-1] ** 2).sum(-1), 1e-12)
        goes_on = (alike > 0).mean(0)  # share of clips, by the frame between two steps
        ends = np.arange(1, len(goes_on) + 1) % 4 == 0
        # At the edge of the frame, and at the end of a swing, also a motion that stays turns back.
        assert goes_on[~ends].mean() > 0.75, (motion, level)
        assert goes_on[ends].mean() > 0.75 if tells else 0.4 < goes_on[ends].mean() < 0.6, (motion, level)


def test_only_the_path_differs_from_the_plain_clip_of_that_number():
    for number in range(12):
        one, other = (make_scene(0, number, level, CLIP) for level in ("plain", "unpredictable"))
        assert (one.shape, one.radius) == (other.shape, other.radius)
        assert np.array_equal(one.colours, other.colours) and np.array_equal(one.centre_path[0], other.centre_path[0])
        same = np.array_equal(one.centre_path, other.centre_path) and np.array_equal(one.angle_path, other.angle_path)
        assert not same or MOTIONS[number % 4] != "bounce"  # the others have drawn "on" in every group in some cases
