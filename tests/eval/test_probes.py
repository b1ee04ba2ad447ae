"""Probes find what features hold, and nothing where they hold nothing; their numbers agree with tables by hand."""

import numpy as np
import pytest
import torch

from eval import delta_avg, tracking_auc
from eval.features.store import digest
from eval.probes import flow, next_frame, tracking
from eval.probes.clips import clip_of, drawn, observed_groups
from eval.probes.features import (
    GENERATOR,
    LATENTS,
    UNTRAINED,
    first_half,
    maker,
    noise_of,
    probed_block,
    tokens_of,
)
from eval.probes.heads import Head, answers, train_head
from eval.probes.units import by_video, estimate_of, is_kept, make_unit, mean_of, read_unit, unit_path
from generator import Latte, LatteConfig
from runtime.errors import InputError
from videos import ClipSpec, open_dataset

CPU = torch.device("cpu")
HEAD = {"seed": 0, "batch_size": 8, "device": CPU, "width": 16}


@pytest.fixture(scope="module")
def generator() -> Latte:
    torch.manual_seed(0)
    model = Latte(
        LatteConfig(channels=4, groups=5, height=4, width=4, num_classes=3, hidden_size=16, depth=4, num_heads=2)
    )
    for parameter in model.parameters():  # gates that begin at zero would hide every block
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


# -- features ----------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_middle_block(generator):
    assert [probed_block(depth) for depth in (28, 12, 6, 1)] == [14, 6, 3, 1]
    x = torch.randn(3, 4, 5, 4, 4)
    found = tokens_of(first_half(generator, 2, 5), x, 0.1, CPU, torch.float32)
    _, wanted = generator(x, torch.full((3,), 0.9), torch.full((3,), 3), return_block=2)
    assert found.shape == (3, 16, 5, 4, 4)
    assert torch.allclose(found, wanted.unflatten(2, (4, 4)).permute(0, 4, 1, 2, 3), atol=1e-6)


def test_fewer_groups_are_another_input_and_see_nothing_of_the_others(generator):
    """A generator attends both ways: the same groups with one more after them have other tokens."""
    x = torch.randn(2, 4, 5, 4, 4)
    make = maker(generator, 2, 0, CPU, torch.float32)
    alone = make(GENERATOR, x[:, :, :4], 0.0)
    beside = make(GENERATOR, x, 0.0)[:, :, :4]
    assert alone.shape == beside.shape and not torch.allclose(alone, beside, atol=1e-3)
    assert torch.equal(make(LATENTS, x, 0.0), x) and make(UNTRAINED, x, 0.0).shape == (2, 16, 5, 4, 4)


def test_the_noise_of_a_clip_is_its_own_at_every_level():
    latents = torch.ones(3, 4, 5, 2, 2)
    a, b = (noise_of(latents, level, 0, "test", [5, 6, 7]) for level in (0.1, 0.2))
    assert torch.allclose((a - 0.9) / 0.1, (b - 0.8) / 0.2, atol=1e-5)
    assert torch.equal(noise_of(latents[1:], 0.1, 0, "test", [6, 7]), a[1:])
    assert torch.equal(noise_of(latents, 0.0, 0, "test", [5, 6, 7]), latents)
    assert not torch.equal(noise_of(latents, 0.1, 0, "train", [5, 6, 7]), a)
    assert (a - 0.9).std() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("task", ["next-frame", "flow"])
def test_no_later_frame_reaches_the_features_of_the_next_frame_probe(task, generator, tmp_path, monkeypatch):
    """Frames 13 to 16 are replaced: what the probe of the next frame is given stays the same, bit for bit; what that of
    flow is given, which sees all frames, does not."""
    from eval.probes.clips import load_clips
    from runtime.processes import World
    from tokenizer import PVVAE, PVVAEConfig

    torch.manual_seed(0)
    vae = PVVAE(PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=2)).eval()
    dataset = open_dataset("moving_shapes", split="test", clip=ClipSpec(17, 32), truth=True)

    class Changed:
        name, clip, skipped = "changed", dataset.clip, ()

        def item(self, index, seed):
            item = dataset.item(index, seed)
            item["video"][:, 13:] = 255 - item["video"][:, 13:]
            return item

        def fingerprint(self):
            return "changed"

        def __len__(self):
            return len(dataset)

    groups = observed_groups(task, 5)
    assert groups == {"next-frame": 4, "flow": 5}[task]
    observed = vae.spec.frames(groups)
    make, found = maker(generator, 2, 0, CPU, torch.float32), []
    passes, encode = [], PVVAE.encode
    monkeypatch.setattr(PVVAE, "encode", lambda self, video: passes.append(len(video)) or encode(self, video))
    monkeypatch.setattr("eval.decode.PIXELS", observed * 32 * 32)  # one clip
    for number, one in enumerate((dataset, Changed())):
        settings = {"observed": observed, "folder": tmp_path / str(number), "seed": 0, "dtype": torch.float32}
        clips = load_clips(task, one, [0, 1], vae, world=World(0, 1, CPU), **settings)
        found.append((make(GENERATOR, clips.latents, 0.0), clips))
    assert passes == [1, 1] * 2
    assert torch.equal(found[0][0], found[1][0]) == (task == "next-frame")
    if task == "next-frame":
        assert clips.latents.shape[2] == 4 and clips.truth.next.shape == (2, 3, 32, 32)
        asked = torch.from_numpy(np.stack([dataset[i]["video"][:, 13] for i in (0, 1)]))
        assert torch.equal(found[0][1].truth.next, asked) and torch.equal(found[1][1].truth.next, 255 - asked)
    with pytest.raises(InputError, match="of one group"):
        observed_groups("next-frame", 1)


def test_units_of_another_truth_are_others(tmp_path):
    """Flow and joints lie in files of their own: when these are mended, the pictures are the same."""
    from eval.probes.clips import load_clips
    from runtime.processes import World
    from tokenizer import PVVAE, PVVAEConfig

    torch.manual_seed(0)
    vae = PVVAE(PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=2)).eval()
    dataset = open_dataset("moving_shapes", split="test", clip=ClipSpec(5, 32), truth=True)

    def key() -> str:
        settings = {"observed": 5, "folder": tmp_path, "seed": 0, "dtype": torch.float32}
        return digest(load_clips("flow", dataset, [0, 1], vae, world=World(0, 1, CPU), **settings).key)

    first, item = key(), type(dataset).__getitem__
    assert key() == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(dataset), "__getitem__", lambda self, i: (f := item(self, i)) | {"flow": f["flow"] + 1})
        assert key() != first


# -- heads -------------------------------------------------------------------------------------------------------------


def flow_items(count: int, seed: int) -> list[dict]:
    """One vector for each clip and group of four steps, on 8 x 8 pixels."""
    vectors = np.random.default_rng(seed).normal(0, 3, (count, 4, 2)).astype(np.float32)
    flow = np.broadcast_to(vectors.repeat(4, 1)[..., None, None], (count, 16, 2, 8, 8))
    return [flow_truth(one) for one in flow]


def flow_truth(one: np.ndarray) -> dict:
    return flow.FlowTruth.part({"flow": np.ascontiguousarray(one)}, 17)


def features_that_hold(items: list[dict]) -> torch.Tensor:
    """The flow of each group as two channels on 2 x 2 cells; the first group, which has none, holds zeros."""
    vectors = np.stack([item["flow"][::4, :, 0, 0] for item in items])  # [N, 4, 2]
    values = np.concatenate([np.zeros_like(vectors[:, :1]), vectors], 1).transpose(0, 2, 1)
    return torch.from_numpy(np.broadcast_to(values[..., None, None], (*values.shape, 2, 2)).copy())


def epe_of(learnt: torch.Tensor, judged: torch.Tensor, steps: int) -> tuple[float, float]:
    """(error of a head, error of zero flow)."""
    training, test = flow.FlowTruth(flow_items(64, 0), 4), flow.FlowTruth(flow_items(32, 1), 4)
    test.scale = training.scale
    head = train_head(learnt, training.loss, steps=steps, channels=2, frames=4, spatial=4, **HEAD)
    found = np.concatenate([test.sums(x, places)["EPE"] for places, x in answers(head, judged, 8, CPU)])
    return mean_of("EPE", found), mean_of("EPE", test.trivial()["EPE"])


def test_a_head_reads_flow_that_features_hold():
    error, zero = epe_of(features_that_hold(flow_items(64, 0)), features_that_hold(flow_items(32, 1)), 300)
    assert zero > 3.0 and error < 0.1 * zero


def test_a_head_on_noise_is_no_better_than_zero_flow():
    noise = torch.Generator().manual_seed(0)
    learnt, judged = (torch.randn(count, 2, 5, 2, 2, generator=noise) for count in (64, 32))
    error, zero = epe_of(learnt, judged, 60)
    assert error > 0.97 * zero


def test_a_head_begins_at_zero_and_its_seed_decides_it():
    features = features_that_hold(flow_items(16, 0))
    truth = flow.FlowTruth(flow_items(16, 0), 4)
    shape = {"channels": 2, "frames": 4, "spatial": 4}
    untrained = train_head(features, truth.loss, steps=0, **shape, **HEAD)
    assert not untrained(features).any()
    a, b, c = (
        train_head(features, truth.loss, steps=3, **shape, **(HEAD | {"seed": seed}))(features) for seed in (0, 0, 1)
    )
    assert a.shape == (16, 5, 4, 2, 8, 8) and torch.equal(a, b) and not torch.equal(a, c)


def test_a_head_shuffles_pixels_into_their_places():
    features = torch.randn(1, 1, 1, 2, 3)
    head = Head(features, channels=1, frames=1, spatial=2, width=4)
    with torch.no_grad():
        head.leave.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))  # rows, then columns of a cell
    picture = head(features)[0, 0, 0, 0]
    assert torch.equal(picture, torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(2, 3))


# -- flow and next frame -----------------------------------------------------------------------------------------------


def test_the_endpoint_error_of_clips_by_hand():
    truth = flow.FlowTruth(flow_items(2, 0), 4)
    truth.flow[:], truth.valid[0, :, :4] = torch.tensor([3.0, 4.0])[None, None, :, None, None], False
    found = truth.trivial()["EPE"]
    assert found.tolist() == [[5.0 * 16 * 32, 16.0 * 32], [5.0 * 16 * 64, 16.0 * 64]]
    truth.scale = 1.0
    answer = torch.zeros(2, 5, 4, 2, 8, 8)
    answer[:, :, :, 0] = 3.0  # the first component is right
    answer[:, 0] = 99.0  # of the first group nothing is asked
    assert mean_of("EPE", truth.sums(answer, [0, 1])["EPE"]) == pytest.approx(4.0)
    assert float(truth.loss(answer, [0, 1])) == pytest.approx(17**0.5 - 1)


def test_the_next_frame_is_the_one_after_those_observed_and_the_last_is_its_trivial_answer():
    video = np.zeros((3, 17, 8, 8), np.uint8)
    video[:, 12], video[:, 13], video[:, 14:] = 0, 255, 77
    truth = next_frame.NextFrame([next_frame.NextFrame.part({"video": video}, 13)] * 2, 4)
    assert mean_of("next-frame MSE", truth.trivial()["next-frame MSE"]) == 4.0  # from -1 to 1
    answer = torch.full((2, 4, 1, 3, 8, 8), 9.0)
    answer[:, -1] = 0.5
    assert mean_of("next-frame MSE", truth.sums(answer, [0, 1])["next-frame MSE"]) == pytest.approx(0.25)
    assert float(truth.loss(answer, [0, 1])) == pytest.approx(0.25)


# -- tracking ----------------------------------------------------------------------------------------------------------


def test_tracking_numbers_by_hand():
    errors = np.array([0.0, 0.5, 1.0, 3.0, 7.5, 20.0, 999.0])
    seen = np.array([True] * 6 + [False])
    assert tracking_auc(errors, seen) == pytest.approx(100 * (1 + 0.95 + 0.9 + 0.7 + 0.25 + 0) / 6)
    # Nearer than 1, 2, 4, 8, 16 pixels: 2, 3, 4, 5 and 5 of 6; the one at 1 is not nearer than 1.
    assert delta_avg(errors, seen) == pytest.approx(100 * (2 + 3 + 4 + 5 + 5) / 30)
    assert tracking_auc(np.full(5, 4.0), np.ones(5, bool)) == pytest.approx(60.0)
    for bad in (-errors, np.full(7, np.nan)):
        with pytest.raises(InputError, match="finite"):
            delta_avg(bad, seen)
    with pytest.raises(InputError, match="no visible"):
        delta_avg(errors, ~np.ones(7, bool))


def test_points_count_where_they_are_visible_after_the_first_time():
    visible = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
    assert tracking.first_seen(visible).tolist() == [0, 1, -1, 3]
    assert tracking.judged(visible).astype(int).tolist() == [[0, 1, 0, 1], [0, 0, 1, 0], [0] * 4, [0] * 4]


def moving_points(size: int, points: int = 5, frames: int = 9) -> dict:
    """Whole-numbered tracks inside of a picture, each in a row of its own."""
    start = np.stack([np.linspace(1, size - 2, points).astype(int), 2 + 3 * np.arange(points)], 1)
    ways = np.stack([np.where(np.arange(points) < points / 2, 1, -1), np.zeros(points, int)], 1)
    tracks = (start[:, None] + np.arange(frames)[None, :, None] * ways[:, None]).clip(0, size - 1).astype(np.float32)
    visible = np.ones((points, frames), bool)
    visible[1, :2] = visible[2, 4:] = False
    return {"tracks": tracks, "visible": visible, "size": (size, size)}


def test_features_that_know_the_points_follow_them_exactly():
    """One channel for each point, one cell for each pixel, one group for each frame: the answer is exact."""
    item, size = moving_points(16), 16
    values = torch.zeros(len(item["tracks"]) + 1, 9, size, size)
    values[-1] = 1.0  # elsewhere all is alike
    for p, track in enumerate(item["tracks"].astype(int)):
        for frame, (x, y) in enumerate(track):
            values[:, frame, y, x] = 0.0
            values[p, frame, y, x] = 1.0
    truth = tracking.Tracks([item], 1)
    found = truth.sums(values[None], [0])
    assert {name: mean_of(name, rows) for name, rows in found.items()} == dict.fromkeys(tracking.Tracks.metrics, 100.0)
    trivial = truth.trivial()
    assert mean_of("tracking AUC", trivial["tracking AUC"]) < 60 and found["tracking AUC"][0, 1] == 8 * 3 + 6 + 3


def test_features_that_know_nothing_answer_that_nothing_moves():
    truth = tracking.Tracks([moving_points(32)] * 2, 4)
    same = truth.sums(torch.ones(2, 3, 3, 4, 4), [0, 1])
    for metric, rows in truth.trivial().items():
        assert np.allclose(same[metric], rows)
    noise = truth.sums(torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), [0, 1])
    assert mean_of("tracking AUC", noise["tracking AUC"]) < mean_of("tracking AUC", truth.trivial()["tracking AUC"])


def test_groups_answer_for_the_frames_in_their_middle():
    assert tracking.group_times(5, 4).tolist() == [0.0, 2.5, 6.5, 10.5, 14.5]
    assert tracking.group_times(4, 1).tolist() == [0.0, 1.0, 2.0, 3.0]
    features = torch.arange(5.0).view(1, 5, 1, 1)
    times = tracking.group_times(5, 4)
    found = [tracking.features_at(features, frame, times).item() for frame in (0, 1.25, 2.5, 4.5, 14.5, 16)]
    assert found == [0.0, 0.5, 1.0, 1.5, 4.0, 4.0]


def test_places_are_found_between_cells():
    """A blob that moves by an eighth of a cell a frame is followed to within a pixel of the clip, from 4 x 4 cells."""
    size, frames = 32, 9
    centres = np.stack([11.5 + np.arange(frames), np.full(frames, 15.5)], 1)
    middle = (np.arange(4) + 0.5) * 8 - 0.5
    # Two channels whose direction turns with the distance from the blob along x.
    angle = (middle[None, :] - centres[:, :1]) / 16
    values = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)])).float()  # [2, N, w]
    values = values[:, :, None].expand(-1, -1, 4, -1).contiguous()
    item = {"tracks": centres[None].astype(np.float32), "visible": np.ones((1, frames), bool), "size": (size, size)}
    answer = tracking.follow(values, item["tracks"], item["visible"], (size, size), 1)
    assert np.abs(answer[0] - centres).max() < 1.0


@pytest.mark.real
def test_points_of_a_real_picture_are_followed_by_its_pixels(real_data):
    """A pan over a frame of DAVIS, one pixel a frame; features are the 7 x 7 pixels around each, without their mean."""
    dataset = open_dataset("davis", str(real_data / "davis"), clip=ClipSpec(1, 64, window="first"))
    picture = torch.from_numpy(dataset[0]["video"]).float()[:, 0]
    patches = torch.nn.functional.unfold(picture[None], 7, padding=3).view(147, 64, 64)
    patches = patches - patches.mean(0)
    frames = 7
    values = torch.stack([patches[:, 16:48, 8 + f : 40 + f] for f in range(frames)], 1)
    start = np.random.default_rng(0).integers(8, 24, (20, 1, 2)).astype(np.float32)
    tracks = start - np.array([1.0, 0.0], np.float32) * np.arange(frames, dtype=np.float32)[None, :, None]
    answer = tracking.follow(values, tracks, np.ones((20, frames), bool), (32, 32), 1)
    assert np.abs(answer - tracks).max() < 1e-4


# -- units -------------------------------------------------------------------------------------------------------------


def test_numbers_are_pooled_but_the_delta_is_one_of_videos():
    rows = np.array([[1.0, 2.0], [9.0, 10.0]])
    assert mean_of("EPE", rows) == pytest.approx(10 / 12) and mean_of("tracking AUC", rows) == pytest.approx(1000 / 12)
    assert mean_of("tracking delta", rows) == pytest.approx(100 * (0.5 + 0.9) / 2)
    assert by_video(np.array([[1, 2], [3, 4], [5, 6]]), ["b", "a", "b"]).tolist() == [[6.0, 8.0], [3.0, 4.0]]


def test_an_interval_covers_fresh_clips_and_fresh_seeds():
    """Clips that scatter by 1 and seeds by 0.3: the mean of 3 x 40 lies in 95 % of the intervals."""
    rng, hits, rounds = np.random.default_rng(0), 0, 200
    for _ in range(rounds):
        values = 5 + rng.normal(0, 1, (1, 40)) + rng.normal(0, 0.3, (3, 1))
        found = estimate_of("EPE", np.stack([values, np.ones((3, 40))], -1))
        hits += found.low <= 5 <= found.high
    assert 0.88 * rounds <= hits <= rounds and "3 seeds of the head" in found.method and found.n == 40


def test_a_difference_on_the_same_clips_and_seeds_is_narrower():
    rng = np.random.default_rng(0)
    values = 5 + rng.normal(0, 1, (3, 40))
    a, b = (np.stack([v, np.ones((3, 40))], -1) for v in (values, values - 0.1 + rng.normal(0, 0.01, (3, 40))))
    paired, alone = estimate_of("EPE", a, b), estimate_of("EPE", a)
    assert paired.low < 0.1 < paired.high and paired.high - paired.low < 0.1 * (alone.high - alone.low)
    assert estimate_of("EPE", a, a[:1]).n == 40  # the trivial answer has no seeds
    one = estimate_of("EPE", a[:, :1])
    assert one.n == 1 and not np.isfinite(one.high)


def test_videos_without_anything_to_judge_do_not_count():
    rows = np.array([[[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]])
    assert estimate_of("tracking delta", rows).n == 2
    with pytest.raises(InputError, match="no clip has anything"):
        estimate_of("tracking AUC", rows[:, 1:2])


def test_sums_that_are_not_finite_are_not_kept(tmp_path):
    key = {"source": "generator"}
    with pytest.raises(InputError, match="errors of generator are not finite"):
        make_unit(tmp_path, key, lambda: {"EPE": np.array([[np.nan, 4.0]])})
    assert not is_kept(tmp_path, key)


def test_a_unit_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"EPE": np.array([[1.5, 2.0], [0.1, 3.0]])}

    key, other = {"task": "flow", "seed": 0}, {"task": "flow", "seed": 1}
    assert not is_kept(tmp_path, key)
    for _ in range(2):
        make_unit(tmp_path, key, make)
        unit = read_unit(unit_path(tmp_path, key))
        assert unit.key == key and unit.sums["EPE"].tolist() == [[1.5, 2.0], [0.1, 3.0]]
    assert len(made) == 1 and is_kept(tmp_path, key) and not is_kept(tmp_path, other)
    with pytest.raises(InputError, match="no such file"):
        read_unit(unit_path(tmp_path, other))
    (path,) = tmp_path.glob("unit-*.json")
    named_otherwise = path.read_text().replace('"seed": 0', '"seed": 2')
    for text in (
        named_otherwise,
        "",
        '{"key": {}, "sums": {"EPE": 5}}',
        '{"key": {}, "sums": {"EPE": [[1, 2], [3]]}}',
        "[" * 10_000,
    ):
        path.write_text(text)
        with pytest.raises(InputError, match="unit-"):
            read_unit(path)


# -- clips -------------------------------------------------------------------------------------------------------------


def test_clips_are_as_the_generator_was_trained():
    facts = {"data": "ucf101", "clip": '{"num_frames": 17, "size": 64, "frame_stride": 3, "window": "random"}'}
    assert clip_of(facts, "ucf101") == ClipSpec(17, 64, 3, "first")
    assert clip_of(facts, "sintel") == ClipSpec(17, 64, 1, "first")


def test_windows_of_all_videos_take_turns_in_a_draw():
    class Windowed:
        in_windows = True

        def classes(self):
            return ["a"] * 5 + ["b"] * 2

    first = drawn(Windowed(), "tapvid_davis", 4, 0)
    assert sorted(item >= 5 for item in first) == [False, False, True, True]
    assert drawn(open_dataset("moving_shapes", split="test"), "moving_shapes", 3, 0) == [0, 1, 2]
