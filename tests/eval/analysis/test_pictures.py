"""Pictures of latents and of motion, where what they must show is known."""

import numpy as np
import pytest
import torch

from eval.analysis.pictures import estimated_flow, flow_as_rgb, flow_of, groups_as_frames, latents_as_rgb
from videos import ClipSpec, open_dataset


def test_directions_become_colours_and_ends_of_the_range_black_and_full():
    latents = np.zeros((1, 4, 2, 1, 3))
    latents[0, 2, :, 0] = [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]  # along the first direction alone
    latents[0, 1, 0, 0] = [5.0, 5.0, 9.0]
    directions = np.eye(4)[[2, 1, 0]]
    found = latents_as_rgb(latents, directions)
    assert found.shape == (1, 2, 1, 3, 3) and found.dtype == np.uint8
    assert found[0, :, 0, :, 0].tolist() == [[0, 0, 255], [0, 255, 255]]
    assert not found[..., 2].any()  # a component that never changes
    assert latents_as_rgb(latents, directions[:1])[..., 2].tolist() == found[..., 0].tolist()


def test_a_group_is_shown_for_its_frames_and_a_cell_for_its_pixels():
    groups = np.arange(3 * 2 * 2 * 3).reshape(3, 2, 2, 3)
    frames = groups_as_frames(groups, 9, 4, 6, 4)
    assert frames.shape == (9, 4, 6, 3)
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 12, 12, 12, 12, 24, 24, 24, 24]
    assert (frames[0, 2:, 3:] == groups[0, 1, 1]).all() and (frames[0, :2, :3] == groups[0, 0, 0]).all()


def test_flow_to_the_right_is_red_and_what_stands_is_white():
    flow = np.zeros((1, 2, 1, 4))
    flow[0, 0, 0, 1:] = [4.0, 2.0, -4.0]
    found = flow_as_rgb(flow, largest=4.0)[0, 0]
    assert found.tolist() == [[255, 255, 255], [255, 0, 0], [255, 128, 128], [0, 255, 255]]


def test_estimated_flow_comes_back_at_the_clips_size_in_its_pixels():
    seen = []

    def network(first, second):
        seen.append(first.shape)
        flow = torch.zeros(1, 2, *first.shape[2:])
        flow[:, 0], flow[:, 1] = 8.0, -4.0  # in pixels of what it was shown
        return [flow * 0, flow]

    found = estimated_flow(torch.zeros(3, 3, 64, 48, dtype=torch.uint8), network)
    assert seen == [(1, 3, 168, 128)] * 2 and found.shape == (2, 2, 64, 48)  # at least 128, multiples of 8
    assert found[:, 0] == pytest.approx(8 * 48 / 128) and found[:, 1] == pytest.approx(-4 * 64 / 168)


def test_raft_of_torchvision_is_called_as_it_wants(monkeypatch, tmp_path):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    network = raft_small(weights=None).eval().requires_grad_(False)
    clip = torch.randint(0, 255, (3, 2, 32, 32), dtype=torch.uint8)
    assert np.isfinite(estimated_flow(clip, lambda a, b: network(a, b, num_flow_updates=1))).all()


def test_flow_is_exact_where_it_is_known_and_absent_with_its_reason_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clip = ClipSpec(5, 16)
    dataset = open_dataset("moving_shapes", split="test", clip=clip)
    flow, words = flow_of(dataset, [3], torch.zeros(1, 3, 5, 16, 16, dtype=torch.uint8))
    truth = open_dataset("moving_shapes", split="test", clip=clip, truth=True)[3]["flow"]
    assert words == "exact flow" and np.array_equal(flow[0], truth) and not dataset.truth
    flow, words = flow_of(object(), [0], torch.zeros(1, 3, 5, 16, 16, dtype=torch.uint8))
    assert flow == [] and "raft_large_C_T_SKHT_V2-ff5fadd5.pth" in words
    assert flow_of(dataset, [0], torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8)) == ([], "pictures have no flow")
