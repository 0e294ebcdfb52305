"""The amplification and the sparsity of ``gain``, chosen by calibration data alone.

What the fine-tuning has damaged shows on the calibration rows: the model begins as safe answers begin less often
than the aligned model does. Refusal is decided in the first tokens of an answer (Qi et al. 2024, arXiv 2406.05946),
so that these are what is measured, on rows that the masks were not made from; which of the safe answers the model
begins is left to it. What a repair costs shows on the requests of the same rows: the model reads them otherwise
than it did before. The setting that is chosen brings safe answers where they are wanted at the least of that cost.
No row of the customer's task and no evaluation request is seen.

Axis legend: B batch, T positions.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.loss import collect_loss_gradient
from nlsr_jax.calibration.openings import collect_divergence, collect_openings, find_openings
from nlsr_jax.calibration.search import Automatic, SearchSettings, check_search, choose
from nlsr_jax.errors import InputError, argument
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.streamed import StreamedParams
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.types import Gradients, Params


def choose_settings(
    model: Llama,
    params: Params,
    finetuned: Adapter,
    aligned: Adapter,
    weak: Adapter | None,
    batches: Sequence[tuple],
    *,
    settings: SearchSettings | None = None,
    aligned_base: tuple | None = None,
) -> Automatic:
    """Choose β and the share of entries for ``gain`` with one threshold for the adapter and the rule ``all``.

    Every second row makes the masks, the others measure how likely safe answers begin. That is to be ``aim``, or
    what it is with the aligned adapter where that is more; where no share can pass it by the headroom with any β,
    the target is lowered until the one that comes furthest can, but what is no more than with the aligned adapter
    asks for no headroom. Of every share that can, the least β that reaches the target is found by bisection, and of
    these settings the one is taken with which the model reads the requests of the same rows least otherwise than
    with the fine-tuned adapter. Where that is by more than ``disturbed``, or none of these shares comes far enough,
    fewer entries are tried too; more only where none comes up to the aligned adapter. An adapter that reaches the
    aim is left alone.

    Args:
      model, params: from ``load_model``.
      finetuned, aligned, weak: the adapters; weak None where it was merged into the base.
      batches: of ``(tokens [B, T], response_mask [B, T])``: prompts with safe answers, padded on the right.
      settings: what is gone for and tried; by default a ``SearchSettings()``.
      aligned_base: ``(model, params)`` of the aligned adapter where they are others; see ``apply_carried``.

    Returns:
      An ``Automatic``.

    Raises:
      InputError: fewer than two rows, an adapter whose answers have no probability, an aim, headroom or depth out
        of range, betas or shares that do not rise within their range, or adapters that do not fit.
    """
    settings = (settings or SearchSettings()).tried()
    check_search(settings)
    halves = _halves(batches, 0), _halves(batches, 1)
    if not all(halves):
        raise InputError(
            "there are fewer than two calibration rows; every second one measures what the others make"
        )
    own = Passes(model, params, halves[1], find_openings(model, batches, depth=settings.depth))
    other = own
    if aligned_base is not None:  # its vocabulary may have another size
        other_model, weights = aligned_base
        own_openings = find_openings(other_model, batches, depth=settings.depth)
        other = Passes(other_model, weights, halves[1], own_openings)
    return choose(Repairs(own, other, finetuned, aligned, weak, halves[0]), settings)


@dataclasses.dataclass(frozen=True)
class Passes:
    """The passes of one base over the rows that measure.

    Attributes:
      model, params: the base.
      rows: batches of them.
      openings: of all rows; see ``find_openings``.
    """

    model: Llama
    params: Any
    rows: Sequence[tuple]
    openings: Any

    def probability(self, adapter: Adapter) -> float:
        """Return how likely safe answers begin with an adapter."""
        return float(collect_openings(self.model, self.params, adapter, self.rows, self.openings))

    def divergence(self, before: Adapter, after: Adapter) -> float:
        """Return how far one adapter reads the requests otherwise than another."""
        return float(collect_divergence(self.model, self.params, before, after, self.rows))


@dataclasses.dataclass(frozen=True)
class Repairs:
    """The repairs of one adapter, made and measured: the ``Measures`` of the search.

    Attributes:
      passes, aligned_passes: with the fine-tuned and with the aligned adapter.
      finetuned, aligned, weak: the adapters.
      made_from: batches of the rows that the masks are made from.
    """

    passes: Passes
    aligned_passes: Passes
    finetuned: Adapter
    aligned: Adapter
    weak: Adapter | None
    made_from: Sequence[tuple]

    @functools.cached_property
    def gradients(self) -> Gradients:
        """Of the loss on safe answers at the fine-tuned adapter."""
        return collect_loss_gradient(self.passes.model, self.passes.params, self.finetuned, self.made_from)

    def repaired(self, beta: float, share: float) -> Adapter:
        """Return the repair of a setting."""
        reference = amplify(self.aligned, self.weak, beta=beta)
        masks = identify(
            reference,
            sparsity=1 - share,
            method="gain",
            granularity="adapter",
            gradients=self.gradients,
            finetuned=self.finetuned,
        )
        nothing = {m: jnp.zeros(leaf["a"].shape[0], bool) for m, leaf in self.finetuned.factors.items()}
        return correct(self.finetuned, reference, masks, nothing)

    def untouched(self) -> tuple[float, float]:
        """See ``Measures``.

        Raises:
          InputError: an adapter whose answers have no probability.
        """
        found = self.passes.probability(self.finetuned), self.aligned_passes.probability(self.aligned)
        for name, value in zip(("fine-tuned", "aligned"), found, strict=True):
            if not math.isfinite(value):
                raise InputError(
                    f"the probability of safe answers with the {name} adapter is {value}: activations go beyond "
                    f"what {_dtype(self.passes.params)} holds; take a wider {argument('dtype')}, or look for "
                    "faults in the adapter"
                )
        return found

    def probability(self, beta: float, share: float) -> float:
        """See ``Measures``."""
        return self.passes.probability(self.repaired(beta, share))

    def divergence(self, beta: float, share: float) -> float:
        """See ``Measures``."""
        return self.passes.divergence(self.finetuned, self.repaired(beta, share))

    def change(self, beta: float, share: float) -> float:
        """See ``Measures``."""
        return relative_change(self.repaired(beta, share), self.finetuned)


def _dtype(params) -> str:
    """Number type of the base's weights."""
    return str(params.dtype if isinstance(params, StreamedParams) else jax.tree.leaves(params)[0].dtype)


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


def relative_change(adapter: Adapter, before: Adapter) -> float:
    """Return the Frobenius norm of the change of all factors, relative to that of the factors before."""

    def norm(tree) -> float:
        return float(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)) ** 0.5)

    change = jax.tree.map(
        lambda x, y: x.astype(jnp.float32) - y.astype(jnp.float32), adapter.factors, before.factors
    )
    return norm(change) / max(norm(before.factors), 1e-30)
