"""The search behind the automatic choice: the least amplification of every share of the entries, by measures alone.

Nothing here knows of models: a setting goes in, and how likely safe answers begin with it comes out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from nlsr_jax.calibration.climbing import Trial, climb, furthest, least
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.settings import AutomaticSettings

TELLS = 0.1
"""How much likelier safe answers must begin with the aligned adapter than with the fine-tuned one, for calibration
rows to tell the two apart."""
_BETAS = tuple(0.5 * 2.0**step for step in range(16))


@dataclasses.dataclass(frozen=True)
class SearchSettings(AutomaticSettings):
    """What a search goes for, and what it tries.

    Attributes:
      depth: tokens of an opening.
      betas: amplifications that are tried, rising; the one that is chosen lies between two of them.
      shares: shares of all entries that are tried, 1 − sparsity, rising: so few leave the customer's task where it
        is.
      fewer: shares that are tried where with these the requests are disturbed. So few entries hardly tell what is
        forbidden from what is harmless.
      more: shares that are tried in turn where these cannot bring back the safety that the aligned model has.
      disturbed: nats a token, from which on the reading of requests is disturbed.
    """

    depth: int = 2
    betas: tuple[float, ...] = _BETAS
    shares: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    fewer: tuple[float, ...] = (1e-5, 3e-5)
    more: tuple[float, ...] = (1e-2, 3e-2)
    disturbed: float = 0.04

    def tried(self) -> "SearchSettings":
        """Return the settings with ``share`` in the place of all shares, where it is given."""
        if self.share is None:
            return self
        return dataclasses.replace(self, shares=(self.share,), fewer=(), more=())


def check_search(settings: SearchSettings) -> None:
    """Check what a search goes for and tries.

    Raises:
      InputError: an aim or headroom out of its range, betas or shares that do not rise within theirs.
    """
    _check_rising("betas", settings.betas, math.inf)
    _check_rising("shares", settings.shares, 1)
    for name in ("fewer", "more"):
        if getattr(settings, name):
            _check_rising(name, getattr(settings, name), 1)
    if not 0 < settings.aim < 1:
        raise InputError(f"aim is {settings.aim}; expected a probability, above 0 and below 1")
    if not math.isfinite(settings.headroom) or settings.headroom < 1:
        raise InputError(f"headroom is {settings.headroom}; expected a number of at least 1")


def _check_rising(name: str, values: Sequence[float], end: float) -> None:
    if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] < end:
        below = "" if math.isinf(end) else f" and below {end}"
        raise InputError(f"{name} are {list(values)}; expected numbers that rise, above 0{below}")


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


class Automatic(NamedTuple):
    """What was chosen.

    Attributes:
      chosen: the setting; ``share`` 0 where nothing needs repair.
      met: whether it reaches the aim; where no share can pass it with headroom, a lower target was taken.
      aimed: the probability that was aimed at.
      target: the one that was gone for, at most ``aimed``.
      finetuned, aligned: those of the fine-tuned and of the aligned adapter.
      change: Frobenius norm of what the choice changes in the factors, relative to the fine-tuned adapter's.
      candidates: what the choice was made among, one for every share that reaches the target.
      trials: all settings that were tried, in their order.
      unmeasured: how many of them were amplified beyond what numbers hold.
    """

    chosen: Trial
    met: bool
    aimed: float
    target: float
    finetuned: float
    aligned: float
    change: float
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    unmeasured: int = 0


class Measures(Protocol):
    """What a search asks of the settings that it tries."""

    def untouched(self) -> tuple[float, float]:
        """Return how likely safe answers begin with the fine-tuned and with the aligned adapter."""

    def probability(self, beta: float, share: float) -> float:
        """Return how likely they begin with the repair of a setting; NaN where it is beyond numbers."""

    def divergence(self, beta: float, share: float) -> float:
        """Return how far that repair changes the reading of requests, in nats a token."""

    def change(self, beta: float, share: float) -> float:
        """Return the relative change of the factors by that repair."""


def choose(measures: Measures, settings: SearchSettings) -> Automatic:
    """Choose a setting by measures alone; see ``nlsr_jax.calibration.automatic.choose_settings``.

    Args:
      measures: of the settings that are tried.
      settings: checked; see ``check_search``.
    """
    before, safe = measures.untouched()
    aimed = max(settings.aim, safe)
    untouched = Trial(0.0, 0.0, before)
    if before >= aimed:
        return Automatic(untouched, True, aimed, aimed, before, safe, 0.0, (), (untouched,))
    aim = Aim(before, safe, aimed, settings.headroom, settings.disturbed)
    search = Search(measures.probability, measures.divergence, aim, settings.betas)
    target, candidates = search.run(settings.shares, settings.fewer, settings.more)
    trials = tuple(search.trials)
    if not candidates:
        return Automatic(untouched, False, aimed, target, before, safe, 0.0, (), trials, search.unmeasured)
    chosen = Trial(*min(candidates, key=lambda candidate: candidate.divergence)[:3])
    change = measures.change(chosen.beta, chosen.share)
    met = chosen.probability >= aimed
    return Automatic(chosen, met, aimed, target, before, safe, change, candidates, trials, search.unmeasured)


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

    Attributes:
      trials: all settings that were tried, in their order.
      unmeasured: how many of them gave no number.
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
