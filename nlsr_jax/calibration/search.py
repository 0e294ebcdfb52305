"""The search behind the automatic choice: the least amplification of every share of the entries, by measures alone.

Nothing here knows of models: a setting goes in, and how likely safe answers begin with it comes out.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

TELLS = 0.1
"""How much likelier safe answers must begin with the aligned adapter than with the fine-tuned one, for calibration
rows to tell the two apart."""
_PAST = 0.8
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


class Candidate(NamedTuple):
    """The least amplification with which one share of the entries reaches the target.

    Attributes:
      beta, share, probability: see ``Trial``.
      divergence: how far the requests are read otherwise than by the fine-tuned adapter, in nats a token; see
        ``collect_divergence``.
    """

    beta: float
    share: float
    probability: float
    divergence: float


class Aim(NamedTuple):
    """What a search goes for.

    Attributes:
      before, safe: the measure of the fine-tuned and of the aligned adapter.
      aimed: what is wanted.
      headroom: ratio of the logarithm of the target to that of what a share can reach, at least 1.
      disturbed: divergence from which on fewer entries are tried, too.
    """

    before: float
    safe: float
    aimed: float
    headroom: float
    disturbed: float


class Search:
    """Tries settings and keeps what was found.

    Args:
      measure: takes β and a share; returns the probability, or NaN.
      divergence: takes β and a share; returns the divergence, or what is no number.
      aim: what is gone for.
      betas: the amplifications that are tried, rising.
    """

    def __init__(
        self,
        measure: Callable[[float, float], float],
        divergence: Callable[[float, float], float],
        aim: Aim,
        betas: Sequence[float],
    ):
        self._measure, self._aim, self._betas = measure, aim, betas
        self._divergence = functools.cache(divergence)
        self._known: dict[tuple[float, float], Trial] = {}
        self._climbed: dict[float, list[Trial]] = {}
        self.trials = [Trial(0.0, 0.0, aim.before)]
        self.unmeasured = 0

    def attempt(self, share: float, beta: float) -> Trial:
        """Try a setting, or return its trial."""
        if (share, beta) not in self._known:
            value = self._measure(beta, share)
            if not math.isfinite(value):
                value, self.unmeasured = 0.0, self.unmeasured + 1
            self._known[share, beta] = Trial(beta, share, value)
            self.trials.append(self._known[share, beta])
        return self._known[share, beta]

    def run(
        self, shares: Sequence[float], fewer: Sequence[float], more: Sequence[float]
    ) -> tuple[float, tuple[Candidate, ...]]:
        """Search; returns the target and the least β with every share that reaches it.

        Args:
          shares: shares that are tried, rising.
          fewer: those that are tried too where these do not come far enough or disturb.
          more: those that are tried in turn while none comes up to the aligned adapter.
        """
        target, candidates = self._find(shares)
        calm = any(candidate.divergence <= self._aim.disturbed for candidate in candidates)
        if fewer and (target < self._aim.aimed or not calm):
            target, candidates = self._find(fewer)
        for one in more:
            if furthest(self.trials) >= min(self._aim.aimed, self._aim.safe):
                break
            target, candidates = self._find((one,))
        return target, candidates

    def _find(self, further: Sequence[float]) -> tuple[float, tuple[Candidate, ...]]:
        """Climb with further shares; returns the target, and the least β with every share that reaches it."""
        aim, climbed = self._aim, self._climbed
        for one in reversed(further):  # fewer entries take more amplification
            last = climbed[min(climbed)] if climbed and one < min(climbed) else ()
            start = self._betas.index(max(last, key=lambda trial: trial.probability).beta) if last else 0
            enough = aim.aimed ** (1 / aim.headroom)
            climbed[one] = climb(functools.partial(self.attempt, one), self._betas, enough, start)
        # What bisections came upon between two steps of a climb counts in no share's reach, and so not here: else
        # the target lies beyond all of them, and no share is left that comes up to it.
        reached = {one: furthest(trials) for one, trials in climbed.items()}
        target = min(aim.aimed, self._within(max(aim.before, *reached.values())))
        if aim.before >= target:
            return target, ()
        able = [one for one in sorted(climbed) if self._within(reached[one]) >= target]
        found = [least(functools.partial(self.attempt, one), climbed[one], target) for one in able]
        candidates = [Candidate(*trial, self._divergence(trial.beta, trial.share)) for trial in found]
        return target, tuple(one for one in candidates if math.isfinite(one.divergence))

    def _within(self, reached: float) -> float:
        """What a share is taken to at most that can reach so much."""
        return max(reached**self._aim.headroom, min(reached, self._aim.safe))


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


def doubts(finetuned: float, aligned: float, divergence: float | None, disturbed: float) -> list[str]:
    """Say why a choice should not be trusted; nothing where there is no reason.

    Args:
      finetuned, aligned: the measure of both adapters.
      divergence: of what was chosen; None where nothing was.
      disturbed: the limit of it.
    """
    found = []
    if divergence is not None and not divergence <= disturbed:
        found.append(
            f"the automatic choice disturbs how the model reads requests: {divergence:.3g} nats a token, over the "
            f"limit of {disturbed:g}; it may refuse what is harmless or answer worse: evaluate it before it is used"
        )
    if not aligned - finetuned >= TELLS:
        found.append(
            "the calibration rows do not tell the aligned from the fine-tuned model: safe answers begin with "
            f"probability {aligned:.3g} and {finetuned:.3g}, expected {TELLS:g} more with the aligned one. "
            "The automatic choice means little by them: give refusals of harmful requests, or set --beta and "
            "--sparsity without --automatic"
        )
    return found
