"""The five alignment objectives as pure functions of log-probabilities.

Conventions as in TRL: DPO and KTO take sums over the response's tokens (its end token included), ORPO and
SimPO take means. Axis legend: B rows, T positions.
"""

import jax
import jax.numpy as jnp

_NEAR_ZERO = -0.6931471805599453
_CERTAIN = -(2.0**-23)
"""The largest float32 log-probability below 0, whose odds are still finite."""


def log1mexp(x: jax.Array) -> jax.Array:
    """Return ``log(1 − exp(x))`` for x ≤ 0 without cancellation; −inf at 0.

    Source: Mächler, Accurately computing log(1 − exp(−|a|)), 2012.
    """
    near = x > _NEAR_ZERO
    # Each branch gets harmless values where it is not selected, so that no gradient is NaN.
    return jnp.where(
        near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x)))
    )


def sums_and_counts(log_probabilities: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a response's log-probability and its number of tokens.

    Args:
      log_probabilities: ``[B, T]`` float32 of single tokens.
      mask: ``[B, T]`` bool, the response's tokens.

    Returns:
      ``([B], [B])`` float32.
    """
    return jnp.sum(jnp.where(mask, log_probabilities, 0.0), axis=-1), jnp.sum(mask, axis=-1, dtype=jnp.float32)


def means(log_probabilities: jax.Array, mask: jax.Array) -> jax.Array:
    """Return a response's mean log-probability per token, ``[B]``; 0 for one without tokens."""
    total, count = sums_and_counts(log_probabilities, mask)
    return total / jnp.maximum(count, 1.0)


def dpo_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float = 0.1,
) -> jax.Array:
    """Direct preference optimisation: ``−log σ(β [(ℓ_c − ℓ_r) − (ℓ_c^ref − ℓ_r^ref)])``.

    Args:
      chosen, rejected: ``[B]`` sums of the policy's log-probabilities.
      reference_chosen, reference_rejected: ``[B]``, the reference policy's.
      beta: strength of the pull towards the reference.

    Returns:
      ``[B]`` losses. Source: Rafailov et al., 2023, equation 7.
    """
    return -jax.nn.log_sigmoid(beta * ((chosen - rejected) - (reference_chosen - reference_rejected)))


def odds_ratio_loss(chosen: jax.Array, rejected: jax.Array, *, beta: float = 0.1) -> jax.Array:
    """The odds-ratio term of ORPO: ``−β log σ(log odds_c − log odds_r)``.

    Args:
      chosen, rejected: ``[B]`` means of the log-probabilities per token. A mean of 0, as float32 has it for a
        short answer that the model is sure of, counts as the nearest below: its odds would be infinite.
      beta: weight beside the negative log-likelihood, which runs over prompt and response of the chosen text.

    Returns:
      ``[B]`` losses. Source: Hong et al., 2024, equations 6 and 7.
    """
    chosen, rejected = jnp.minimum(chosen, _CERTAIN), jnp.minimum(rejected, _CERTAIN)
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return -beta * jax.nn.log_sigmoid(log_odds)


def kto_loss(
    policy: jax.Array,
    reference: jax.Array,
    desirable: jax.Array,
    kl: jax.Array,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> jax.Array:
    """Kahneman-Tversky optimisation: ``w_d (1 − σ(β (r − z)))``, or ``w_u (1 − σ(β (z − r)))``.

    Args:
      policy, reference: ``[B]`` sums of log-probabilities; ``r`` is their difference.
      desirable: ``[B]`` bool.
      kl: z, one number ≥ 0 without gradient: the mean of policy minus reference on mismatched pairs.
      beta: strength of the pull towards the reference.
      desirable_weight, undesirable_weight: w_d and w_u.

    Returns:
      ``[B]`` losses. Source: Ethayarajh et al., 2024, equation 8.
    """
    margin = beta * (policy - reference - kl)
    good = desirable_weight * (1 - jax.nn.sigmoid(margin))
    bad = undesirable_weight * (1 - jax.nn.sigmoid(-margin))
    return jnp.where(desirable, good, bad)


def simpo_loss(chosen: jax.Array, rejected: jax.Array, *, beta: float = 2.0, gamma: float = 1.0) -> jax.Array:
    """SimPO: ``−log σ(β (ℓ̄_c − ℓ̄_r) − γ)``, without a reference policy.

    Args:
      chosen, rejected: ``[B]`` means of the log-probabilities per token.
      beta: scale of the implicit reward.
      gamma: target margin between the rewards (TRL's ``simpo_gamma``).

    Returns:
      ``[B]`` losses. Source: Meng et al., 2024, equation 6; its own β of 2 to 2.5 and γ/β of 0.3 to 0.6.
    """
    return -jax.nn.log_sigmoid(beta * (chosen - rejected) - gamma)
