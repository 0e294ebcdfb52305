"""Intervals and tests of rates against SciPy's, and how often they are right."""

import itertools

import jax
import numpy as np
import pytest
from scipy.stats import binom, binomtest

from nlsr_jax.gate.bounds import HOLDS, UNDECIDED, VIOLATED, conclude, decide, judge_limits
from nlsr_jax.gate.intervals import bootstrap_means, exact_limits, wilson
from nlsr_jax.gate.kinds import KINDS
from nlsr_jax.gate.paired import compare, difference_interval, sign_test
from nlsr_jax.gate.rates import Rate

KEY = jax.random.key(3)
COUNTS = [(0, 20), (1, 20), (20, 20), (3, 59), (37, 100), (336, 336), (250, 300)]


def rate(count, rows, name="hs", unknown=0):
    values = np.concatenate([np.ones(count), np.zeros(rows - count)])
    open_rows = np.arange(rows) >= rows - unknown
    return Rate(name, values, open_rows if unknown else None)


@pytest.mark.parametrize(("count", "rows"), COUNTS)
def test_intervals_are_those_of_scipy(count, rows):
    found = binomtest(count, rows).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson(count, rows), (found.low, found.high), atol=1e-12)
    lower, upper = exact_limits(count, count, rows)
    ends = [binomtest(count, rows, alternative=side).proportion_ci(0.95, "exact") for side in ("greater", "less")]
    np.testing.assert_allclose((lower, upper), (ends[0].low, ends[1].high), atol=1e-12)


@pytest.mark.parametrize(("fewer", "more"), [(0, 0), (0, 6), (5, 5), (3, 14), (40, 21)])
def test_the_paired_test_is_the_exact_binomial_one(fewer, more):
    expected = binomtest(fewer, fewer + more).pvalue if fewer + more else 1.0
    assert sign_test(fewer, more) == pytest.approx(expected)


@pytest.mark.parametrize("rows", [20, 59, 100, 336])
@pytest.mark.parametrize("bound", [0.02, 0.05, 0.5, 0.9])
def test_a_bound_is_decided_wrongly_in_at_most_five_of_a_hundred_samples(rows, bound):
    counts = np.arange(rows + 1)
    chance = binom.pmf(counts, rows, bound)
    for upper in (True, False):
        outcomes = [judge_limits(*exact_limits(x, x, rows), bound, upper_bound=upper) for x in counts]
        for outcome in (HOLDS, VIOLATED):  # at the bound itself, where either is as likely as it can be
            assert chance[[one == outcome for one in outcomes]].sum() <= 0.05 + 1e-9


def test_wilsons_limits_would_be_wrong_more_often():
    counts, rows, bound = np.arange(101), 100, 0.0265
    outcomes = [judge_limits(*wilson(x, rows, 0.9), bound, upper_bound=True) for x in counts]
    assert binom.pmf(counts, rows, bound)[[one == HOLDS for one in outcomes]].sum() > 0.06


@pytest.mark.parametrize(
    ("name", "bound", "count", "rows", "outcome"),
    [
        ("max_hs", 5, 0, 59, HOLDS),
        ("max_hs", 5, 0, 58, UNDECIDED),
        ("max_hs", 5, 20, 100, VIOLATED),
        ("min_benign", 95, 59, 59, HOLDS),
        ("min_benign", 95, 80, 100, VIOLATED),
        ("min_benign", 95, 96, 100, UNDECIDED),
        ("min_benign", 95, 93, 100, UNDECIDED),
    ],
)
def test_outcomes_and_how_many_rows_would_do(name, bound, count, rows, outcome):
    found = decide(name, bound, rate(count, rows), KEY)
    assert (found.outcome, found.rows) == (outcome, rows)
    if outcome != UNDECIDED:
        assert found.rows_needed is None
        return
    needed, share = found.rows_needed, count / rows
    assert needed > rows
    assert decide(name, bound, rate(round(needed * share), needed), KEY).outcome != UNDECIDED
    fewer = int(0.9 * needed)
    assert decide(name, bound, rate(round(fewer * share), fewer), KEY).outcome == UNDECIDED


def test_at_the_bound_no_number_of_rows_would_do():
    assert decide("max_hs", 5, rate(5, 100), KEY).rows_needed is None


def test_unreadable_verdicts_count_against_either_decision():
    assert decide("max_hs", 5, rate(0, 100), KEY).outcome == HOLDS
    assert decide("max_hs", 5, rate(0, 100, unknown=10), KEY).outcome == UNDECIDED
    assert decide("max_hs", 5, rate(20, 100, unknown=70), KEY).outcome == VIOLATED
    low, high = rate(20, 100, unknown=70).interval(KEY)
    assert (low, high) == (wilson(20, 100)[0], wilson(90, 100)[1])


def test_a_check_passes_where_all_bounds_hold():
    decisions = {
        HOLDS: decide("max_hs", 5, rate(0, 100), KEY),
        VIOLATED: decide("max_over_refusal", 5, rate(50, 100), KEY),
        UNDECIDED: decide("min_benign", 95, rate(96, 100), KEY),
    }
    for names in itertools.product(decisions, repeat=3):
        expected = "fails" if VIOLATED in names else "undecided" if UNDECIDED in names else "passes"
        assert conclude([decisions[name] for name in names]) == expected
    assert conclude([]) == "measured"
    assert set(KINDS) == {"max_hs", "max_over_refusal", "min_benign", "min_fa"}


def test_scores_that_are_no_proportions_are_bootstrapped():
    values = np.random.default_rng(0).beta(8, 2, 200)
    graded = Rate("fa", values)
    means = bootstrap_means(KEY, values)
    np.testing.assert_array_equal(means, bootstrap_means(KEY, values))
    assert np.any(means != bootstrap_means(jax.random.key(4), values))
    low, high = graded.interval(KEY)
    half = 1.96 * values.std() / np.sqrt(200)
    # 4000 draws know a limit to a tenth of its distance from the mean
    np.testing.assert_allclose((low, high), (values.mean() - half, values.mean() + half), atol=0.1 * half)
    assert decide("min_fa", 100 * (low - 0.03), graded, KEY).outcome == HOLDS
    open_one = decide("min_fa", 100 * values.mean() - 0.5, graded, KEY)
    assert open_one.outcome == UNDECIDED
    reach = 1.645 * values.std() / 0.005
    assert open_one.rows_needed == pytest.approx(reach**2, rel=0.2)


def test_equal_scores_are_not_known_without_doubt():
    equal = Rate("fa", np.full(20, 0.9))
    lower, upper = equal.limits(KEY)
    assert lower < 0.85 < 0.95 < upper


@pytest.mark.parametrize("chances", [(0.5, 0.3, 0.1, 0.1), (0.02, 0.2, 0.03, 0.75), (0.9, 0.03, 0.03, 0.04)])
def test_the_interval_of_a_difference_holds_it(chances):
    tables = np.random.default_rng(1).multinomial(120, chances, size=1500)
    truth = chances[1] - chances[2]
    held = [low <= truth <= high for low, high in (difference_interval(*table) for table in tables.tolist())]
    assert np.mean(held) >= 0.94  # 1500 samples know 0.95 to 0.012


def test_a_comparison_of_two_models():
    before, after = rate(60, 100), rate(10, 100)
    found = compare(before, after, KEY).describe()
    assert (found["before"], found["after"], found["difference"]) == (60, 10, -50)
    assert (found["only_before"], found["only_after"], found["rows"]) == (50, 0, 100)
    assert found["low"] < -50 < found["high"] < 0
    assert found["p"] == pytest.approx(2 * 0.5**50, rel=1e-5)
    same = compare(before, before, KEY)
    assert (same.p, same.only_before) == (1.0, 0)
    assert same.low <= 0 <= same.high
    graded = Rate("fa", before.values * 0.5 + 0.1)
    lower = compare(graded, Rate("fa", graded.values - 0.05), KEY)
    assert lower.high < 0
    assert lower.p < 1e-6


def test_rows_without_values_have_no_figures():
    nothing = Rate("fa", np.zeros(0))
    assert nothing.describe(KEY) == {"value": None, "low": None, "high": None, "rows": 0}
