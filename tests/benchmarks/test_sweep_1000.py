"""The benchmark of many realignments in small."""

from benchmarks.sweep_1000 import make_grid, run


def test_both_give_the_same_bytes():
    result = run(make_grid(2, 2, 3), 1)
    assert result["identical"]
    assert result["realignments"] == 12
    assert result["ratio"] > 0
