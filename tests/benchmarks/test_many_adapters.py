"""The benchmark of several adapters in small: both sides make the same tokens."""

import pytest

from benchmarks.accelerator import sizes
from benchmarks.many_adapters import run

pytestmark = pytest.mark.long


def test_tokens_are_the_same():
    result = run(sizes(toy=True).config, adapters=3, rows=2, length=6, new_tokens=4, rank=4, rounds=1)
    assert result["equal_tokens"] == 1.0
    assert result["limit_s"] > 0
