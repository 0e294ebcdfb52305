"""The largest of many scores, read a block at a time: more than memory holds, and exactly as many as asked for.

Non-negative floats are ordered as their bit patterns. Two counts, of the upper and of the lower 16 bits, find the
k-th largest; ties are kept in the order of the blocks.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

_HALF = 16
_NEVER = 2**32


class Cut(NamedTuple):
    """Where a selection ends.

    Attributes:
      threshold: bit pattern of the k-th largest score; above all patterns where none is kept.
      ties: how many of the scores that equal it are kept, the first ones.
    """

    threshold: int
    ties: int


def find_cut(blocks: Callable[[], Iterable[np.ndarray]], count: int) -> Cut:
    """Find the cut that keeps the ``count`` largest scores.

    Args:
      blocks: returns all scores, float32 arrays without negative ones; is called twice.
      count: how many to keep, from 0 to the number of scores.
    """
    if count == 0:
        return Cut(_NEVER, 0)
    upper, wanted = _bin_of(_counts(bits >> _HALF for bits in map(_bits, blocks())), count)
    inside = (bits[bits >> _HALF == upper] & 0xFFFF for bits in map(_bits, blocks()))
    lower, wanted = _bin_of(_counts(inside), wanted)
    return Cut(upper << _HALF | lower, wanted)


def keep(scores: np.ndarray, cut: Cut, passed: int = 0) -> tuple[np.ndarray, int]:
    """Mark the scores of one block that are kept.

    Args:
      scores: float32, of any shape.
      cut: from ``find_cut``.
      passed: scores at the threshold in the blocks before.

    Returns:
      The bool mask, and the scores at the threshold including this block's.
    """
    bits = _bits(scores)
    mask, ties = bits > cut.threshold, np.flatnonzero(bits == cut.threshold)
    mask[ties[: max(0, cut.ties - passed)]] = True
    return mask.reshape(scores.shape), passed + ties.size


def _bits(scores: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(scores, np.float32)).reshape(-1).view(np.uint32)


def _counts(values: Iterable[np.ndarray]) -> np.ndarray:
    total = np.zeros(2**_HALF, np.int64)
    for part in values:
        total += np.bincount(part, minlength=total.size)
    return total


def _bin_of(counts: np.ndarray, count: int) -> tuple[int, int]:
    """Return the bin of the ``count``-th largest, and which of the bin's it is."""
    above = np.cumsum(counts[::-1])[::-1] - counts
    place = int(np.flatnonzero(above < count)[0])
    return place, count - int(above[place])
