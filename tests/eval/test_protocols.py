"""Every protocol spells out every setting, and says how it differs."""

import dataclasses

import pytest

from eval.features import FEATURE_NETWORKS
from eval.protocols import PAPER, PROTOCOLS, Protocol, find_protocol
from runtime.errors import InputError
from runtime.published_weights import PUBLISHED

SETTINGS = [field for field in dataclasses.fields(Protocol) if "label" in field.metadata]


def test_the_six_protocols_are_there_under_their_own_names():
    assert list(PROTOCOLS) == ["paper", "stylegan-v", "latte", "videogpt", "tats", "cd-fvd"]
    assert all(find_protocol(name).name == name for name in PROTOCOLS)


def test_an_unknown_one_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean stylegan-v"):
        find_protocol("styleganv")
    with pytest.raises(InputError, match="known: paper, stylegan-v"):
        find_protocol("xyz")


def test_none_can_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.generated = 10


def test_ours_is_the_papers():
    assert (PAPER.generated, PAPER.real, PAPER.num_frames, PAPER.resolution, PAPER.repeats) == (2048, 2048, 17, 256, 1)
    assert (PAPER.ddof, PAPER.bn_eps, PAPER.to_uint8, PAPER.is_splits) == (1, 1e-3, "rounding", (1, 10))
    assert PAPER.differs_from(PAPER) == []


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "paper"])
def test_the_others_say_in_words_every_setting_that_differs_and_no_other(name):
    protocol = PROTOCOLS[name]
    words = protocol.differs_from(PAPER)
    differing = [field for field in SETTINGS if getattr(protocol, field.name) != getattr(PAPER, field.name)]
    if protocol.is_network == "none":  # without a score there is nothing to say of how it is made
        differing = [field for field in differing if field.name not in ("is_splits", "is_shuffle_seed")]
    assert len(words) == len(differing) >= 8
    for line, field in zip(words, differing, strict=True):
        assert line.startswith(field.metadata["label"] + ": ") and "(paper: " in line
        assert "None" not in line
    assert len(PAPER.differs_from(protocol)) == len(words)
    assert protocol.source and protocol.remark


@pytest.mark.parametrize("field", SETTINGS, ids=lambda field: field.name)
def test_any_single_setting_that_changes_is_named(field):
    (line,) = dataclasses.replace(PAPER, **{field.name: 7}).differs_from(PAPER)
    assert line.startswith(field.metadata["label"]) and "7 (paper: " in line


def test_weights_are_files_that_the_project_knows_where_it_has_their_network():
    assert "i3d" in FEATURE_NETWORKS
    for protocol in PROTOCOLS.values():
        assert protocol.weights in PUBLISHED or protocol.name == "cd-fvd"


def test_the_known_traps_are_written_down():
    said = {name: protocol.differs_from(PAPER) for name, protocol in PROTOCOLS.items()}
    assert said["stylegan-v"][0].startswith("which real clips: the first 2,048 folders")
    assert "frame stride of real clips: 3 (paper: the generator's own)" in said["latte"]
    assert "shuffle seed of the Inception Score: 42 (paper: none)" in said["latte"]
    assert "generated clips: 256 (paper: 2,048)" in said["videogpt"]
    assert "pairs of sets, of which the mean is given: 4 (paper: 1)" in said["videogpt"]
    assert "eps of batch norm: 1e-05 (paper: 0.001)" in said["tats"]
    assert PROTOCOLS["tats"].kvd == PAPER.kvd
    assert "real clips: all (paper: 2,048)" in said["cd-fvd"]
    assert "covariances divided by: N (paper: N - 1)" in said["cd-fvd"]
