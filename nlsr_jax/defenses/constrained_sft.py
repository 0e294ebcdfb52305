"""Constrained SFT: keep the first tokens of an answer close to the aligned model.

Axis legend: B rows, T positions.
Source: Qi et al., Safety Alignment Should Be Made More Than Just a Few Tokens Deep, 2024 (arXiv 2406.05946),
section 4: ``−Σ_t (2/β_t) log σ(β_t log(π_θ(y_t) / π_aligned(y_t)))`` with β₁ = 0.5, β₂…β₅ = 2 and 0.1 after.
Its gradient is that of the negative log-likelihood weighted by ``w_t = 2 (1 − σ(β_t Δ_t))``, at least 1e-3.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from nlsr_jax.training.losses import Rows, sums
from nlsr_jax.training.methods import Gradient, Method
from nlsr_jax.training.settings import TrainingSettings

LEAST_WEIGHT = 1e-3


def token_weights(
    log_probabilities: jax.Array, reference: jax.Array, mask: jax.Array, betas: tuple[float, ...], beta: float
) -> jax.Array:
    """Return the token weights ``[B, T]``, without gradient.

    Args:
      log_probabilities, reference: ``[B, T]`` of the trained model and of the aligned model.
      mask: ``[B, T]`` bool, the response.
      betas: β of the response's first tokens.
      beta: β of the other tokens.
    """
    place = jnp.cumsum(mask, axis=-1) - 1
    strength = jnp.asarray((*betas, beta), jnp.float32)[jnp.clip(place, 0, len(betas))]
    weights = 2 * (1 - jax.nn.sigmoid(strength * (log_probabilities - reference)))
    return jax.lax.stop_gradient(jnp.maximum(weights, LEAST_WEIGHT))


@dataclasses.dataclass(frozen=True)
class ConstrainedSft(Method):
    """Constrained SFT's settings.

    Attributes:
      betas: β of the first tokens of a response.
      beta: β of all later tokens.
    """

    betas: tuple[float, ...] = (0.5, 2.0, 2.0, 2.0, 2.0)
    beta: float = 0.1
    reference: ClassVar[str | None] = "tokens"

    def gradient(self, forward: Callable, settings: TrainingSettings) -> Gradient:
        """Return the gradient of the weighted negative log-likelihood, averaged as the settings' ``loss`` says."""

        def loss(trainable, frozen, rows: Rows, weights, step):
            values = forward(trainable, frozen, rows.tokens[:, 0])
            mask = rows.response[:, 0, 1:]
            strength = token_weights(values, rows.reference[:, 0, : values.shape[1]], mask, self.betas, self.beta)
            (total,), logged = sums((strength * values)[:, None], rows, settings)
            return total * weights[0], logged

        return jax.value_and_grad(loss, has_aux=True)
