"""Intervals of rates: Wilson's, the exact one-sided limits of Clopper and Pearson, and the bootstrap.

All rates are shares from 0 to 1.
"""

import math

import jax
import numpy as np
from scipy.special import betaincinv, ndtri

from nlsr_jax.random_streams import generator

CONFIDENCE = 0.95
DRAWS = 4000
"""Draws of a bootstrap."""
_AT_ONCE = 2**22


def wilson(count: float, rows: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's two-sided interval of a rate.

    Args:
      count: rows that have the property.
      rows: n, at least 1.
      confidence: of the interval.

    Returns:
      ``(low, high)``; it holds the rate itself, and 0 or 1 where no row or every row has the property.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> [round(limit, 4) for limit in wilson(0, 20)]
    [0.0, 0.1611]
    """
    z = float(ndtri(0.5 + confidence / 2))
    share, weight = count / rows, z * z / rows
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / rows + weight / (4 * rows))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def exact_limits(least: float, most: float, rows: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the two one-sided limits of a rate, each of which is right with at least this confidence.

    Args:
      least: rows that have the property.
      most: the same with the rows of which it is unknown; otherwise equal to ``least``.
      rows: n.
      confidence: of either limit.

    Returns:
      ``(lower, upper)``: the rate is at least ``lower``, and at most ``upper``.

    Source: Clopper and Pearson 1934. Wilson's limits are shorter, and near 0 and 1 wrong more often than they say.

    >>> [round(limit, 4) for limit in exact_limits(0, 0, 59)]
    [0.0, 0.0495]
    """
    lower = float(betaincinv(least, rows - least + 1, 1 - confidence)) if least > 0 else 0.0
    upper = float(betaincinv(most + 1, rows - most, confidence)) if most < rows else 1.0
    return lower, upper


def bootstrap_means(key: jax.Array, values: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """Return ``[draws]``, sorted: the means of samples that are drawn from the values with replacement.

    Args:
      key: PRNG key.
      values: ``[n]`` float.
      draws: number of samples.
    """
    random, rows = generator(key, "bootstrap"), len(values)
    parts = max(1, _AT_ONCE // rows)
    sizes = [min(parts, draws - start) for start in range(0, draws, parts)]
    means = [values[random.integers(rows, size=(size, rows))].mean(axis=1) for size in sizes]
    return np.sort(np.concatenate(means))


def quantiles(sorted_means: np.ndarray, *shares: float) -> tuple[float, ...]:
    """Return quantiles of a bootstrap."""
    return tuple(float(value) for value in np.quantile(sorted_means, shares))
