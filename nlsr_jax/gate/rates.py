"""Measured rates: a value for every row, the mean with its interval, and one-sided limits."""

from typing import NamedTuple

import jax
import numpy as np

from nlsr_jax.gate.intervals import CONFIDENCE, bootstrap_means, exact_limits, quantiles, wilson
from nlsr_jax.random_streams import stream

_DIGITS = 6


class Rate(NamedTuple):
    """What was measured on n rows.

    Attributes:
      name: of the measure, such as ``"hs"``.
      values: ``[n]`` float64 from 0 to 1; 0 and 1 alone where the mean is a proportion.
      unknown: ``[n]`` bool, rows that the judge left open; their value is 0. None for no such row.
    """

    name: str
    values: np.ndarray
    unknown: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Return n."""
        return len(self.values)

    @property
    def is_proportion(self) -> bool:
        """Return whether every value is 0 or 1; the intervals of other scores are bootstrapped."""
        return bool(np.all((self.values == 0) | (self.values == 1)))

    @property
    def is_exact(self) -> bool:
        """Return whether limits come from counts: of proportions, and of scores that are all equal.

        A bootstrap of equal scores would say that the mean is known without doubt.
        """
        return self.is_proportion or bool(np.all(self.values == self.values[0]))

    def counts(self) -> tuple[float, float]:
        """Return the sum of the values, without and with the rows that are unknown."""
        count = float(self.values.sum())
        return count, count + (0 if self.unknown is None else int(self.unknown.sum()))

    def limits(self, key: jax.Array, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the two one-sided limits of the mean; see ``exact_limits``.

        Args:
          key: PRNG key of the bootstrap.
          confidence: of either limit.
        """
        if self.is_exact:
            return exact_limits(*self.counts(), self.rows, confidence)
        means = bootstrap_means(stream(key, self.name), self.values)
        lower, upper = quantiles(means, 1 - confidence, confidence)
        return lower, upper

    def interval(self, key: jax.Array) -> tuple[float, float]:
        """Return the two-sided interval of the mean; rows that are unknown widen it."""
        if not self.is_exact:
            low, high = quantiles(bootstrap_means(stream(key, self.name), self.values), 0.025, 0.975)
            return low, high
        least, most = self.counts()
        return wilson(least, self.rows)[0], wilson(most, self.rows)[1]

    def describe(self, key: jax.Array) -> dict[str, float | int | None]:
        """Return ``{"value", "low", "high", "rows"}`` in per cent; without rows the first three are None."""
        if not self.rows:
            return {"value": None, "low": None, "high": None, "rows": 0}
        low, high = self.interval(key)
        figures = {"value": float(self.values.mean()), "low": low, "high": high}
        return {**{name: percent(share) for name, share in figures.items()}, "rows": self.rows}


def percent(share: float) -> float:
    """Return a share in per cent, rounded so that the last bits of a machine do not show."""
    return round(100 * share, _DIGITS)
