"""The registry of numbers: each has one name, one direction and one recipe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest

from eval.features import FRECHET_NAMES, KERNEL_NAMES
from eval.features.store import FeatureSet
from eval.measurements import COLUMNS
from eval.metrics.frechet import frechet_distance
from eval.metrics.inception import inception_score
from eval.metrics.published_roots import frechet_by_sqrtm
from eval.protocols.presets import PROTOCOLS
from eval.quantities import PROBES, better, difference_of, distance_rows, estimate_of, number_named, score_rows
from eval.results.published import TABLES
from eval.results.tables import SPEED


def seen(count=60, shift=0.0, classes=4, **key) -> FeatureSet:
    rng = np.random.default_rng(int(10 * shift) + count)
    features = rng.normal(size=(count, 6)) + shift
    probabilities = rng.dirichlet(np.full(12, 0.3), size=count)
    key = {"network": "i3d", "weights": "w", "data": "ucf101"} | key
    return FeatureSet(features, probabilities, np.arange(count) % classes, key=key)


@pytest.mark.parametrize(
    "metric, way",
    [
        ("FVD", "lower"),
        ("FVD at infinity to reconstructions", "lower"),
        ("KD-shapes to reconstructions", "lower"),
        ("IS", "higher"),
        ("IS-shapes (10 splits)", "higher"),
        ("accuracy-motion", "higher"),
        ("PSNR", "higher"),
        ("LPIPS (vgg)", "lower"),
        ("change explained", "higher"),
        ("error / repeat, frame +3", "lower"),
        ("rFD-shapes", "lower"),
        ("FVD of something", ""),
        ("accuracy-colour", ""),
    ],
)
def test_every_metric_has_its_direction(metric, way):
    assert better(metric) == way


def test_every_column_that_is_published_and_measured_here_has_a_recipe_with_its_direction():
    columns = [column for table in TABLES.values() for column in table.columns if column.metric]
    assert len(columns) > 20
    timed = [column for column in columns if column.subject == SPEED]  # and counted: nothing to compute again
    probed = [column for column in columns if column.metric in PROBES]  # heads that were trained
    assert all(column.better in ("lower", "higher") for column in timed if column.metric != "parameters") and timed
    assert all(better(column.metric) in ("lower", "higher") for column in probed) and probed
    for column in columns:
        if column not in timed + probed:
            assert number_named(column.metric, column.subject).better in ("lower", "higher"), column.title


def test_every_column_of_measurements_and_every_network_is_found_by_name():
    for column in COLUMNS:
        assert number_named(column.metric, column.subject).metric is column.function
    for name in (*FRECHET_NAMES.values(), *KERNEL_NAMES.values()):
        assert number_named(name).name == name
    assert number_named("PSNR", "predicted") is None and number_named("") is None


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "videogpt"])
def test_a_protocols_root_divisor_and_splits_make_its_numbers(name):
    protocol = PROTOCOLS[name]
    a, b = seen(), seen(shift=0.3)
    distance = estimate_of(number_named("FVD", "generated", protocol), (a, b))
    exact = frechet_distance(a.features, b.features, ddof=protocol.ddof)
    assert distance.value == pytest.approx(exact, rel=1e-4)
    if protocol.root == "scipy.linalg.sqrtm, real part, float64":
        assert distance.value == frechet_by_sqrtm(a.features, b.features, protocol.ddof)
    rows = distance_rows(a, b, "generated", protocol=protocol)
    assert [row.metric for row in rows] == (["FVD"] if protocol.kvd == "none" else ["FVD", "KVD"])
    assert all(row.protocol.startswith(f"{name}@") for row in rows) or name == "paper"


def test_the_shuffle_of_a_protocol_is_part_of_its_score():
    protocol = dataclasses.replace(PROTOCOLS["stylegan-v"], is_splits=(5,))
    kept = seen(200, network="c3d")
    (row,) = score_rows(kept, "generated", protocol=protocol)
    assert row.value == inception_score(kept.probabilities, 5, 42) != inception_score(kept.probabilities, 5)


@pytest.mark.parametrize("count, classes", [(24, 12), (25, 10), (40, 2)])
def test_splits_that_blocks_by_class_leave_too_few_clips_for_are_not_measured(count, classes):
    rows = score_rows(seen(count, classes=classes, network="c3d"), "generated")
    assert [row.metric for row in rows] == ["IS", "IS (10 splits)"] and rows[0].value > 1
    assert (rows[1].value is None) == (count < 40)


def test_a_difference_is_that_of_two_estimates():
    a, b, reference = seen(shift=0.1), seen(shift=0.4), seen(80)
    for metric in ("FVD", "KVD", "FVD at infinity"):
        number = number_named(metric, "generated")
        apart = difference_of(number, (a, reference), (b, reference))
        sides = [estimate_of(number, (kept, reference)) for kept in (a, b)]
        assert apart.value == pytest.approx(sides[0].value - sides[1].value)
    for metric in ("IS", "accuracy-class"):
        number = number_named(metric, "generated")
        sides = [estimate_of(number, (kept,)) for kept in (a, b)]
        assert difference_of(number, (a,), (b,)).value == pytest.approx(sides[0].value - sides[1].value)


@pytest.mark.parametrize("wrong", [0, 1, 4, 100])
def test_a_share_of_clips_has_an_interval_where_nearly_all_are_hit(wrong):
    labels = np.arange(256) % 12
    probabilities = np.eye(12)[(labels + (np.random.default_rng(0).permutation(256) < wrong)) % 12]
    kept = FeatureSet(np.zeros((256, 2)), probabilities, labels, key={"network": "shapes", "data": "moving_shapes"})
    found = estimate_of(number_named("accuracy-class"), (kept,))
    assert found.value == 1 - wrong / 256
    at_ends = binomtest(256 - wrong, 256).proportion_ci(method="wilson")
    assert found.low < found.value and (found.low <= at_ends.low or wrong >= 5)
    assert ("Wilson" in found.method) == (wrong < 5)


def test_a_share_ends_at_nought_and_one():
    kept = dataclasses.replace(seen(), probabilities=np.eye(12)[np.arange(60) % 4])
    found = estimate_of(number_named("accuracy-class"), (kept,))
    assert (found.value, found.high) == (1.0, 1.0)
