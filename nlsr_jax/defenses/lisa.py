"""Lisa: alternate between safe data and the customer's, each kept close to where the other ended.

Source: Huang et al., Lazy Safety Alignment, 2024 (arXiv 2405.18641): K₁ steps on safety data with
``ρ/2 ‖w − w_finetuned‖²``, then K₂ steps on the customer's data with ``ρ/2 ‖w − w_aligned‖²``, starting with safety
data; no proximal term in the first tenth of all steps; the total number of steps is unchanged.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nlsr_jax.training.losses import Rows
from nlsr_jax.training.methods import Gradient, TextPairs, mean_loss, text_rows
from nlsr_jax.training.settings import TrainingSettings

CUSTOMER, GUIDE = 0, 1
"""Texts per row."""


class LisaState(NamedTuple):
    """State of the optimiser.

    Attributes:
      inner: state of the wrapped optimiser.
      step: int32 number of steps so far.
      aligned, finetuned: the weights at the end of the last safe and of the last customer phase.
    """

    inner: Any
    step: jax.Array
    aligned: Any
    finetuned: Any


@dataclasses.dataclass(frozen=True)
class Lisa(TextPairs):
    """Lisa's settings.

    Attributes:
      safe_steps, customer_steps: K₁ and K₂.
      rho: ρ.
      free_share: share of all steps before the proximal term starts.
    """

    safe_steps: int = 100
    customer_steps: int = 900
    rho: float = 1.0
    free_share: float = 0.1

    def on_safe_data(self, step: jax.Array) -> jax.Array:
        """Return whether step ``step`` (from 0) uses safe rows."""
        return step % (self.safe_steps + self.customer_steps) < self.safe_steps

    def gradient(self, forward: Callable, settings: TrainingSettings) -> Gradient:
        """Return the gradient of the objective on the rows of the current phase."""
        value_and_grad = jax.value_and_grad(mean_loss(forward, settings), has_aux=True)

        def gradient(trainable, frozen, rows: Rows, weights, step):
            safe = self.on_safe_data(step)
            taken = jax.tree.map(
                lambda customer, guide: jnp.where(safe, guide, customer),
                text_rows(rows, CUSTOMER)._replace(desirable=0),
                text_rows(rows, GUIDE)._replace(desirable=0),
            )
            weight = jnp.where(safe, weights[GUIDE], weights[CUSTOMER])
            return value_and_grad(trainable, frozen, taken, (weight,))

        return gradient

    def optimizer(self, optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        """Return the optimiser with the proximal term added to its gradients."""
        free = round(self.free_share * steps)

        def init(params):
            # Copies: the step donates the state's memory, and a buffer cannot be donated twice.
            aligned, finetuned = (jax.tree.map(lambda w: jnp.array(w, copy=True), params) for _ in range(2))
            return LisaState(optimizer.init(params), jnp.zeros((), jnp.int32), aligned, finetuned)

        def update(gradients, state: LisaState, params):
            safe, before = self.on_safe_data(state.step), self.on_safe_data(state.step - 1)
            # When a phase ends, keep the weights that the next phase starts from.
            switched = (state.step > 0) & (safe != before)
            aligned = _where(switched & before, params, state.aligned)
            finetuned = _where(switched & ~before, params, state.finetuned)
            strength = jnp.where(state.step < free, 0.0, self.rho)
            anchor = _where(safe, finetuned, aligned)
            pulled = jax.tree.map(lambda g, w, a: g + strength * (w - a), gradients, params, anchor)
            updates, inner = optimizer.update(pulled, state.inner, params)
            return updates, LisaState(inner, state.step + 1, aligned, finetuned)

        return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _where(flag, first, second):
    return jax.tree.map(lambda x, y: jnp.where(flag, x, y), first, second)
