"""Bounds on rates: whether one holds with confidence, is violated, or takes more rows to tell.

An upper bound holds where the exact upper limit of the rate is at most the bound, and is violated where the lower
limit is above it; a lower bound likewise. Either decision is wrong in at most 5 of 100 samples of requests.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from nlsr_jax.gate.intervals import exact_limits
from nlsr_jax.gate.kinds import KINDS, Kind
from nlsr_jax.gate.rates import Rate, percent

HOLDS, VIOLATED, UNDECIDED = "holds", "violated", "undecided"
PASSES, FAILS, MEASURED = "passes", "fails", "measured"
STATUS = {PASSES: 0, FAILS: 1, UNDECIDED: 3, MEASURED: 0}
"""Exit status of a command by the outcome of its check."""
_MOST_ROWS = 10_000_000


class Decision(NamedTuple):
    """What the rows say of one bound.

    Attributes:
      name: of the bound, one of ``KINDS``.
      measure: the rate that it is on.
      bound: in per cent.
      outcome: ``HOLDS``, ``VIOLATED`` or ``UNDECIDED``.
      lower, upper: one-sided limits of the rate in per cent, each with 95 % confidence.
      rows: number of rows.
      rows_needed: where undecided, how many rows decide at the observed rate; None where no number does.
    """

    name: str
    measure: str
    bound: float
    outcome: str
    lower: float
    upper: float
    rows: int
    rows_needed: int | None = None

    def describe(self) -> dict[str, Any]:
        """Return the fields for a file."""
        return self._asdict()


def decide(name: str, bound: float, rate: Rate, key: jax.Array) -> Decision:
    """Decide one bound.

    Args:
      name: of the bound, one of ``KINDS``.
      bound: in per cent.
      rate: what was measured, on at least one row.
      key: PRNG key of the bootstrap.
    """
    kind, share = KINDS[name], bound / 100
    lower, upper = rate.limits(key)
    outcome = judge_limits(lower, upper, share, upper_bound=kind.upper)
    needed = None
    if outcome == UNDECIDED:
        needed = _rows_by_count(rate, share, kind) if rate.is_exact else _rows_by_spread(rate, share, lower, upper)
    return Decision(name, kind.measure, bound, outcome, percent(lower), percent(upper), rate.rows, needed)


def judge_limits(lower: float, upper: float, bound: float, *, upper_bound: bool) -> str:
    """Return what one-sided limits say of a bound."""
    if upper_bound:
        return HOLDS if upper <= bound else VIOLATED if lower > bound else UNDECIDED
    return HOLDS if lower >= bound else VIOLATED if upper < bound else UNDECIDED


def conclude(decisions: Sequence[Decision]) -> str:
    """Return the outcome of a check: ``PASSES`` where all bounds hold, ``FAILS`` where one is violated.

    A wrong ``PASSES`` is as rare as a wrong ``HOLDS``, however many bounds there are, because all have to hold.
    """
    outcomes = {one.outcome for one in decisions}
    if not outcomes:
        return MEASURED
    if VIOLATED in outcomes:
        return FAILS
    return UNDECIDED if UNDECIDED in outcomes else PASSES


def decide_all(bounds: Mapping[str, float | None], rates: Mapping[str, Rate], key: jax.Array) -> list[Decision]:
    """Decide the bounds that are given, in the order of ``KINDS``."""
    given = {name: value for name in KINDS if (value := bounds.get(name)) is not None}
    return [decide(name, value, rates[KINDS[name].measure], key) for name, value in given.items()]


def _rows_by_count(rate: Rate, bound: float, kind: Kind) -> int | None:
    """Return with how many rows the exact limits decide if the observed rate stays as it is."""
    least, most = (count / rate.rows for count in rate.counts())

    def decided(rows: int, rounded: Callable[[float, bool], float]) -> bool:
        found = exact_limits(rounded(least * rows, False), rounded(most * rows, True), rows)
        return judge_limits(*found, bound, upper_bound=kind.upper) != UNDECIDED

    if least <= bound <= most:  # with more rows the limits close in on these two rates
        return None
    start = _first(lambda rows: decided(rows, lambda count, _: count), rate.rows)
    return None if start is None else next(rows for rows in _onwards(start) if decided(rows, _outwards))


def _outwards(count: float, up: bool) -> float:
    """Round a count to a whole one on the side that decides less."""
    near = round(count)
    if math.isclose(count, near, abs_tol=1e-6):
        return near
    return math.ceil(count) if up else math.floor(count)


def _first(holds: Callable[[int], bool], start: int) -> int | None:
    """Return the first number from ``start`` for which a monotone condition holds; None beyond ``_MOST_ROWS``."""
    low, high = start, 2 * start
    while not holds(high):
        low, high = high, 2 * high
        if low > _MOST_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _onwards(start: int):
    while True:
        yield start
        start += 1


def _rows_by_spread(rate: Rate, bound: float, lower: float, upper: float) -> int | None:
    """Return the same for a bootstrap, whose limits come nearer with the square root of the rows."""
    value = float(rate.values.mean())
    distance = abs(bound - value)
    reach = upper - value if bound > value else value - lower
    if not distance or (rows := math.ceil(rate.rows * (reach / distance) ** 2)) > _MOST_ROWS:
        return None
    return max(rows, rate.rows + 1)
