"""tFVD: which latents are averaged, which frames are judged, and what comes of it where the answer is known."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from eval.analysis.latent_rows import temporal_rows
from eval.analysis.temporal_fvd import FrameRule, TemporalView, averaged, frame_rule, temporal_features, temporal_name
from eval.features.store import FeatureSet
from runtime.errors import InputError
from tokenizer.baselines.registry import BASELINES
from tokenizer.spec import Posterior, TokenizerSpec
from videos import ClipSpec


@dataclass(frozen=True, kw_only=True)
class Fours(TokenizerSpec):
    """Groups of four frames from the first one on, as V-RAE has them."""

    def groups(self, num_frames):
        if num_frames % 4 or not num_frames:
            raise InputError(f"{num_frames} frames")
        return num_frames // 4

    def frames(self, groups):
        return 4 * groups


FOURS = Fours(name="fours", temporal=4, spatial=1, channels=3)


def test_frames_and_groups_are_those_of_the_rules():
    rule = frame_rule(FOURS)
    assert (rule.num_frames, rule.averaged) == (24, ((0, 2), (1, 3), (2, 4), (3, 5)))
    assert (rule.plain, rule.scored, rule.decoded) == ((1, 2, 3, 4), range(4, 20), range(16))
    rule = frame_rule(BASELINES["wan2.2"].spec)
    assert (rule.num_frames, rule.averaged) == (25, ((0, 0), (1, 1), (1, 3), (2, 4), (3, 5), (4, 6)))
    assert (rule.plain, rule.scored, rule.decoded) == ((0, 1, 2, 3, 4, 5), range(5, 21), range(5, 21))
    # It decodes an odd number of groups alone.
    assert frame_rule(BASELINES["cogvideox"].spec).averaged[-1] == (6, 6)
    rule = frame_rule(BASELINES["ltx"].spec)
    assert (rule.num_frames, rule.scored, rule.suffix) == (49, range(9, 41), "-1+8k")
    with pytest.raises(InputError, match="four groups are 4 frames"):
        frame_rule(BASELINES["sd1.5"].spec)


def test_only_the_authors_rule_with_i3d_is_called_tfvd():
    own, other = frame_rule(FOURS), frame_rule(BASELINES["wan2.1"].spec)
    assert temporal_name(own, "i3d") == "tFVD" and temporal_name(own, "shapes") == "tFD-shapes"
    assert temporal_name(other, "i3d") == "tfvd-1+4k" and temporal_name(other, "shapes") == "tfd-shapes-1+4k"


class Groups(torch.nn.Module):
    """Latents are the mean frame of every group, decoded to a group of equal frames."""

    encoder_hash = decoder_hash = "groups"

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def encode(self, video):
        first = [] if isinstance(self.spec, Fours) else [video[:, :, :1]]
        rest = video[:, :, len(first) :]
        return Posterior(torch.cat([*first, rest.unflatten(2, (-1, 4)).mean(3)], dim=2))

    def decode(self, latents):
        first = [] if isinstance(self.spec, Fours) else [latents[:, :, :1]]
        return torch.cat([*first, latents[:, :, len(first) :].repeat_interleave(4, dim=2)], dim=2)


class Frames:
    """Stands for a feature network: the mean of every judged frame."""

    name, version_hash, dim = "i3d", "frames", 16

    def features(self, video):
        return video.mean((1, 3, 4))


@pytest.mark.parametrize("spec", [FOURS, TokenizerSpec(name="one", temporal=4, spatial=1, channels=3)])
def test_a_mean_of_neighbours_changes_nothing_on_a_line_and_takes_a_jump_away(spec, monkeypatch):
    rule = frame_rule(spec)
    frames = torch.arange(rule.num_frames).repeat_interleave(1)
    group = -(-frames // 4) if rule.suffix else frames // 4
    line, jump = 10 * group, 100 * (group == 3)
    video = torch.stack([line, jump]).to(torch.uint8)[:, None, :, None, None].expand(2, 3, -1, 2, 2)
    settings = {"network": Frames(), "rule": rule, "device": torch.device("cpu")}
    view = TemporalView(vae=Groups(spec), batch_size=1, **settings)
    rows, _ = view.see(video)
    passes, see = [], TemporalView._see
    monkeypatch.setattr("eval.decode.PIXELS", rule.num_frames * 2 * 2)  # one clip
    monkeypatch.setattr(TemporalView, "_see", lambda self, part: passes.append(len(part)) or see(self, part))
    assert torch.equal(TemporalView(vae=Groups(spec), **settings).see(video)[0], rows) and passes == [1, 1]
    kept = FeatureSet(rows.numpy(), None, np.array([-1, -1]), key=view.key(ClipSpec(rule.num_frames, 2), False))
    (means, real), (plain, same) = (
        temporal_features(kept, what) for what in ("averaged latents", "latents as they are")
    )
    assert np.array_equal(real, same) and np.array_equal(plain, real)
    assert means[0] == pytest.approx(real[0], abs=1e-6)
    levels = np.rint((means[1] + 1) * 127.5)
    # Judged groups are 2 … 5 or 1 … 4; the jump in group 3 goes to its neighbours by halves.
    expected = np.repeat([50, 0, 50, 0], 4) if rule.suffix else np.repeat([0, 50, 0, 50], 4)
    assert levels.tolist() == expected.tolist()
    found = {row.subject: row for row in temporal_rows(kept)}
    assert found["latents as they are"].value == pytest.approx(0, abs=1e-9)
    assert found["averaged latents"].value > 0.1 and "frame stride 1" in found["averaged latents"].note
    assert found["averaged latents"].metric == ("tfvd-1+4k" if rule.suffix else "tFVD")


def test_means_are_those_of_the_named_groups():
    rule = FrameRule("", 0, ((0, 2), (1, 1)), (), range(0), range(0))
    found = averaged(torch.tensor([1.0, 10.0, 4.0]).view(1, 1, 3, 1, 1), rule)
    assert found.flatten().tolist() == [2.5, 10.0]


@pytest.mark.parametrize("change", [{"temporal": None}, {"network": "resnet"}, {"stratified": 1}])
def test_rows_of_something_else_are_refused(change):
    key = {"temporal": "tFVD", "network": "i3d", "weights": "", "stratified": False}
    with pytest.raises(InputError):
        kept = FeatureSet(np.zeros((2, 6), np.float32), None, np.zeros(2), key=key | change)
        temporal_features(kept, "averaged latents")
    with pytest.raises(InputError, match="rows of 7 numbers"):
        temporal_features(FeatureSet(np.zeros((2, 7), np.float32), None, np.zeros(2), key=key), "averaged latents")
