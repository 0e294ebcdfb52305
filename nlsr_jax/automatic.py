"""The amplification and the sparsity of ``gain``, chosen by calibration data alone.

What the fine-tuning has damaged shows on the calibration rows: the model begins their safe answers less often than
the aligned model does. Refusal is decided in the first tokens of an answer (Qi et al. 2024, arXiv 2406.05946), so
that the probability of these is what is measured, on rows that the masks were not made from. The setting that is
chosen brings it where it is wanted with few entries and the least change of the adapter. No row of the customer's
task and no evaluation request is seen.

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
from nlsr_jax.models.capture import collect_loss_gradient, collect_openings
from nlsr_jax.models.llama import Llama
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify

AIM = 1.2
"""How likely the openings of safe answers are to become, by default, as a multiple of the aligned model's."""
DEPTH = 3
"""Tokens of an opening."""
BETAS = tuple(np.geomspace(0.5, 512, 11).round(6).tolist())
"""Amplifications that are tried; the one that is chosen lies between two of them."""
SHARES = (1e-4, 3e-4, 1e-3)
"""Shares of all entries that are tried first, 1 − sparsity: so few leave the customer's task where it is."""
MORE = (3e-3, 1e-2, 3e-2)
"""Shares that are tried in turn where these cannot bring back the safety that the aligned model has."""
HEADROOM = 1.05
"""By how much a share must be able to pass what it is taken to: at its limit, a repair refuses what is harmless."""
_PAST = 0.8
_BISECTIONS = 5


class Trial(NamedTuple):
    """One setting that was tried.

    Attributes:
      beta, share: the setting; ``share`` 0 is the fine-tuned adapter as it is.
      probability: of the openings of safe answers, on the rows that masks are not made from.
    """

    beta: float
    share: float
    probability: float


class Automatic(NamedTuple):
    """What was chosen.

    Attributes:
      chosen: the setting; ``share`` 0 where nothing needs repair.
      met: whether it reaches the aim; where no share can pass it with headroom, a lower target was taken.
      aimed: the probability that was aimed at.
      target: the one that was gone for, at most ``aimed``.
      finetuned: that of the fine-tuned adapter.
      change: Frobenius norm of what the choice changes in the factors, relative to the fine-tuned adapter's.
      trials: all settings that were tried, in their order.
    """

    chosen: Trial
    met: bool
    aimed: float
    target: float
    finetuned: float
    change: float
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
    more: Sequence[float] = MORE,
    share: float | None = None,
) -> Automatic:
    """Choose β and the share of entries for ``gain`` with one threshold for the adapter and the rule ``all``.

    Every second row makes the masks, the others measure how likely safe answers begin. The target is ``aim`` times
    the aligned adapter's probability; where no share can pass it by ``headroom`` with any β, the target is lowered
    until the one that comes furthest can. Of every share that can, the least β that reaches the target is found by
    bisection, and of these settings the one is taken that changes the adapter least. Only where no share comes up
    to the aligned adapter's own probability, more entries are tried until one does. A fine-tuned adapter that
    reaches the target is left alone.

    Args:
      model, params: from ``load_model``.
      finetuned, aligned, weak: the adapters; weak None where it was merged into the base.
      batches: of ``(tokens [B, T], response_mask [B, T])``: prompts with safe answers, padded on the right.
      aim, headroom: see above.
      depth: tokens of an opening.
      betas: the amplifications that are tried, rising.
      shares, more: the shares that are tried, rising; see above.
      share: the only share that is tried, in place of both.

    Returns:
      An ``Automatic``.

    Raises:
      InputError: fewer than two rows, an aim, headroom or depth that is none, betas or shares that do not rise
        within their range, or adapters that do not fit.
    """
    if share is not None:
        shares, more = (share,), ()
    _check_rising("betas", betas, math.inf)
    _check_rising("shares", shares, 1)
    if more:
        _check_rising("more", more, 1)
    if not math.isfinite(aim) or aim <= 0:
        raise InputError(f"aim is {aim}; expected a number above 0")
    if not math.isfinite(headroom) or headroom < 1:
        raise InputError(f"headroom is {headroom}; expected a number of at least 1")
    made, measured = _halves(batches, 0), _halves(batches, 1)
    if not made or not measured:
        raise InputError(
            "there are fewer than two calibration rows; every second one measures what the others make"
        )

    def probability(adapter: Adapter) -> float:
        value = float(collect_openings(model, params, adapter, measured, depth=depth))
        return value if math.isfinite(value) else 0.0  # amplified beyond what numbers hold

    before, safe = probability(finetuned), probability(aligned)
    aimed = aim * safe
    untouched = Trial(0.0, 0.0, before)
    if before >= aimed:
        return Automatic(untouched, True, aimed, aimed, before, 0.0, (untouched,))
    gradients = collect_loss_gradient(model, params, finetuned, made)

    def repaired(beta: float, share: float) -> Adapter:
        reference = amplify(aligned, weak, beta=beta)
        return _transplant(finetuned, reference, _masks(reference, finetuned, gradients, share))

    trials = [untouched]

    def attempt(share: float, beta: float) -> Trial:
        trials.append(Trial(beta, share, probability(repaired(beta, share))))
        return trials[-1]

    climbed = {share: _climb(functools.partial(attempt, share), betas, headroom * aimed) for share in shares}
    for share in more:
        if _furthest(trials) >= min(aimed, safe):
            break
        climbed[share] = _climb(functools.partial(attempt, share), betas, headroom * min(aimed, safe))
    target = min(aimed, _furthest(trials) / headroom)
    chosen, change = untouched, 0.0
    if before < target:
        able = [share for share, found in climbed.items() if _furthest(found) / headroom >= target]
        least = [_least(functools.partial(attempt, share), climbed[share], target) for share in able]
        changes = [relative_change(repaired(trial.beta, trial.share), finetuned) for trial in least]
        change, chosen = min(zip(changes, least, strict=True), key=lambda pair: pair[0])
    return Automatic(chosen, chosen.probability >= aimed, aimed, target, before, change, tuple(trials))


def _check_rising(name: str, values: Sequence[float], end: float) -> None:
    if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] < end:
        below = "" if math.isinf(end) else f" and below {end}"
        raise InputError(f"{name} are {list(values)}; expected numbers that rise, above 0{below}")


def _furthest(trials: Sequence[Trial]) -> float:
    return max(trial.probability for trial in trials)


def _climb(attempt: Callable[[float], Trial], betas: Sequence[float], enough: float) -> list[Trial]:
    """Try rising β until the probability is enough, or well past its peak."""
    found: list[Trial] = []
    for beta in betas:
        found.append(attempt(beta))
        best = max(trial.probability for trial in found)
        if best >= enough or found[-1].probability < _PAST * best:
            break
    return found


def _least(attempt: Callable[[float], Trial], climbed: Sequence[Trial], target: float) -> Trial:
    """Return the trial of the least β that reaches the target, between those that were climbed over."""
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
