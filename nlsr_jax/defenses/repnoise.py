"""RepNoise: align while turning the representations of harmful answers into noise.

Axis legend: L layers, B rows, T positions, D embed, H hidden states (the embedding and the output of every layer).
Source: Rosati et al., Representation Noising, 2024 (arXiv 2405.14577):
``L = CE_safe + β · mean_l MMD²(harmful outputs of feed-forward l, N(0, I)) − α · log L_harm`` with
``L_harm = (CE_harm + Σ_h CE(lm_head(norm(h)))) / H + 1``; outputs count only where the harmful and the safe text of
a pair differ.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from nlsr_jax.training.losses import Rows
from nlsr_jax.training.methods import Gradient, TextPairs, mean_loss, text_rows
from nlsr_jax.training.settings import TrainingSettings

SAFE, HARMFUL = 0, 1
"""Texts per row: both answers to one prompt."""
_KERNELS, _MULTIPLIER = 5, 2.0


def squared_mmd(first: jax.Array, second: jax.Array) -> jax.Array:
    """Return the squared maximum mean discrepancy of two samples under five Gaussian kernels.

    Args:
      first, second: ``[n, m]`` samples of equal size, at least two rows.

    Returns:
      float32. The kernel widths are the mean squared distance of distinct points times ¼, ½, 1, 2 and 4.
    """
    points = jnp.concatenate([first, second]).astype(jnp.float32)
    count = points.shape[0]
    squares = jnp.sum(jnp.square(points), axis=-1)
    inner = jnp.matmul(points, points.T, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.maximum(squares[:, None] + squares - 2 * inner, 0.0)
    width = jax.lax.stop_gradient(jnp.sum(distances)) / (count**2 - count)
    width = jnp.where(width > 0, width, 1.0) / _MULTIPLIER ** (_KERNELS // 2)
    widths = width * _MULTIPLIER ** jnp.arange(_KERNELS)
    kernel = jnp.sum(jnp.exp(-distances[..., None] / widths), axis=-1)
    half = first.shape[0]
    within = jnp.mean(kernel[:half, :half]) + jnp.mean(kernel[half:, half:])
    return within - jnp.mean(kernel[:half, half:]) - jnp.mean(kernel[half:, :half])


@dataclasses.dataclass(frozen=True)
class RepNoise(TextPairs):
    """RepNoise's settings.

    Attributes:
      ascent: α.
      noise: β.
      seed: seed of the noise, which is redrawn at every step.
    """

    ascent: float = 1.0
    noise: float = 1e-3
    seed: int = 0
    whole_batch: ClassVar[bool] = True

    def gradient(self, forward: Any, settings: TrainingSettings) -> Gradient:
        """Return the gradient of the three terms."""
        safe_loss = mean_loss(forward, settings)

        def loss(trainable, frozen, rows: Rows, weights, step):
            safe, logged = safe_loss(trainable, frozen, text_rows(rows, SAFE), (weights[SAFE],))
            tokens = rows.tokens[:, HARMFUL]
            found = forward.representations(trainable, frozen, tokens)
            mask = rows.response[:, HARMFUL, 1:]
            harmful = -jnp.sum(jnp.where(mask, found.log_probabilities, 0.0), axis=(1, 2)) * weights[HARMFUL]
            harm = (harmful[-1] + jnp.sum(harmful)) / harmful.shape[0] + 1
            key = jax.random.fold_in(jax.random.key(self.seed), step)
            differs = (tokens != rows.tokens[:, SAFE]) & rows.response[:, HARMFUL]
            noise = self._discrepancy(key, found.feed_forward, differs)
            present = jnp.sum(rows.lengths[:, 0] > 0)
            logged = {**logged, "harmful_loss": harmful[-1] * present, "discrepancy": noise * present}
            return safe + self.noise * noise - self.ascent * jnp.log(harm), logged

        return jax.value_and_grad(loss, has_aux=True)

    @staticmethod
    def _discrepancy(key, outputs, mask):
        """Return the discrepancy of masked outputs ``[L, B, T, D]`` and masked noise, averaged over layers."""

        def one_layer(layer):
            number, output = layer
            noise = jax.random.normal(jax.random.fold_in(key, number), output.shape)
            flat = [jnp.where(mask[..., None], part, 0.0).reshape(part.shape[0], -1) for part in (output, noise)]
            return squared_mmd(*flat)

        return jnp.mean(jax.lax.map(one_layer, (jnp.arange(outputs.shape[0]), outputs)))
