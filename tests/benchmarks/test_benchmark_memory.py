"""The memory benchmark: readings of a process, and the line through them."""

import sys

import pytest

from benchmarks.memory import slope_of, watch
from runtime.errors import InputError


def test_the_line_leaves_the_warm_up_out_and_counts_by_the_thousand():
    warm, flat = [float(i) for i in range(0, 100, 4)], [100.0] * 75
    found = slope_of(warm + flat, 2000)
    assert [found[name] for name in ("per_1000", "start", "end")] == pytest.approx([0, 100, 100], abs=1e-6)
    growing = slope_of([100.0 + i for i in range(101)], 4000)
    assert growing["per_1000"] == pytest.approx(25, rel=0.02) and growing["peak"] == 200


def test_too_few_readings_are_refused():
    with pytest.raises(InputError, match="readings after the warm-up"):
        slope_of([1.0] * 9, 100)


def test_a_process_that_takes_memory_is_seen_and_one_that_fails_is_named():
    taking = "import time\nkept = []\nfor _ in range(5):\n kept.append(bytearray(32 * 2**20))\n time.sleep(0.5)"
    found = watch([sys.executable, "-c", taking])
    assert max(found) - found[0] > 60
    with pytest.raises(InputError, match="ended with 3"):
        watch([sys.executable, "-c", "raise SystemExit(3)"])
