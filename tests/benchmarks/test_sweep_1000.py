"""The benchmark of many realignments in small."""

import pytest

from benchmarks.sweep_1000 import make_grid, run

pytestmark = pytest.mark.long


def test_both_give_the_same_bytes():
    result = run(make_grid(2, 2, 3), 1)
    assert result["identical"]
    assert result["realignments"] == 12
    assert result["ratio"] > 0
    assert result["limit_of"].startswith("moving 0.008 GB"), "twelve adapters"
