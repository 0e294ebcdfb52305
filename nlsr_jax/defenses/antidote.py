"""Antidote: remove the parameters that harmful answers depend on.

Source: Huang et al., Antidote, 2024 (arXiv 2408.09600): after fine-tuning, compute Wanda's score over harmful rows
and set the highest tenth of each row of the LoRA matrices to zero.
"""

import dataclasses

import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.statistics import Statistics


def antidote(finetuned: Adapter, statistics: Statistics | None, *, share: float = 0.1) -> Adapter:
    """Set the harmful entries of each row to zero.

    Args:
      finetuned: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      statistics: of the fine-tuned model over all tokens of harmful rows; None scores by magnitude alone.
      share: share of each row's entries to remove.

    Returns:
      The adapter without these entries.

    Raises:
      InputError: if share is outside [0, 1], or the statistics belong to another adapter.
    """
    method = "magnitude" if statistics is None else "wanda"
    masks = identify(finetuned, statistics, sparsity=1 - share, method=method, granularity="row")

    def one(leaf, mask):
        return jnp.where(mask, jnp.zeros((), leaf.dtype), leaf)

    factors = {m: {f: one(leaf, masks[m][f]) for f, leaf in pair.items()} for m, pair in finetuned.factors.items()}
    return dataclasses.replace(finetuned, factors=factors)
