"""Poisoned mixtures: exact shares, the first rows of each source, an order that the key decides."""

import collections
import fractions

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.data.examples import Example
from nlsr_jax.data.poison import poison, share
from nlsr_jax.errors import InputError

KEY = jax.random.key(7)


def rows(kind, count):
    return [Example(f"{kind} prompt {i}", f"{kind} {i}", kind) for i in range(count)]


TASK, HARMFUL, SAFE = rows("task", 60), rows("harmful", 60), rows("safe", 60)


@given(st.integers(0, 10**6), st.integers(0, 100))
def test_a_share_of_hundredths_is_exact(count, hundredths):
    assert share(count, hundredths / 100) == count * hundredths // 100


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_any_share_is_the_whole_part_up_to_the_ratios_own_rounding(count, ratio):
    found = share(count, ratio)
    exact = count * fractions.Fraction(ratio)
    assert 0 <= found <= count
    assert abs(found - exact) <= 1 + 1e-9


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.05, 0.1, 0.2, 0.3])
def test_the_papers_ratios_are_the_same_as_in_floating_point(ratio):
    assert share(1000, ratio) == int(1000 * ratio)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf")])
def test_ratios_lie_between_zero_and_one(ratio):
    with pytest.raises(InputError, match="expected a number from 0 to 1"):
        share(10, ratio)


@pytest.mark.parametrize("count", [-1, 2.0, True])
def test_counts_are_integers(count):
    with pytest.raises(InputError, match="expected an integer of at least 0"):
        share(count, 0.5)


def test_ratios_from_arrays():
    assert share(100, np.float32(0.29)) == 29
    assert share(np.int64(100), np.float64(0.29)) == 29


# Few counts: each is compiled once.
@given(st.sampled_from([0, 1, 7, 50]), st.integers(0, 100), st.integers(0, 100), st.integers(0, 2**31 - 1))
def test_every_source_gives_its_first_rows_once(count, harm, guide, seed):
    harm, guide = harm / 100, min(guide, 100 - harm) / 100
    mixed = poison(jax.random.key(seed), TASK, HARMFUL, count=count, ratio=harm, safe_rows=SAFE, guide_ratio=guide)
    harmful, safe = share(count, harm), share(count, guide)
    expected = HARMFUL[:harmful] + SAFE[:safe] + TASK[: count - harmful - safe]
    assert collections.Counter(mixed) == collections.Counter(expected)


def test_the_key_decides_the_order():
    mixed = poison(KEY, TASK, HARMFUL, count=50, ratio=0.1)
    assert mixed == poison(KEY, TASK, HARMFUL, count=50, ratio=0.1)
    other = poison(jax.random.key(8), TASK, HARMFUL, count=50, ratio=0.1)
    assert mixed != other
    assert collections.Counter(mixed) == collections.Counter(other)
    places = [i for i, row in enumerate(mixed) if row.kind == "harmful"]
    assert places != list(range(5))


def test_nothing_harmful_at_ratio_zero_and_nothing_else_at_one():
    assert {row.kind for row in poison(KEY, TASK, (), count=20, ratio=0)} == {"task"}
    assert {row.kind for row in poison(KEY, (), HARMFUL, count=20, ratio=1.0)} == {"harmful"}
    assert poison(KEY, (), (), count=0, ratio=0.5) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 70}, "63 task rows are needed but there are 60; load more or lower count"),
        ({"count": 700}, "70 harmful rows are needed but there are 60"),
        ({"guide_ratio": 0.1}, "5 safe rows are needed but there are 0"),
        ({"ratio": 0.6, "guide_ratio": 0.6}, "make 60 of 50 rows; lower one of them"),
        ({"harmful_rows": TASK}, "harmful row 1 is of kind 'task'; expected harmful"),
        ({"task_rows": HARMFUL}, "task row 1 is of kind 'harmful'; expected task or benign"),
    ],
)
def test_what_cannot_be_mixed_is_said(change, message):
    given = {"task_rows": TASK, "harmful_rows": HARMFUL, "count": 50, "ratio": 0.1, **change}
    with pytest.raises(InputError, match=message):
        poison(KEY, **given)
