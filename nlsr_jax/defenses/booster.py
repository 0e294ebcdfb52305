"""Booster: train so that a step on harmful data reduces the harmful loss less.

Source: Huang et al., Booster, 2024 (arXiv 2409.01586): the gradient
``∇f(w) + λ [∇h(w) − ∇h(w − α ∇h(w) / ‖∇h(w)‖)]``, with loss f on safe rows and h on harmful rows.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from nlsr_jax.training.losses import Rows
from nlsr_jax.training.methods import Gradient, TextPairs, mean_loss, text_rows
from nlsr_jax.training.settings import TrainingSettings

SAFE, HARMFUL = 0, 1
"""Texts per row."""


@dataclasses.dataclass(frozen=True)
class Booster(TextPairs):
    """Booster's settings.

    Attributes:
      strength: λ.
      step: α, length of the simulated step on harmful rows.
    """

    strength: float = 5.0
    step: float = 0.1
    whole_batch: ClassVar[bool] = True

    def gradient(self, forward: Callable, settings: TrainingSettings) -> Gradient:
        """Return the gradient function, which makes three passes."""
        value_and_grad = jax.value_and_grad(mean_loss(forward, settings), has_aux=True)

        def gradient(trainable, frozen, rows: Rows, weights, step):
            def of(weights_at, text):
                return value_and_grad(weights_at, frozen, text_rows(rows, text), (weights[text],))

            (loss, logged), safe = of(trainable, SAFE)
            (harmful_loss, _), harmful = of(trainable, HARMFUL)
            norm = jnp.maximum(optax.tree.norm(harmful), jnp.finfo(jnp.float32).tiny)
            moved = jax.tree.map(lambda w, g: w - self.step * g / norm, trainable, harmful)
            _, after = of(moved, HARMFUL)
            total = jax.tree.map(lambda s, h, a: s + self.strength * (h - a), safe, harmful, after)
            present = jnp.sum(rows.lengths[:, 0] > 0)
            return (loss, {**logged, "harmful_loss": harmful_loss * present}), total

        return gradient
