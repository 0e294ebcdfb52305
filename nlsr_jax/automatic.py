"""The amplification and the sparsity of ``gain``, chosen by calibration data alone.

What the fine-tuning has damaged shows on the calibration rows: their safe answers are less likely than they were to
the aligned model. The setting that is chosen makes them as likely again, on rows that the masks were not made from,
by the least change of the fine-tuned adapter. No row of the customer's task and no evaluation request is seen.

Axis legend: B batch, T positions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.models.capture import collect_loss, collect_loss_gradient
from nlsr_jax.models.llama import Llama
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify

BETAS = (0.0, 0.45, 0.9, 1.35, 1.8)
SHARES = tuple(np.geomspace(3e-4, 3e-2, 12).round(6).tolist())
"""Shares of all entries that are tried, 1 − sparsity."""


class Trial(NamedTuple):
    """One setting that was tried.

    Attributes:
      beta, share: the setting; ``share`` 0 is the fine-tuned adapter as it is.
      loss: of the safe answers, nats a token, on the rows that masks are not made from.
      change: Frobenius norm of what it changes in the factors, relative to the fine-tuned adapter's.
    """

    beta: float
    share: float
    loss: float
    change: float


class Automatic(NamedTuple):
    """What was chosen.

    Attributes:
      chosen: the setting; ``share`` 0 where nothing needs repair.
      met: whether it reaches the target.
      target: the loss that was aimed at, nats a token.
      finetuned: the loss of the fine-tuned adapter.
      trials: all settings that were tried.
    """

    chosen: Trial
    met: bool
    target: float
    finetuned: float
    trials: tuple[Trial, ...]


def choose_settings(
    model: Llama,
    params,
    finetuned: Adapter,
    aligned: Adapter,
    weak: Adapter | None,
    batches: Sequence[tuple],
    *,
    tolerance: float = 0.0,
    betas: Sequence[float] = BETAS,
    shares: Sequence[float] = SHARES,
) -> Automatic:
    """Choose β and the share of entries for ``gain`` with one threshold for the adapter and the rule ``all``.

    Every second row makes the masks, the others measure. For every β the least share is found by bisection whose
    loss is at most ``(1 + tolerance)`` times the aligned adapter's; of these the one of least change is taken.
    Where no share suffices, the one of least loss is.

    Args:
      model, params: from ``load_model``.
      finetuned, aligned, weak: the adapters; weak None where it was merged into the base.
      batches: of ``(tokens [B, T], response_mask [B, T])``: prompts with safe answers, padded on the right.
      tolerance: see above.
      betas: the amplifications that are tried.
      shares: the shares that are tried, rising.

    Returns:
      An ``Automatic``.

    Raises:
      InputError: fewer than two rows, a tolerance that is none, shares that do not rise within (0, 1), or adapters
        that do not fit.
    """
    if not betas or not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
        raise InputError(f"shares are {list(shares)}; expected numbers that rise, above 0 and below 1, and betas")
    if not math.isfinite(tolerance) or tolerance <= -1:
        raise InputError(f"tolerance is {tolerance}; expected a number above -1")
    made, measured = _halves(batches, 0), _halves(batches, 1)
    if not made or not measured:
        raise InputError(
            "there are fewer than two calibration rows; every second one measures what the others make"
        )

    def loss(adapter: Adapter) -> float:
        return float(collect_loss(model, params, adapter, measured))

    before = loss(finetuned)
    target = (1 + tolerance) * loss(aligned)
    untouched = Trial(0.0, 0.0, before, 0.0)
    if before <= target:
        return Automatic(untouched, True, target, before, (untouched,))
    gradients = collect_loss_gradient(model, params, finetuned, made)
    trials: list[Trial] = [untouched]
    met: list[Trial] = []
    for beta in betas:
        reference = amplify(aligned, weak, beta=beta)
        low, high = 0, len(shares)  # the least that suffices is in [low, high]; len(shares): none
        found: dict[int, Trial] = {}
        while low < high:
            middle = (low + high) // 2
            masks = _masks(reference, finetuned, gradients, shares[middle])
            repaired = _transplant(finetuned, reference, masks)
            found[middle] = Trial(beta, shares[middle], loss(repaired), relative_change(repaired, finetuned))
            if found[middle].loss <= target:
                high = middle
            else:
                low = middle + 1
        trials += found.values()
        met += [found[high]] if high in found else []
    if met:
        return Automatic(min(met, key=lambda t: (t.change, t.beta)), True, target, before, tuple(trials))
    return Automatic(min(trials, key=lambda t: (t.loss, t.change)), False, target, before, tuple(trials))


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
