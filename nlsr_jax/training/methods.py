"""Ways of training that an objective alone does not say: other gradients, second texts, terms on the weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import optax

from nlsr_jax.training.losses import REFERENCE, TEXTS, Rows, counts, sums
from nlsr_jax.training.settings import TrainingSettings

Gradient = Callable[..., tuple[tuple[jax.Array, dict[str, jax.Array]], Any]]
"""``gradient(trainable, frozen, rows, weights, step) → ((loss, logged sums), gradient)``; ``weights`` are one over
the ``counts`` of the whole batch, of which ``rows`` may be a part."""


def text_rows(rows: Rows, text: int) -> Rows:
    """Return the rows with one of their texts alone."""
    part = slice(text, text + 1)
    return rows._replace(
        tokens=rows.tokens[:, part],
        response=rows.response[:, part],
        lengths=rows.lengths[:, part],
        reference=rows.reference[:, part],
    )


def mean_loss(forward, settings: TrainingSettings, **forwarded) -> Callable:
    """Return ``loss(trainable, frozen, rows, weights) → (loss, logged)`` of an objective.

    Args:
      forward: the forward pass.
      settings: the objective.
      **forwarded: for the forward pass.
    """

    def loss(trainable, frozen, rows: Rows, weights):
        tokens = rows.tokens
        flat = forward(trainable, frozen, tokens.reshape(-1, tokens.shape[-1]), **forwarded)
        found, logged = sums(flat.reshape(*tokens.shape[:2], -1), rows, settings)
        return sum(value * weight for value, weight in zip(found, weights, strict=True)), logged

    return loss


@dataclasses.dataclass(frozen=True)
class Method:
    """The gradient of the objective and the optimiser as they are; what other methods override.

    Attributes:
      texts: texts of a row.
      reference: ``None``, ``"sums"`` or ``"tokens"``: which log-probabilities of the policy that training starts
        from are in ``Rows.reference``, ``[B, P]`` or ``[B, P, T - 1]``.
      whole_batch: the gradient is not a sum over parts of a batch.
    """

    texts: ClassVar[int] = 1
    reference: ClassVar[str | None] = None
    whole_batch: ClassVar[bool] = False

    def counts(self, rows: Rows, settings: TrainingSettings) -> tuple[jax.Array, ...]:
        """Return what each term of the loss is divided by."""
        return counts(rows, settings)

    def gradient(self, forward, settings: TrainingSettings) -> Gradient:
        """Return the gradient function."""
        value_and_grad = jax.value_and_grad(mean_loss(forward, settings), has_aux=True)
        return lambda trainable, frozen, rows, weights, step: value_and_grad(trainable, frozen, rows, weights)

    def optimizer(self, optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        """Return the optimiser of a run of ``steps`` steps."""
        return optimizer


@dataclasses.dataclass(frozen=True)
class Pairs(Method):
    """Rows of two texts."""

    texts: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True)
class TextPairs(Pairs):
    """Rows of two texts, each of which the objective is a loss of by itself."""

    def counts(self, rows: Rows, settings: TrainingSettings) -> tuple[jax.Array, ...]:
        """Return the counts of both texts."""
        return tuple(counts(text_rows(rows, text), settings)[0] for text in range(self.texts))


@dataclasses.dataclass(frozen=True)
class ReferencedPairs(Pairs):
    """Rows of two texts beside a reference policy."""

    reference: ClassVar[str | None] = "sums"


def objective_method(settings: TrainingSettings) -> Method:
    """Return the method of the settings' objective."""
    if settings.objective in REFERENCE:
        return ReferencedPairs()
    return Pairs() if TEXTS[settings.objective] == 2 else Method()
