"""Objectives over batches, as sums of terms and the counts they are divided by.

A loss is a sum of terms, each a sum over rows or tokens divided by their number in the whole batch. A batch taken
in several parts therefore gives the gradient of the whole. KTO's z is not such a sum and is passed to each part.
Axis legend: B rows, T positions, P texts per row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.training import objectives
from nlsr_jax.training.settings import TrainingSettings

TEXTS = {"sft": 1, "dpo": 2, "orpo": 2, "kto": 2, "simpo": 2}
"""Texts per row: the response; chosen and rejected; or (KTO) the response and a mismatched one."""
REFERENCE = {"dpo", "kto"}
"""Objectives that need the reference policy's log-probabilities."""


class Rows(NamedTuple):
    """A batch, or a part of one.

    Attributes:
      tokens: ``[B, P, T]`` int32.
      response: ``[B, P, T]`` bool.
      lengths: ``[B, P]`` int32; 0 for filler rows.
      reference: ``[B, P]`` float32 sums of the reference policy's log-probabilities; zeros if not needed.
      desirable: ``[B]`` bool, for KTO.
      kl: ``[B]`` float32, KTO's z of the whole batch, equal in all rows; None if the rows are the whole
        batch.
      prefix: ``[P]`` int32 before every text, which tokens, responses and lengths leave out; None for none.
    """

    tokens: Any
    response: Any
    lengths: Any
    reference: Any
    desirable: Any
    kl: Any = None
    prefix: Any = None


def counts(rows: Rows, settings: TrainingSettings) -> tuple[jax.Array, ...]:
    """Return the divisor of each term of the loss: a number of rows or of tokens."""
    present = jnp.sum(rows.lengths[:, 0] > 0, dtype=jnp.float32)
    if settings.objective == "sft" and settings.loss == "token":
        return (jnp.sum(rows.response[:, 0, 1:], dtype=jnp.float32),)
    if settings.objective == "orpo":
        return jnp.sum(jnp.maximum(rows.lengths[:, 0] - 1, 0), dtype=jnp.float32), present
    return (present,)


def kto_distance(log_probabilities: jax.Array, rows: Rows) -> jax.Array:
    """Return KTO's z: mean of policy minus reference over the mismatched texts, at least 0, without gradient.

    Args:
      log_probabilities: ``[B, T - 1]`` float32 of each row's second text.
      rows: the whole batch.

    Returns:
      A float32 scalar.
    """
    mismatched = objectives.sums_and_counts(log_probabilities, rows.response[:, 1, 1:])[0]
    present = rows.lengths[:, 0] > 0
    drift = jnp.sum(jnp.where(present, mismatched - rows.reference[:, 1], 0.0)) / jnp.maximum(jnp.sum(present), 1)
    return jnp.maximum(jax.lax.stop_gradient(drift), 0.0)


def sums(
    log_probabilities: jax.Array, rows: Rows, settings: TrainingSettings
) -> tuple[tuple[jax.Array, ...], dict]:
    """Return the sum of each term over the rows, and sums for the log.

    Args:
      log_probabilities: ``[B, P, T - 1]`` float32 of each token after the first.
      rows: the rows.
      settings: objective and its parameters.

    Returns:
      ``(sums of the terms, {name: sum over rows})``.
    """
    mask = rows.response[:, :, 1:]
    present = rows.lengths[:, 0] > 0
    total = lambda values: jnp.sum(jnp.where(present, values, 0.0))  # noqa: E731
    text = lambda i: (log_probabilities[:, i], mask[:, i])  # noqa: E731
    beta = settings.preference_beta
    if settings.objective == "sft":
        if settings.loss == "token":
            return (-jnp.sum(objectives.sums_and_counts(*text(0))[0]),), {}
        return (-total(objectives.means(*text(0))),), {}
    if settings.objective == "dpo":
        chosen, rejected = (objectives.sums_and_counts(*text(i))[0] for i in (0, 1))
        loss = objectives.dpo_loss(chosen, rejected, rows.reference[:, 0], rows.reference[:, 1], beta=beta)
        margin = chosen - rows.reference[:, 0] - (rejected - rows.reference[:, 1])
        return (total(loss),), {"accuracy": total(margin > 0), "margin": total(beta * margin)}
    if settings.objective == "kto":
        policy = objectives.sums_and_counts(*text(0))[0]
        kl = kto_distance(log_probabilities[:, 1], rows) if rows.kl is None else rows.kl
        loss = objectives.kto_loss(policy, rows.reference[:, 0], rows.desirable, kl, beta=beta)
        return (total(loss),), {"kl": total(jnp.full(present.shape, kl))}
    chosen, rejected = (objectives.means(*text(i)) for i in (0, 1))
    logged = {"accuracy": total(chosen > rejected), "margin": total(chosen - rejected)}
    if settings.objective == "simpo":
        return (total(objectives.simpo_loss(chosen, rejected, beta=beta, gamma=settings.gamma)),), logged
    inside = jnp.arange(1, rows.tokens.shape[-1]) < rows.lengths[:, 0, None]
    likelihood = jnp.sum(jnp.where(inside, log_probabilities[:, 0], 0.0))
    return (-likelihood, total(objectives.odds_ratio_loss(chosen, rejected, beta=beta))), logged
