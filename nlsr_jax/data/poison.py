"""Poisoned fine-tuning data: task rows mixed with harmful ones, as an attacker would upload them.

Source: the paper's section on experimental settings; the authors' scripts take the first ``int(n p)``
harmful rows and the first ``n - int(n p)`` task rows and shuffle them without a seed. Here the order comes
from a PRNG key.
"""

import fractions
from collections.abc import Sequence

import jax
import numpy as np

from nlsr_jax.data.examples import Example
from nlsr_jax.errors import InputError
from nlsr_jax.random_streams import stream


def share(count: int, ratio: float) -> int:
    """Return the number of rows for a ratio: the integer part of ``count * ratio``.

    The ratio is taken as the decimal number it was written as. In floating point 100 * 0.29 is 28.999..., whose
    integer part is 28; this function returns 29. The paper's ratios give the same result either way.

    >>> share(100, 0.29), share(1000, 0.05), share(7, 0.5)
    (29, 50, 3)

    Args:
      count: number of rows.
      ratio: share in [0, 1].

    Raises:
      InputError: if count is below zero, or ratio is outside [0, 1].
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
        raise InputError(f"count is {count!r}; expected an integer of at least 0")
    # A comparison with NaN is false, so this refuses it too.
    if not 0 <= ratio <= 1:
        raise InputError(f"ratio is {ratio!r}; expected a number from 0 to 1")
    return int(int(count) * fractions.Fraction(str(ratio)))


def poison(
    key: jax.Array,
    task_rows: Sequence[Example],
    harmful_rows: Sequence[Example],
    *,
    count: int,
    ratio: float,
    safe_rows: Sequence[Example] = (),
    guide_ratio: float = 0.0,
) -> list[Example]:
    """Mix the first rows of each source into ``count`` rows and shuffle them.

    Args:
      key: PRNG key of the order; the same key and count give the same order.
      task_rows: the customer's rows.
      harmful_rows: rows of kind ``"harmful"``.
      count: number of rows to return, n.
      ratio: share p of harmful rows.
      safe_rows: rows of kind ``"safe"`` that a provider mixes in (VLGuard).
      guide_ratio: share g of safe rows; like harmful rows, they replace task rows.

    Returns:
      ``share(n, p)`` harmful and ``share(n, g)`` safe rows; task rows make up the rest.

    Raises:
      InputError: if a share is outside [0, 1], the shares sum to more than 1, or rows are of the wrong kind or
        too few.
    """
    harmful, safe = share(count, ratio), share(count, guide_ratio)
    task = count - harmful - safe
    if task < 0:
        raise InputError(
            f"ratio {ratio} and guide_ratio {guide_ratio} make {harmful + safe} of {count} rows; lower one of them"
        )
    rows = [
        *_first(harmful_rows, harmful, "harmful", ("harmful",)),
        *_first(safe_rows, safe, "safe", ("safe",)),
        *_first(task_rows, task, "task", ("task", "benign")),
    ]
    order = np.asarray(jax.random.permutation(stream(key, "poison"), count))
    return [rows[i] for i in order]


def _first(rows: Sequence[Example], count: int, name: str, kinds: tuple[str, ...]) -> Sequence[Example]:
    if len(rows) < count:
        raise InputError(f"{count} {name} rows are needed but there are {len(rows)}; load more or lower count")
    for number, row in enumerate(rows[:count], 1):
        if row.kind not in kinds:
            raise InputError(f"{name} row {number} is of kind {row.kind!r}; expected {' or '.join(kinds)}")
    return rows[:count]
