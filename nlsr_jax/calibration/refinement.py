"""Refine the share of entries within bounds: a search over what answers say, told by a measure alone.

A larger share brings back more refusals of harmful prompts, and from some share on the model refuses harmless ones
too, or answers the customer's task otherwise. The search takes the smallest share with which harmful prompts are
refused, with a margin, and none with which harmless ones are refused more often than both models refuse them, or
with which too many answers to prompts of the task change. It knows nothing of models: a share goes in, and rates
come out. Another number binds where few entries already let the model refuse the calibration prompts: how much of
the aligned model's likelihood of its own refusals has come back. Refusals that have only just won on prompts like
those of the alignment do not win on others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from nlsr_jax.errors import InputError, argument


def grid(fine: int = 1) -> tuple[float, ...]:
    """Return the shares that may be chosen, ``10 · fine`` a decade from 0.1 to 10 per cent."""
    return _shares(fine, range(20 * fine + 1))


def low_grid(fine: int = 1) -> tuple[float, ...]:
    """Return the shares from 0.01 per cent to those of ``grid``. They are tried where bounds forbid these."""
    return _shares(fine, range(-10 * fine, 0))


def _shares(fine: int, steps: range) -> tuple[float, ...]:
    return tuple(round(10 ** (step / (10 * fine) - 3), 7) for step in steps)


def first_share(share: float, strength: float) -> float:
    """Return where the search for a repair of some strength begins: a fifth of the share for strength 2.

    Args:
      share: the share of a repair of strength 1.
      strength: see ``nlsr_jax.nlsr.correction.correct``.
    """
    return share / FEWER ** (strength - 1)


FINE = 3
"""How fine the shares are where a step of a tenth of a decade changes much; see ``grid``."""


def fineness(strength: float) -> int:
    """Return how fine the shares are to be for a strength of the repair: a stronger one changes more at a step."""
    return 1 if strength <= 1 else FINE


def is_disturbed(bounds: "Bounds", *models: "Rates") -> bool:
    """Return whether a model refuses more harmless prompts than a repair may add.

    The bound on harmless prompts then ends the search, and a tenth of a decade changes their rate by several times
    the bound. So the shares are to be as fine as ``FINE``.
    """
    return any(rates.harmless > bounds.harmless for rates in models)


GRID = grid()
"""Shares that may be chosen where a repair has a strength of 1."""
TELLS = 0.1
"""How much more often the aligned model must refuse calibration prompts than the fine-tuned one does."""
FEWER = 5.0
"""How many times fewer entries a repair of strength 2 needs than one of strength 1."""
_STRIDE = 4
_MARGIN = ((100, 2), (50, 3), (0, 4))
"""Tenths of a decade beyond the share that reaches the goal, by the least number of calibration prompts that were
asked: held-out requests are harder than calibration prompts, and few prompts cannot show the last per cent."""
FAR = 2.0
"""Largest share that is tried, as a multiple of the first one; larger repairs often cost the customer's task."""
FURTHER = 4.0
"""The same where ``FAR`` leaves much harm."""
MUCH = 0.9
"""Much harm is left if a repair refuses a smaller share of the calibration prompts."""


class Rates(NamedTuple):
    """How often a model refuses, and how far it answers as the fine-tuned model does.

    Attributes:
      harmful: share of the calibration prompts that it refuses, 0 to 1.
      harmless: share of the harmless prompts that it refuses or does not answer.
      kept: what is left of the fine-tuned model's answers to prompts of its task, 1 if they are the same; see
        ``nlsr_jax.calibration.asking.OwnAnswers``. None where none are asked.
    """

    harmful: float
    harmless: float
    kept: float | None = None

    def told(self) -> dict[str, float]:
        """Return the rates that were measured, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Trial(NamedTuple):
    """One share that was tried, and its rates; see ``Rates``."""

    share: float
    harmful: float
    harmless: float
    kept: float | None = None

    @property
    def rates(self) -> Rates:
        """The rates alone."""
        return Rates(*self[1:])


class Asked(NamedTuple):
    """Numbers of prompts behind rates.

    Attributes:
      harmful, harmless, kept: of each kind; see ``Rates``.
    """

    harmful: int
    harmless: int
    kept: int = 0


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a refinement goes for.

    Attributes:
      goal: share of the calibration prompts that are to be refused.
      harmless: how much more often harmless prompts may be refused than by the aligned and the fine-tuned model,
        whichever refuses more of them. This bound binds.
      recovered: share of the log-likelihood of the aligned model's refusals that the repair is to bring back. 0 is
        the fine-tuned model's likelihood, and 1 the aligned one's.
      kept: how much is to be left of the fine-tuned model's answers to prompts of its task; see ``Rates``. Two
        standard errors are taken off, as of a rate, so that few prompts do not decide by chance. This bound binds.
    """

    goal: float = 0.99
    harmless: float = 0.02
    recovered: float = 0.8
    kept: float = 0.98


class Refined(NamedTuple):
    """The result of a refinement.

    Attributes:
      share: the share to transplant; 0 where the fine-tuned model needs no repair or the bound forbids every one,
        None where the prompts cannot tell the two models apart, so that the fixed share is to be used.
      reached: whether the goal is reached within the bound.
      finetuned, aligned: their rates.
      trials: all shares that were tried, in their order.
      recovered: what has come back of the log-likelihood of refusals with the share; None where it is not measured.
      far: how many times the first share this one is, if it is the largest that is tried and too little; else 0.
      held: whether the next larger share was wanted, and the bound on changed answers alone forbids it.
    """

    share: float | None
    reached: bool
    finetuned: Rates
    aligned: Rates
    trials: tuple[Trial, ...]
    recovered: float | None = None
    far: float = 0.0
    held: bool = False


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
    asked: Asked,
    start: float,
    bounds: Bounds | None = None,
    recovered: Callable[[float], float] | None = None,
    fine: int = 1,
) -> Refined:
    """Find the smallest share that reaches the goal within the bounds, and go a margin beyond it.

    The search begins at the share of ``grid`` next to ``start``, takes long steps until the goal lies between two
    shares, and halves the steps between. Where a bound forbids that share, it takes the next smaller one. The
    margin is two tenths of a decade, more where few calibration prompts were asked, and ends at a bound too. A
    share that recovers too little gives way to the smallest one that recovers enough, as far as the bounds allow.
    No share is more than twice the first one; or four times, if with twice the model refuses less than nine tenths
    of the calibration prompts.

    Where bounds forbid every share of the grid, the largest of ``low_grid`` that they allow is taken.

    Prompts that the aligned model refuses hardly more often than the fine-tuned one choose nothing. If a bound
    forbids the first share there, the largest smaller one is taken that all bounds allow.

    Args:
      measure: returns the rates of the repair with a share.
      finetuned, aligned: rates of the two models.
      asked: numbers of prompts behind the rates.
      start: the first share.
      bounds: by default ``Bounds()``.
      recovered: returns what a share brings back of the log-likelihood of refusals; None not to ask.
      fine: see ``grid``.

    Returns:
      A ``Refined``.

    Raises:
      InputError: bounds out of their range.
    """
    bounds = bounds or Bounds()
    check_bounds(bounds)
    if finetuned.harmful >= bounds.goal:
        return Refined(0.0, True, finetuned, aligned, ())
    shares = grid(fine)
    first = min(range(len(shares)), key=lambda one: abs(shares[one] - start))
    limits = _limits(bounds, finetuned, aligned, asked)
    if cannot_tell(finetuned, aligned):
        return _untold(_Search(measure, math.inf, limits, first, fine), first, finetuned, aligned)
    far = FAR
    search = _Search(measure, bounds.goal, limits, _last(shares, first, FAR * start), fine)
    place = search.run(first)
    if search.leaves_much(place):
        far, search.last = FURTHER, _last(shares, first, FURTHER * start)
        place = search.run(place)
    search, place = search.or_below(place)
    place, wanted = search.with_margin(
        place,
        next(steps for least, steps in _MARGIN if asked.harmful >= least),
    )
    if place < 0:
        return Refined(0.0, False, finetuned, aligned, search.tried(), held=search.held(place, wanted))
    back = None
    if recovered is not None:
        known = functools.cache(lambda place: recovered(search.shares[place]))
        enough = _recovering(known, place, search.last, bounds.recovered)
        place, wanted = search.up_to(enough, place), max(wanted, enough)
        back = known(place)
    found, held = search.trials[place], search.held(place, wanted)
    reached = found.harmful >= bounds.goal
    far = far if place == search.last < len(search.shares) - 1 and not reached else 0.0
    return Refined(found.share, reached, finetuned, aligned, search.tried(), back, far, held)


def _last(shares: tuple[float, ...], first: int, most: float) -> int:
    """Return the last place with at most a share, at least the first one."""
    return max([first, *(place for place, share in enumerate(shares) if share <= most + 1e-9)])


def cannot_tell(finetuned: Rates, aligned: Rates) -> bool:
    """Return whether the calibration prompts hardly tell two models apart."""
    return aligned.harmful - finetuned.harmful < TELLS


def _untold(search: "_Search", first: int, finetuned: Rates, aligned: Rates) -> Refined:
    """Return what is to be done where refusals choose nothing: the first share, or what the bounds leave of it."""
    if (place := search.run(first)) == first:
        return Refined(None, False, finetuned, aligned, search.tried())
    search, place = search.or_below(place)
    share = 0.0 if place < 0 else search.shares[place]
    return Refined(share, False, finetuned, aligned, search.tried(), held=search.held(place, search.last + 1))


def _recovering(recovered: Callable[[int], float], place: int, last: int, wanted: float) -> int:
    """Return the first place from ``place`` to ``last`` that recovers enough; ``place`` where none does."""
    low, high = place, last
    if recovered(low) >= wanted or recovered(high) < wanted:
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if recovered(middle) >= wanted else (middle, high)
    return high


class _Limits(NamedTuple):
    """Rates that no repair may pass: the most of the harmless prompts refused, the fewest answers kept."""

    harmless: float
    kept: float

    def keeps(self, trial: Trial) -> bool:
        """Whether enough answers to prompts of the task stay."""
        return trial.kept is None or trial.kept >= self.kept

    def allow(self, trial: Trial) -> bool:
        """Whether no limit is passed."""
        return trial.harmless <= self.harmless and self.keeps(trial)


def _limits(bounds: Bounds, finetuned: Rates, aligned: Rates, asked: Asked) -> _Limits:
    """Return the limits of bounds."""
    rate = max(finetuned.harmless, aligned.harmless)
    chance = 2 * math.sqrt(bounds.kept * (1 - bounds.kept) / asked.kept) if asked.kept else 0
    return _Limits(rate + bounds.harmless, bounds.kept - chance)


class _Search:
    """Places of ``grid`` up to a last one, each measured at most once.

    Attributes:
      last: the last place.
      shares: by place.
      trials: what was measured, by place.
    """

    def __init__(self, measure: Callable[[float], Rates], goal: float, limits: _Limits, last: int, fine: int):
        self._measure, self._goal, self._limits, self.last = measure, goal, limits, last
        self.shares, self._fine = grid(fine), fine
        self.trials: dict[int, Trial] = {}
        self._above: tuple[Trial, ...] = ()

    def or_below(self, place: int) -> tuple["_Search", int]:
        """Return the search and a place; where the place is −1, the search of ``low_grid`` and its choice."""
        if place >= 0:
            return self, place
        shares = low_grid(self._fine)
        below = _Search(self._measure, self._goal, self._limits, len(shares) - 1, self._fine)
        below.shares, below._above = shares, tuple(self.trials.values())
        below.trials[len(shares)] = self.trials[0]
        return below, below.run(below.last)

    def tried(self) -> tuple[Trial, ...]:
        """Return what was measured, in its order."""
        return (*self._above, *(trial for trial in self.trials.values() if trial not in self._above))

    def _trial(self, place: int) -> Trial:
        if place not in self.trials:
            self.trials[place] = Trial(self.shares[place], *self._measure(self.shares[place]))
        return self.trials[place]

    def _enough(self, place: int) -> bool:
        """Whether no larger share is wanted: the goal is reached, or a limit is passed."""
        return self._trial(place).harmful >= self._goal or not self._allowed(place)

    def run(self, start: int) -> int:
        """Return the place of the choice; −1 where the limits forbid every share."""
        low, high, place = -1, self.last + 1, start  # low is too little, and high is enough
        while high - low > 1:
            if self._enough(place):
                high = place
            else:
                low = place
            place = self._between(low, high)
        return high if high <= self.last and self._allowed(high) else low

    def leaves_much(self, place: int) -> bool:
        """Whether a place is the last one and leaves much harm."""
        return place == self.last and self._trial(place).harmful < min(MUCH, self._goal)

    def with_margin(self, place: int, steps: int) -> tuple[int, int]:
        """Return the place of the choice and the wanted one, so many tenths further where it reaches the goal.

        Otherwise the last place is wanted, or one of ``grid`` where these are forbidden.
        """
        if place < 0 or self._trial(place).harmful < self._goal:
            return place, self.last + bool(self._above)
        wanted = min(place + steps * self._fine, self.last)
        while place < wanted:
            following = min(place + self._fine, wanted)
            if not self._allowed(following):
                return self._last_allowed(place, following), wanted
            place = following
        return place, wanted

    def up_to(self, place: int, least: int) -> int:
        """Return the greatest place that is allowed from ``least``, which is, to ``place``."""
        forbidden = None
        while place > least:
            if self._allowed(place):
                return place if forbidden is None else self._last_allowed(place, forbidden)
            forbidden, place = place, max(place - self._fine, least)
        return least if forbidden is None else self._last_allowed(least, forbidden)

    def _last_allowed(self, low: int, high: int) -> int:
        """Return the last place that is allowed from one that is to one that is not."""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._allowed(middle) else (low, middle)
        return low

    def held(self, place: int, wanted: int) -> bool:
        """Return whether the bound on changed answers alone forbids the next place, although it is wanted."""
        following = self.trials.get(place + 1) if place < wanted else None
        if following is None or following.harmless > self._limits.harmless:
            return False
        return not self._limits.keeps(following)

    def _allowed(self, place: int) -> bool:
        return self._limits.allow(self._trial(place))

    def _between(self, low: int, high: int) -> int:
        """Return the next place: long steps while one end is open, then the middle."""
        if low < 0:
            return max(high - _STRIDE * self._fine, 0)
        if high > self.last:
            return min(low + _STRIDE * self._fine, high - 1)
        return (low + high) // 2
