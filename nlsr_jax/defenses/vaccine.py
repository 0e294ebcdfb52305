"""Vaccine: align under the worst small perturbation of the outputs of attention.

Axis legend: L layers, B rows, T positions, D embed.
Source: Huang et al., Vaccine, 2024 (arXiv 2402.01109): let g_l be the gradient of the batch's loss with respect to
the output of attention l. The training gradient is taken with ``e_l = ρ g_l / ‖(g_1 … g_L)‖`` added to these
outputs.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import optax

from nlsr_jax.training.methods import Gradient, Method, mean_loss
from nlsr_jax.training.settings import TrainingSettings

_NOT_ZERO = 1e-7


@dataclasses.dataclass(frozen=True)
class Vaccine(Method):
    """Vaccine's settings.

    Attributes:
      rho: ρ, norm of the perturbation over all layers and the whole batch.
    """

    rho: float = 2.0
    whole_batch: ClassVar[bool] = True

    def gradient(self, forward: Any, settings: TrainingSettings) -> Gradient:
        """Return the gradient under perturbation, which takes two passes."""

        def perturbed(probes, trainable, frozen, rows, weights):
            return mean_loss(forward, settings, probes=probes)(trainable, frozen, rows, weights)

        def gradient(trainable, frozen, rows, weights, step):
            probes = forward.probes(rows.tokens[:, 0])
            g = jax.grad(perturbed, has_aux=True)(probes, trainable, frozen, rows, weights)[0]
            scale = self.rho / (optax.tree.norm(g) + _NOT_ZERO)
            found = jax.tree.map(lambda leaf: jax.lax.stop_gradient(scale * leaf), g)
            return jax.value_and_grad(perturbed, argnums=1, has_aux=True)(found, trainable, frozen, rows, weights)

        return gradient
