"""Data sets whose motion is known: their layouts, what is brought to a clip's size, and files that are damaged."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hostile import Calls
from PIL import Image

from runtime.errors import InputError
from videos import ClipSpec, open_dataset
from videos.badja import read_joints
from videos.motion import fit_flow, fit_points, windows_of
from videos.sintel import held_out_places, read_flow

CLIP = ClipSpec(num_frames=5, size=16)


def write_flow(path: Path, flow: np.ndarray) -> None:
    """`[2, H, W]` as .flo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack("<fii", 202021.25, flow.shape[2], flow.shape[1])
    path.write_bytes(head + flow.transpose(1, 2, 0).astype("<f4").tobytes())


def write_pictures(folder: Path, pictures: np.ndarray, name: str = "{:05d}.png") -> None:
    """uint8 `[N, H, W, 3]`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / name.format(number))


def make_sintel(root: Path, scenes=("alley_1", "alley_2", "cave_4", "market_5"), frames: int = 10) -> Path:
    for scene in scenes:
        pictures = np.full((frames, 32, 48, 3), 90, np.uint8)
        write_pictures(root / "training" / "final" / scene, pictures, "frame_{:04d}.png")
        for number in range(frames - 1):
            flow = np.zeros((2, 32, 48), np.float32)
            flow[0], flow[1] = 4.0, number
            write_flow(root / "training" / "flow" / scene / f"frame_{number:04d}.flo", flow)
    return root


def test_sintel_is_cut_into_windows_that_meet_and_its_flow_is_scaled_with_the_pictures(tmp_path):
    dataset = open_dataset("sintel", str(make_sintel(tmp_path)), clip=CLIP, truth=True)
    assert [dataset.name_of(i)[-9:] for i in range(2)] == ["alley_1@0", "alley_1@4"] and len(dataset) == 8
    item = dataset[1]
    assert item["video"].shape == (3, 5, 16, 16) and item["flow"].shape == (4, 2, 16, 16) and item["valid"].all()
    assert np.allclose(item["flow"][:, 0], 2.0)  # 48 pixels became 24, of which the middle 16 are left
    assert np.allclose(item["flow"][:, 1], np.arange(4, 8)[:, None, None] / 2)
    assert "flow" not in open_dataset("sintel", str(tmp_path), clip=CLIP)[0]


def test_scenes_of_one_place_are_on_one_side(tmp_path):
    root = str(make_sintel(tmp_path))
    sides = {
        split: {name.split("@")[0] for name in map(d.name_of, range(len(d)))}
        for split in ("train", "test")
        for d in [open_dataset("sintel", root, split, CLIP)]
    }
    assert len(sides["train"] | sides["test"]) == 4 and not sides["train"] & sides["test"] and all(sides.values())
    assert ("training/final/alley_1" in sides["test"]) == ("training/final/alley_2" in sides["test"])
    places = ["alley", "ambush", "bamboo", "bandage", "cave", "market", "mountain", "shaman", "sleeping", "temple"]
    assert len(held_out_places(places)) == 2 and held_out_places(["alley"]) == set()


def test_unknown_and_invalid_pixels_do_not_count(tmp_path):
    root = make_sintel(tmp_path, ("alley_1",))
    flow = np.full((2, 32, 48), 3.0, np.float32)
    flow[:, :16] = 1.6e9
    flow[0, 30, 20] = np.nan
    write_flow(root / "training" / "flow" / "alley_1" / "frame_0000.flo", flow)
    mask = np.zeros((32, 48), np.uint8)
    mask[:, 24:] = 255
    (root / "training" / "invalid" / "alley_1").mkdir(parents=True)
    Image.fromarray(mask).save(root / "training" / "invalid" / "alley_1" / "frame_0001.png")
    item = open_dataset("sintel", str(root), clip=CLIP, truth=True)[0]
    assert not item["valid"][0, :8].any() and item["valid"][0, 10:14].all() and not item["valid"][0, 15].all()
    assert np.allclose(item["flow"][0][:, item["valid"][0]], 1.5)
    assert item["valid"][1, :, :6].all() and not item["valid"][1, :, 9:].any() and item["valid"][2].all()


DAMAGED_FLOW = {
    "empty": (b"", "not a .flo"),
    "text": (b"this is not flow at all", "not a .flo"),
    "cut": (struct.pack("<fii", 202021.25, 4, 4) + bytes(100), "has 128 bytes, the file holds 100"),
    "long": (struct.pack("<fii", 202021.25, 4, 4) + bytes(200), "has 128 bytes, the file holds 200"),
    "huge": (struct.pack("<fii", 202021.25, 2**31 - 1, 2**31 - 1), "pictures of"),
    "wide": (struct.pack("<fii", 202021.25, 2**30, 1), "pictures of"),
    "negative": (struct.pack("<fii", 202021.25, -4, -4) + bytes(128), "flow of -4x-4"),
    "none": (struct.pack("<fii", 202021.25, 0, 0), "flow of 0x0"),
    "big endian": (struct.pack(">fii", 202021.25, 4, 4) + bytes(128), "not a .flo"),
}


@pytest.mark.parametrize("name", DAMAGED_FLOW)
def test_damaged_flow_is_refused_in_one_line(name, tmp_path):
    content, words = DAMAGED_FLOW[name]
    (tmp_path / "a.flo").write_bytes(content)
    with pytest.raises(InputError, match=words) as refusal:
        read_flow(tmp_path / "a.flo")
    assert "\n" not in str(refusal.value)


def test_points_follow_the_pictures(tmp_path):
    points = np.array([[[0.0, 0.0]], [[47.0, 31.0]], [[23.5, 15.5]], [[8.0, 0.0]]])
    tracks, visible = fit_points(points, np.ones((4, 1), bool), (32, 48), 16)
    # Half the size, eight columns of twenty-four cropped: four on each side.
    assert np.allclose(tracks[:, 0], [[-4.25, -0.25], [19.25, 15.25], [7.5, 7.5], [-0.25, -0.25]])
    assert visible[:, 0].tolist() == [False, False, True, True]


def test_flow_and_points_agree_with_each_other():
    rng = np.random.default_rng(0)
    start = rng.uniform(20, 28, (5, 2))
    flow = np.broadcast_to(np.array([3.0, -2.0], np.float32)[None, :, None, None], (1, 2, 50, 60))
    moved, _ = fit_flow(flow, np.ones((1, 50, 60), bool), (20, 24))
    ends, _ = fit_points(np.stack([start, start + (3, -2)], 1), np.ones((5, 2), bool), (50, 60), (20, 24))
    assert np.allclose(ends[:, 1] - ends[:, 0], moved[0, :, 10, 10], atol=1e-5)


def test_windows_share_their_ends():
    assert list(windows_of(50, ClipSpec(17), 1)) == [0, 16, 32] and list(windows_of(17, ClipSpec(17), 1)) == [0]
    assert list(windows_of(3, ClipSpec(1), 1)) == [0, 1, 2] and list(windows_of(35, ClipSpec(17), 2)) == [0]


def make_tapvid(root: Path, **changes) -> Path:
    frames = 9
    points = np.tile(np.linspace(0.1, 0.9, frames)[None, :, None], (2, 1, 2))
    points[1] = 0.5
    occluded = np.zeros((2, frames), bool)
    occluded[1, 3] = True
    video = np.random.default_rng(0).integers(0, 255, (frames, 32, 32, 3)).astype(np.uint8)
    sound = {"video": video, "points": points, "occluded": occluded}
    root.mkdir(parents=True, exist_ok=True)
    (root / "tapvid_davis.pkl").write_bytes(pickle.dumps({"goat": sound | changes}, 4))
    return root


def test_tapvid_gives_points_in_pixels_of_the_clip(tmp_path):
    dataset = open_dataset("tapvid_davis", str(make_tapvid(tmp_path / "tapvid_davis").parent), clip=CLIP, truth=True)
    assert [dataset[i]["name"] for i in range(len(dataset))] == ["goat@0", "goat@4"] and dataset.classes() == [
        "goat"
    ] * 2
    item = dataset[0]
    assert item["tracks"].shape == (2, 5, 2) and item["tracks"].dtype == np.float32
    assert np.allclose(item["tracks"][0, :, 0], np.linspace(0.1, 0.9, 9)[:5] * 16 - 0.5)
    assert item["visible"].tolist() == [[True] * 5, [True, True, True, False, True]]
    assert len(dataset.fingerprint()) == 16 and dataset.with_clip(ClipSpec(9, 16))[0]["video"].shape[1] == 9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"video": np.zeros((9, 32, 32, 3))}, "video is no array of 4 axes"),
        ({"video": np.zeros((9, 32, 32, 4), np.uint8)}, "expected uint8"),
        ({"video": np.zeros((9, 1, 30_000, 3), np.uint8)}, "pictures of 30000x1"),
        ({"points": np.zeros((2, 8, 2))}, "of 9 frames"),
        ({"points": np.full((2, 9, 2), np.nan)}, "not finite"),
        ({"occluded": "no"}, "occluded is no array"),
    ],
)
def test_a_tapvid_file_of_other_things_is_refused(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        open_dataset("tapvid_davis", str(make_tapvid(tmp_path, **changes)), clip=CLIP)


def test_a_tapvid_file_that_runs_something_is_refused(tmp_path):
    make_tapvid(tmp_path, occluded=Calls(Path.touch, tmp_path / "hacked"))
    with pytest.raises(InputError, match="not a pickle of arrays, texts and numbers"):
        open_dataset("tapvid_davis", str(tmp_path), clip=CLIP)
    assert not (tmp_path / "hacked").exists()


def make_badja(root: Path, **changes) -> Path:
    write_pictures(root / "DAVIS" / "bear", np.full((9, 32, 48, 3), 9, np.uint8))
    marked = [
        {"image_path": f"DAVIS/bear/{n:05d}.png", "joints": [[6, 20 + n], [0, 0]], "visibility": [True, False]}
        for n in (0, 3, 7)
    ]
    marked[1] |= changes
    (root / "bear.json").write_text(json.dumps(marked))
    return root


def test_badja_joints_are_rows_and_columns_of_the_marked_frames(tmp_path):
    dataset = open_dataset("badja", str(make_badja(tmp_path)), clip=CLIP, truth=True)
    first, second = dataset[0], dataset[1]
    assert (first["name"], second["name"]) == ("bear.json@0", "bear.json@4") and first["video"].shape == (3, 5, 16, 16)
    assert first["visible"].tolist() == [[True, False, False, True, False], [False] * 5]
    # (column + 0.5) / 2 - 0.5, less four columns that are cropped; rows are only scaled.
    assert np.allclose(first["tracks"][0, [0, 3]], [[5.75, 2.75], [7.25, 2.75]])
    assert second["visible"][0].tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joints": [[6, 20]]}, "1 joints"),
        ({"joints": [[6, 20, 3], [0, 0]]}, "no row and column"),
        ({"joints": [[6, 1e9], [0, 0]]}, "no row and column"),
        ({"joints": [[6, float("nan")], [0, 0]]}, "no row and column"),
        ({"joints": "x"}, "joints is"),
        ({"visibility": [1, 0]}, "visibility is"),
        ({"image_path": "../../etc/00003.png"}, "no frame of the same video"),
        ({"image_path": "DAVIS/bear/x.png"}, "no frame of the same video"),
    ],
)
def test_damaged_joints_are_refused_in_one_line(changes, words, tmp_path):
    make_badja(tmp_path, **changes)
    with pytest.raises(InputError, match=words) as refusal:
        read_joints(tmp_path / "bear.json")
    assert "\n" not in str(refusal.value)


def test_badja_names_no_pictures_outside_of_its_folder(tmp_path):
    write_pictures(tmp_path / "outside", np.zeros((5, 32, 32, 3), np.uint8))
    inside = tmp_path / "data"
    inside.mkdir()
    one = {"image_path": "../outside/00000.png", "joints": [[1, 1]], "visibility": [True]}
    (inside / "a.json").write_text(json.dumps([one]))
    with pytest.raises(InputError, match="leads out of the data set"):
        open_dataset("badja", str(inside), clip=CLIP)


def test_davis_lists_its_splits(tmp_path):
    for name in ("bear", "cows"):
        write_pictures(tmp_path / "JPEGImages" / "480p" / name, np.zeros((6, 32, 32, 3), np.uint8))
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("cows\n")
    names = [open_dataset("davis", str(tmp_path), split, CLIP).name_of(0) for split in ("all", "test")]
    assert names == ["JPEGImages/480p/bear", "JPEGImages/480p/cows"]
    for listed, rest in (("bear", "cows"), ("cows", "bear")):  # one list alone says what the other part is
        (tmp_path / "ImageSets" / "2017" / "val.txt").write_text(f"{listed}\n")
        train = open_dataset("davis", str(tmp_path), "train", CLIP)
        assert [train.name_of(i) for i in range(len(train))] == [f"JPEGImages/480p/{rest}"]


def test_data_sets_without_known_motion_say_so(tmp_path):
    with pytest.raises(InputError, match="no ground truth of motion; known of: moving_shapes"):
        open_dataset("davis", str(tmp_path), truth=True)


@pytest.mark.real
def test_published_flow_is_read(real_data):
    found = {path.parent.name: read_flow(path) for path in sorted((real_data / "flow").glob("*/*.flo"))}
    assert found["sintel_alley_1_gt_flow"].shape == (2, 436, 1024) and found["flyingchairs"].shape == (2, 384, 512)
    assert np.abs(found["sintel_alley_1_gt_flow"]).max() == pytest.approx(8.42041, abs=1e-4)
    assert np.abs(found["mmflow_tiny"]).mean() == pytest.approx(1.18919, abs=1e-4)


@pytest.mark.real
def test_davis_is_read_as_it_is_published(real_data):
    dataset = open_dataset("davis", str(real_data / "davis"), clip=ClipSpec(17, 32, window="first"))
    assert len(dataset) == 1 and dataset.lengths == [40]
    assert dataset[0]["video"].shape == (3, 17, 32, 32) and dataset[0]["name"] == "JPEGImages/480p/car-shadow"


@pytest.mark.real
def test_published_joints_are_rows_and_columns(real_data):
    for path in sorted((real_data / "tracking" / "badja").glob("*.json")):
        marked = read_joints(path)
        seen = np.array(
            [joint for one in marked for joint, v in zip(one["joints"], one["visibility"], strict=True) if v]
        )
        assert len(seen) and seen[:, 0].max() < 1080 and seen[:, 1].max() < 1920
        assert path.stem == "horsejump-high" or seen[:, 1].max() > 1080, path  # so that it is no (x, y)
