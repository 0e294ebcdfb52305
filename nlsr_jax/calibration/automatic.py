"""The amplification and the sparsity of ``gain``, chosen by calibration data alone.

What the fine-tuning has damaged shows on the calibration rows: the model begins as safe answers begin less often
than the aligned model does. Refusal is decided in the first tokens of an answer (Qi et al. 2024, arXiv 2406.05946),
so that these are what is measured, on rows that the masks were not made from; which of the safe answers the model
begins is left to it. What a repair costs shows on the requests of the same rows: the model reads them otherwise
than it did before. The setting that is chosen brings safe answers where they are wanted at the least of that cost.
No row of the customer's task and no evaluation request is seen.

Axis legend: B batch, T positions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.capture import collect_loss_gradient
from nlsr_jax.calibration.openings import collect_divergence, collect_openings, find_openings
from nlsr_jax.calibration.search import Aim, Candidate, Search, Trial
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama
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
    aligned_base: tuple | None = None,
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
      aligned_base: ``(model, params)`` of the aligned adapter where they are others; see ``apply_carried``.

    Returns:
      An ``Automatic``.

    Raises:
      InputError: fewer than two rows, an adapter whose answers have no probability, an aim, headroom or depth that
        is none, betas or shares that do not rise within their range, or adapters that do not fit.
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
        return float(collect_openings(model, params, adapter, measured, openings))

    before = probability(finetuned)
    if aligned_base is None:
        safe = probability(aligned)
    else:  # its vocabulary may have another size
        other, weights = aligned_base
        own = find_openings(other, batches, depth=depth)
        safe = float(collect_openings(other, weights, aligned, measured, own))
    for name, value in (("fine-tuned", before), ("aligned", safe)):
        if not math.isfinite(value):
            raise InputError(
                f"the probability of safe answers with the {name} adapter is {value}: activations go beyond what "
                f"{_dtype(params)} holds; take a wider --dtype, or look for faults in the adapter"
            )
    aimed = max(aim, safe)
    untouched = Trial(0.0, 0.0, before)
    if before >= aimed:
        return Automatic(untouched, True, aimed, aimed, before, safe, 0.0, (), (untouched,))
    gradients = collect_loss_gradient(model, params, finetuned, made)

    def repaired(beta: float, share: float) -> Adapter:
        reference = amplify(aligned, weak, beta=beta)
        return _transplant(finetuned, reference, _masks(reference, finetuned, gradients, share))

    def divergence(beta: float, share: float) -> float:
        return float(collect_divergence(model, params, finetuned, repaired(beta, share), measured))

    search = Search(
        lambda beta, share: probability(repaired(beta, share)),
        divergence,
        Aim(before, safe, aimed, headroom, DISTURBED),
        betas,
    )
    target, candidates = search.run(shares, fewer, more)
    trials = tuple(search.trials)
    if not candidates:
        return Automatic(untouched, False, aimed, target, before, safe, 0.0, (), trials, search.unmeasured)
    chosen = Trial(*min(candidates, key=lambda candidate: candidate.divergence)[:3])
    change = relative_change(repaired(chosen.beta, chosen.share), finetuned)
    met = chosen.probability >= aimed
    return Automatic(chosen, met, aimed, target, before, safe, change, candidates, trials, search.unmeasured)


def _dtype(params) -> str:
    """Number type of the base's weights."""
    return str(jax.tree.leaves(params)[0].dtype)


def _check_rising(name: str, values: Sequence[float], end: float) -> None:
    if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] < end:
        below = "" if math.isinf(end) else f" and below {end}"
        raise InputError(f"{name} are {list(values)}; expected numbers that rise, above 0{below}")


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
