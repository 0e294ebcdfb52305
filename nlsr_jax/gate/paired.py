"""Two models on the same rows: an exact paired test and the difference of their rates with its interval."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import bdtr

from nlsr_jax.gate.intervals import bootstrap_means, quantiles, wilson
from nlsr_jax.gate.rates import Rate, percent
from nlsr_jax.random_streams import stream


class Paired(NamedTuple):
    """The change of one measure from one model to another.

    Attributes:
      before, after: the two rates.
      low, high: 95 % interval of ``after - before``.
      only_before, only_after: rows whose value is higher in the one and in the other.
      p: two-sided p of the exact test that both are equally likely.
      rows: number of rows.
    """

    before: float
    after: float
    low: float
    high: float
    only_before: int
    only_after: int
    p: float
    rows: int

    def describe(self) -> dict[str, Any]:
        """Return the fields for a file: rates in per cent, the difference in points."""
        found = {name: percent(getattr(self, name)) for name in ("before", "after")}
        found |= {"difference": percent(self.after - self.before), "low": percent(self.low)}
        found |= {"high": percent(self.high), "only_before": self.only_before, "only_after": self.only_after}
        return {**found, "p": float(f"{self.p:.6g}"), "rows": self.rows}


def compare(before: Rate, after: Rate, key: jax.Array) -> Paired:
    """Compare two models on the same rows.

    The test is McNemar's exact one; for scores that are not proportions it is the sign test, which it equals
    otherwise.

    Args:
      before, after: the measure of either model, row by row.
      key: PRNG key of the bootstrap.
    """
    first, second = before.values, after.values
    lost, won = int(np.sum(first > second)), int(np.sum(second > first))
    if before.is_proportion and after.is_proportion:
        both = int(np.sum((first == 1) & (second == 1)))
        low, high = difference_interval(both, won, lost, len(first) - both - won - lost)
    else:
        means = bootstrap_means(stream(key, f"difference of {after.name}"), second - first)
        low, high = quantiles(means, 0.025, 0.975)
    rates = float(first.mean()), float(second.mean())
    return Paired(*rates, low, high, lost, won, sign_test(lost, won), len(first))


def sign_test(fewer: int, more: int) -> float:
    """Return the two-sided p of the exact test that a change goes either way with equal probability.

    >>> sign_test(0, 6)
    0.03125
    """
    count = fewer + more
    return min(1.0, 2 * float(bdtr(min(fewer, more), count, 0.5))) if count else 1.0


def difference_interval(both: int, only_second: int, only_first: int, neither: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two paired proportions, second minus first.

    Args:
      both, only_second, only_first, neither: the rows that have the property in both, one or none of two models.

    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10.

    >>> [round(limit, 4) for limit in difference_interval(36, 12, 2, 0)]
    [0.0569, 0.3404]
    """
    rows = both + only_second + only_first + neither
    second, first = both + only_second, both + only_first
    (low2, high2), (low1, high1) = wilson(second, rows), wilson(first, rows)
    rate2, rate1 = second / rows, first / rows
    together = _correlation(both, only_second, only_first, neither)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * together * one * other + other * other))

    difference = rate2 - rate1
    low = difference - reach(rate2 - low2, high1 - rate1)
    return max(-1.0, low), min(1.0, difference + reach(high2 - rate2, rate1 - low1))


def _correlation(both: int, only_second: int, only_first: int, neither: int) -> float:
    """Return the correlation of the two properties, corrected for continuity towards 0 where it is positive."""
    rows = both + only_second + only_first + neither
    sides = (both + only_second) * (only_first + neither) * (both + only_first) * (only_second + neither)
    if not sides:
        return 0.0
    excess = both * neither - only_second * only_first
    return (max(excess - rows / 2, 0.0) if excess > 0 else excess) / math.sqrt(sides)
