"""Prediction error against repeating the last observed frame."""

import pytest
import torch

from tokenizer.validation import moving_pixels, prediction_errors


def scene() -> torch.Tensor:
    """A white square that steps right each frame over black, `[1, 3, 5, 8, 8]`."""
    video = torch.full((1, 3, 5, 8, 8), -1.0)
    for frame in range(5):
        video[:, :, frame, 2:4, frame : frame + 2] = 1.0
    return video


def test_moving_pixels_are_where_frames_leave_the_last_observed_one():
    moving = moving_pixels(scene(), 3)
    assert moving.shape == (1, 1, 2, 8, 8)
    assert (
        moving[0, 0, 0].sum() == 4 and moving[0, 0, 1].sum() == 8
    )  # one column leaves and one comes; then two and two


def test_a_perfect_prediction_has_no_error_and_repetition_scores_one():
    video = scene()
    ours, repeat = prediction_errors(video, video, 3)
    assert float(ours.sum()) == 0.0 and float(repeat.sum()) > 0
    frozen = video.clone()
    frozen[:, :, 3:] = video[:, :, 2:3]
    ours, repeat = prediction_errors(video, frozen, 3)
    assert float(ours.sum() / repeat.sum()) == pytest.approx(1.0)


def test_errors_outside_moving_pixels_do_not_count():
    video = scene()
    wrong = video.clone()
    wrong[:, :, 3:, 7, 7] = 1.0
    assert float(prediction_errors(video, wrong, 3)[0].sum()) == 0.0
