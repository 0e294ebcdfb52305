"""The amplification and the sparsity of ``gain``, chosen by calibration data alone.

What the fine-tuning has damaged shows on the calibration rows: the model begins as safe answers begin less often
than the aligned model does. Refusal is decided in the first tokens of an answer (Qi et al. 2024, arXiv 2406.05946),
so that these are what is measured, on rows that the masks were not made from; which of the safe answers the model
begins is left to it. What a repair costs shows on the requests of the same rows: the model reads them otherwise
than it did before. The setting that is chosen brings safe answers where they are wanted at the least of that cost.
No row of the customer's task and no evaluation request is seen.

Axis legend: B batch, T positions.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.models.capture import collect_loss_gradient
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.openings import collect_divergence, collect_openings, find_openings
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.settings import AIM, HEADROOM

DEPTH = 2
"""Tokens of an opening."""
BETAS = tuple(np.geomspace(0.5, 16384, 16).round(6).tolist())
"""Amplifications that are tried; the one that is chosen lies between two of them."""
SHARES = (1e-4, 3e-4, 1e-3, 3e-3)
"""Shares of all entries that are tried, 1 − sparsity: so few leave the customer's task where it is."""
FEWER = (1e-5, 3e-5)
"""Shares that are tried where with these the requests are read otherwise than they should be. So few entries hardly
tell what is forbidden from what is harmless."""
DISTURBED = 0.04
"""Nats a token, from which on requests are read otherwise than they should be."""
MORE = (1e-2, 3e-2)
"""Shares that are tried in turn where these cannot bring back the safety that the aligned model has."""
_PAST = 0.8
_BISECTIONS = 4


class Trial(NamedTuple):
    """One setting that was tried.

    Attributes:
      beta, share: the setting; ``share`` 0 is the fine-tuned adapter as it is.
      probability: how likely the model begins as safe answers begin, on the rows that masks are not made from; see
        ``collect_openings``.
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


def choose_settings(
    model: Llama,
    params,
    finetuned: Adapter,
    aligned: Adapter,
    weak: Adapter | None,
    batches: Sequence[tuple],
    *,
    aim: float = AIM,
    headroom: float = HEADROOM,
    depth: int = DEPTH,
    betas: Sequence[float] = BETAS,
    shares: Sequence[float] = SHARES,
    fewer: Sequence[float] = FEWER,
    more: Sequence[float] = MORE,
    share: float | None = None,
) -> Automatic:
    """Choose β and the share of entries for ``gain`` with one threshold for the adapter and the rule ``all``.

    Every second row makes the masks, the others measure how likely safe answers begin. That is to be ``aim``, or
    what it is with the aligned adapter where that is more; where no share can pass it by the headroom with any β,
    the target is lowered until the one that comes furthest can, but what is no more than with the aligned adapter
    asks for no headroom. Of every share that can, the least β that reaches the target is found by bisection, and of
    these settings the one is taken with which the model reads the requests of the same rows least otherwise than
    with the fine-tuned adapter. Where that is by more than ``DISTURBED``, or none of these shares comes far enough,
    fewer entries are tried too; more only where none comes up to the aligned adapter. An adapter that reaches the
    aim is left alone.

    Args:
      model, params: from ``load_model``.
      finetuned, aligned, weak: the adapters; weak None where it was merged into the base.
      batches: of ``(tokens [B, T], response_mask [B, T])``: prompts with safe answers, padded on the right.
      aim: a probability; see above.
      headroom: ratio, at least 1, of the logarithm of the target to that of what the share can reach.
      depth: tokens of an opening.
      betas: the amplifications that are tried, rising.
      shares, fewer, more: the shares that are tried, rising; see above.
      share: the only share that is tried, in their place.

    Returns:
      An ``Automatic``.

    Raises:
      InputError: fewer than two rows, an aim, headroom or depth that is none, betas or shares that do not rise
        within their range, or adapters that do not fit.
    """
    if share is not None:
        shares, fewer, more = (share,), (), ()
    _check_rising("betas", betas, math.inf)
    _check_rising("shares", shares, 1)
    for name, values in (("fewer", fewer), ("more", more)):
        if values:
            _check_rising(name, values, 1)
    if not 0 < aim < 1:
        raise InputError(f"aim is {aim}; expected a probability, above 0 and below 1")
    if not math.isfinite(headroom) or headroom < 1:
        raise InputError(f"headroom is {headroom}; expected a number of at least 1")
    made, measured = _halves(batches, 0), _halves(batches, 1)
    if not made or not measured:
        raise InputError(
            "there are fewer than two calibration rows; every second one measures what the others make"
        )
    openings = find_openings(model, batches, depth=depth)

    def probability(adapter: Adapter) -> float:
        value = float(collect_openings(model, params, adapter, measured, openings))
        return value if math.isfinite(value) else 0.0  # amplified beyond what numbers hold

    before, safe = probability(finetuned), probability(aligned)
    aimed = max(aim, safe)
    untouched = Trial(0.0, 0.0, before)
    if before >= aimed:
        return Automatic(untouched, True, aimed, aimed, before, safe, 0.0, (), (untouched,))
    gradients = collect_loss_gradient(model, params, finetuned, made)

    def repaired(beta: float, share: float) -> Adapter:
        reference = amplify(aligned, weak, beta=beta)
        return _transplant(finetuned, reference, _masks(reference, finetuned, gradients, share))

    trials = [untouched]

    @functools.cache
    def attempt(share: float, beta: float) -> Trial:
        trials.append(Trial(beta, share, probability(repaired(beta, share))))
        return trials[-1]

    @functools.cache
    def divergence(trial: Trial) -> float:
        value = float(collect_divergence(model, params, finetuned, repaired(trial.beta, trial.share), measured))
        return value if math.isfinite(value) else math.inf

    climbed: dict[float, list[Trial]] = {}

    def within(reached: float) -> float:
        """What a share is taken to at most that can reach so much."""
        return max(reached**headroom, min(reached, safe))

    def find(further: Sequence[float]) -> tuple[float, tuple[Candidate, ...]]:
        """Climb with further shares; returns the target, and the least β with every share that reaches it."""
        for one in reversed(further):  # fewer entries take more amplification
            last = climbed[min(climbed)] if climbed and one < min(climbed) else ()
            start = betas.index(max(last, key=lambda trial: trial.probability).beta) if last else 0
            climbed[one] = _climb(functools.partial(attempt, one), betas, aimed ** (1 / headroom), start)
        target = min(aimed, within(_furthest(trials)))
        if before >= target:
            return target, ()
        able = [one for one in sorted(climbed) if within(_furthest(climbed[one])) >= target]
        least = [_least(functools.partial(attempt, one), climbed[one], target) for one in able]
        return target, tuple(Candidate(*trial, divergence(trial)) for trial in least)

    target, candidates = find(shares)
    calm = any(candidate.divergence <= DISTURBED for candidate in candidates)
    if fewer and (target < aimed or not calm):
        target, candidates = find(fewer)
    for one in more:
        if _furthest(trials) >= min(aimed, safe):
            break
        target, candidates = find((one,))
    if not candidates:
        return Automatic(untouched, False, aimed, target, before, safe, 0.0, (), tuple(trials))
    chosen = Trial(*min(candidates, key=lambda candidate: candidate.divergence)[:3])
    change = relative_change(repaired(chosen.beta, chosen.share), finetuned)
    met = chosen.probability >= aimed
    return Automatic(chosen, met, aimed, target, before, safe, change, candidates, tuple(trials))


def _check_rising(name: str, values: Sequence[float], end: float) -> None:
    if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] < end:
        below = "" if math.isinf(end) else f" and below {end}"
        raise InputError(f"{name} are {list(values)}; expected numbers that rise, above 0{below}")


def _furthest(trials: Sequence[Trial]) -> float:
    return max(trial.probability for trial in trials)


def _climb(attempt: Callable[[float], Trial], betas: Sequence[float], enough: float, start: int) -> list[Trial]:
    """Try β down from a place until the probability is not enough, and up until it is, or well past its peak."""
    found = {start: attempt(betas[start])}
    place = start
    while found[place].probability >= enough and place > 0:
        place -= 1
        found[place] = attempt(betas[place])
    place, best = start, _furthest(list(found.values()))
    while best < enough and place + 1 < len(betas) and found[place].probability >= _PAST * best:
        place += 1
        found[place] = attempt(betas[place])
        best = max(best, found[place].probability)
    return [found[place] for place in sorted(found)]


def _least(attempt: Callable[[float], Trial], climbed: Sequence[Trial], target: float) -> Trial:
    """Return the trial of the least β that reaches the target, between those that were climbed over.

    None below the lowest of them is tried: it may reach the target too, where climbing ended at it.
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


def _halves(batches: Sequence[tuple], first: int) -> list[tuple]:
    """Every second row of the data, rows that have no response left out, in its batches."""
    found, seen = [], 0
    for tokens, mask in batches:
        counted = np.flatnonzero(np.asarray(mask)[:, 1:].any(1))
        chosen = counted[(first + seen) % 2 :: 2]
        seen += counted.size
        if chosen.size:
            found.append((np.asarray(tokens)[chosen], np.asarray(mask)[chosen]))
    return found


def _masks(reference: Adapter, finetuned: Adapter, gradients, share: float):
    return identify(
        reference,
        sparsity=1 - share,
        method="gain",
        granularity="adapter",
        gradients=gradients,
        finetuned=finetuned,
    )


def _transplant(finetuned: Adapter, reference: Adapter, masks) -> Adapter:
    nothing = {module: jnp.zeros(leaf["a"].shape[0], bool) for module, leaf in finetuned.factors.items()}
    return correct(finetuned, reference, masks, nothing)


def relative_change(adapter: Adapter, before: Adapter) -> float:
    """Return the Frobenius norm of the change of all factors, relative to that of the factors before."""

    def norm(tree) -> float:
        return float(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)) ** 0.5)

    change = jax.tree.map(
        lambda x, y: x.astype(jnp.float32) - y.astype(jnp.float32), adapter.factors, before.factors
    )
    return norm(change) / max(norm(before.factors), 1e-30)
