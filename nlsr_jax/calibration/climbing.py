"""The least amplification that suffices, for one share of the entries: a climb over steps, then a bisection."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

_PAST = 0.8
"""Of the peak: a climb ends where the probability falls below this share of it."""
_BISECTIONS = 4


class Trial(NamedTuple):
    """One setting that was tried.

    Attributes:
      beta, share: the setting; ``share`` 0 is the fine-tuned adapter as it is.
      probability: how likely the model begins as safe answers begin, on the rows that masks are not made from; see
        ``collect_openings``. 0 where the measure is no number: amplified beyond what numbers hold.
    """

    beta: float
    share: float
    probability: float


def furthest(trials: Sequence[Trial]) -> float:
    """Return the highest probability of some trials."""
    return max(trial.probability for trial in trials)


def climb(attempt: Callable[[float], Trial], betas: Sequence[float], enough: float, start: int) -> list[Trial]:
    """Try β down from a place until the probability is not enough, and up until it is, or well past its peak.

    Args:
      attempt: tries a β.
      betas: rising.
      enough: a probability.
      start: the place to begin at.
    """
    found = {start: attempt(betas[start])}
    place = start
    while found[place].probability >= enough and place > 0:
        place -= 1
        found[place] = attempt(betas[place])
    place, best = start, furthest(list(found.values()))
    while best < enough and place + 1 < len(betas) and found[place].probability >= _PAST * best:
        place += 1
        found[place] = attempt(betas[place])
        best = max(best, found[place].probability)
    return [found[place] for place in sorted(found)]


def least(attempt: Callable[[float], Trial], climbed: Sequence[Trial], target: float) -> Trial:
    """Return the trial of the least β that reaches the target, between those that were climbed over.

    None below the lowest of them is tried: it may reach the target too, where climbing ended at it.

    Args:
      attempt: tries a β.
      climbed: from ``climb``, of which one reaches the target.
      target: a probability.
    """
    first = next(i for i, trial in enumerate(climbed) if trial.probability >= target)
    found = climbed[first]
    if first == 0:
        return found
    low = climbed[first - 1].beta
    for _ in range(_BISECTIONS):
        trial = attempt(round(math.sqrt(low * found.beta), 6))
        if trial.probability >= target:
            found = trial
        else:
            low = trial.beta
    return found
