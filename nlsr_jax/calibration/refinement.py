"""Refine the share of entries within bounds: a search over what answers say, told by a measure alone.

A larger share brings back more refusals of harmful prompts, and from some share on the model refuses harmless ones
too. The search takes the smallest share with which harmful prompts are refused, with a margin, and none with which
harmless ones are refused more often than both models refuse them. It knows nothing of models: a share goes in, and
two rates come out. A third number binds where few entries already let the model refuse the calibration prompts:
how much of the aligned model's likelihood of its own refusals has come back. Refusals that have only just won on
prompts like those of the alignment do not win on others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from nlsr_jax.errors import InputError, argument

GRID = tuple(round(10 ** (step / 10 - 3), 7) for step in range(21))
"""Shares that may be chosen, ten a decade from 0.1 to 10 per cent."""
TELLS = 0.1
"""How much more often the aligned model must refuse calibration prompts than the fine-tuned one does."""
_STRIDE = 4
_MARGIN = ((100, 2), (50, 3), (0, 4))
"""Steps of ``GRID`` beyond the share that reaches the goal, by the least number of calibration prompts that were
asked: held-out requests are harder than calibration prompts, and few prompts cannot show the last per cent."""
FAR = 2.0
"""Largest share that is tried, as a multiple of the first one; larger repairs often cost the customer's task."""


class Rates(NamedTuple):
    """How often a model refuses.

    Attributes:
      harmful: share of the calibration prompts, 0 to 1.
      harmless: share of the harmless prompts.
    """

    harmful: float
    harmless: float


class Trial(NamedTuple):
    """One share that was tried, and its rates; see ``Rates``."""

    share: float
    harmful: float
    harmless: float


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a refinement goes for.

    Attributes:
      goal: share of the calibration prompts that are to be refused.
      harmless: how much more often harmless prompts may be refused than by the aligned and the fine-tuned model,
        whichever refuses more of them. Two standard errors of that model's rate are added, so that few prompts do
        not decide by chance. This bound binds.
      recovered: share of the log-likelihood of the aligned model's refusals that the repair is to bring back. 0 is
        the fine-tuned model's likelihood, and 1 the aligned one's.
    """

    goal: float = 0.99
    harmless: float = 0.02
    recovered: float = 0.8


class Refined(NamedTuple):
    """The result of a refinement.

    Attributes:
      share: the share to transplant; 0 where the fine-tuned model needs no repair or the bound forbids every one,
        None where the prompts cannot tell the two models apart, so that nothing can be chosen.
      reached: whether the goal is reached within the bound.
      finetuned, aligned: their rates.
      trials: all shares that were tried, in their order.
      recovered: what has come back of the log-likelihood of refusals with the share; None where it is not measured.
      far: whether the share is ``FAR`` times the first one and too little.
    """

    share: float | None
    reached: bool
    finetuned: Rates
    aligned: Rates
    trials: tuple[Trial, ...]
    recovered: float | None = None
    far: bool = False


def check_bounds(bounds: Bounds) -> None:
    """Raise InputError if a bound is out of its range."""
    for name, value in dataclasses.asdict(bounds).items():
        if not 0 <= value <= 1:
            raise InputError(f"{argument(name)} is {value}; expected 0 to 1")


def refine(
    measure: Callable[[float], Rates],
    finetuned: Rates,
    aligned: Rates,
    *,
    asked: tuple[int, int],
    start: float,
    bounds: Bounds | None = None,
    recovered: Callable[[float], float] | None = None,
) -> Refined:
    """Find the smallest share that reaches the goal within the bound, and go a margin beyond it.

    The search begins at the share of ``GRID`` next to ``start``, takes long steps until the goal lies between two
    shares, and halves the steps between. Where the bound forbids that share, it takes the next smaller one. The
    margin is two steps of ``GRID``, more where few calibration prompts were asked, and ends at the bound too. A
    share that recovers too little gives way to the smallest one that recovers enough, as far as the bound allows.
    No share is more than twice the first one.

    Args:
      measure: returns the rates of the repair with a share.
      finetuned, aligned: rates of the two models.
      asked: numbers of calibration prompts and of harmless ones behind the rates.
      start: the first share.
      bounds: by default ``Bounds()``.
      recovered: returns what a share brings back of the log-likelihood of refusals; None not to ask.

    Returns:
      A ``Refined``.

    Raises:
      InputError: bounds out of their range.
    """
    bounds = bounds or Bounds()
    check_bounds(bounds)
    if finetuned.harmful >= bounds.goal:
        return Refined(0.0, True, finetuned, aligned, ())
    if aligned.harmful - finetuned.harmful < TELLS:
        return Refined(None, False, finetuned, aligned, ())
    rate = max(finetuned.harmless, aligned.harmless)
    ceiling = rate + bounds.harmless + 2 * math.sqrt(rate * (1 - rate) / asked[1])
    first = min(range(len(GRID)), key=lambda one: abs(GRID[one] - start))
    last = max([first, *(place for place, share in enumerate(GRID) if share <= FAR * start + 1e-9)])
    search = _Search(measure, bounds.goal, ceiling, last)
    place = search.beyond(search.run(first), next(steps for least, steps in _MARGIN if asked[0] >= least))
    if place < 0:
        return Refined(0.0, False, finetuned, aligned, tuple(search.trials.values()))
    back = None
    if recovered is not None:
        known = functools.cache(lambda place: recovered(GRID[place]))
        place = search.up_to(_recovering(known, place, last, bounds.recovered), place)
        back = known(place)
    found, trials = search.trials[place], tuple(search.trials.values())
    reached = found.harmful >= bounds.goal
    far = place == last < len(GRID) - 1 and not reached
    return Refined(found.share, reached, finetuned, aligned, trials, back, far)


def _recovering(recovered: Callable[[int], float], place: int, last: int, wanted: float) -> int:
    """Return the first place from ``place`` to ``last`` that recovers enough; ``place`` where none does."""
    low, high = place, last
    if recovered(low) >= wanted or recovered(high) < wanted:
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if recovered(middle) >= wanted else (middle, high)
    return high


class _Search:
    """Places of ``GRID`` up to a last one, each measured at most once."""

    def __init__(self, measure: Callable[[float], Rates], goal: float, ceiling: float, last: int):
        self._measure, self._goal, self._ceiling, self._last = measure, goal, ceiling, last
        self.trials: dict[int, Trial] = {}

    def _trial(self, place: int) -> Trial:
        if place not in self.trials:
            self.trials[place] = Trial(GRID[place], *self._measure(GRID[place]))
        return self.trials[place]

    def _enough(self, place: int) -> bool:
        """Whether no larger share is wanted: the goal is reached, or the bound is passed."""
        found = self._trial(place)
        return found.harmful >= self._goal or found.harmless > self._ceiling

    def run(self, start: int) -> int:
        """Return the place of the choice; −1 where the bound forbids every share."""
        low, high, place = -1, self._last + 1, start  # low is too little, and high is enough
        while high - low > 1:
            if self._enough(place):
                high = place
            else:
                low = place
            place = self._between(low, high)
        return high if high <= self._last and self._allowed(high) else low

    def beyond(self, place: int, steps: int) -> int:
        """Return the place of the choice, up to so many steps further where it reaches the goal."""
        if place < 0 or self._trial(place).harmful < self._goal:
            return place
        for further in range(place + 1, min(place + steps, self._last) + 1):
            if not self._allowed(further):
                break
            place = further
        return place

    def up_to(self, place: int, least: int) -> int:
        """Return the greatest place that is allowed from ``least``, which is, to ``place``."""
        return next((one for one in range(place, least, -1) if self._allowed(one)), least)

    def _allowed(self, place: int) -> bool:
        return self._trial(place).harmless <= self._ceiling

    def _between(self, low: int, high: int) -> int:
        """Return the next place: long steps while one end is open, then the middle."""
        if low < 0:
            return max(high - _STRIDE, 0)
        if high > self._last:
            return min(low + _STRIDE, high - 1)
        return (low + high) // 2
