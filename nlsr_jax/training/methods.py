"""Training methods beyond a plain objective: other gradients, second texts, terms on the weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import optax

from nlsr_jax.training.losses import REFERENCE, TEXTS, Rows, counts, sums
from nlsr_jax.training.settings import TrainingSettings

Gradient = Callable[..., tuple[tuple[jax.Array, dict[str, jax.Array]], Any]]
"""``gradient(trainable, frozen, rows, weights, step) → ((loss, logged sums), gradient)``; ``weights`` are the
reciprocals of the ``counts`` of the whole batch, of which ``rows`` may be a part."""


def text_rows(rows: Rows, text: int) -> Rows:
    """Return the rows with only one of their texts."""
    part = slice(text, text + 1)
    return rows._replace(
        tokens=rows.tokens[:, part],
        response=rows.response[:, part],
        lengths=rows.lengths[:, part],
        reference=rows.reference[:, part],
    )


def mean_loss(forward: Callable, settings: TrainingSettings, **forwarded: Any) -> Callable:
    """Return ``loss(trainable, frozen, rows, weights) → (loss, logged)`` for an objective.

    Args:
      forward: the forward pass.
      settings: the objective.
      **forwarded: passed on to the forward pass.
    """

    def loss(trainable, frozen, rows: Rows, weights):
        tokens = rows.tokens
        prefix = {} if rows.prefix is None else {"prefix": rows.prefix}
        flat = forward(trainable, frozen, tokens.reshape(-1, tokens.shape[-1]), **prefix, **forwarded)
        found, logged = sums(flat.reshape(*tokens.shape[:2], -1), rows, settings)
        return sum(value * weight for value, weight in zip(found, weights, strict=True)), logged

    return loss


@dataclasses.dataclass(frozen=True)
class Method:
    """The plain method: the objective's gradient and the unchanged optimiser. Subclasses override parts of it.

    Attributes:
      texts: number of texts per row.
      reference: ``None``, ``"sums"`` or ``"tokens"``: the shape of the reference policy's log-probabilities
        in ``Rows.reference``, ``[B, P]`` or ``[B, P, T - 1]``.
      whole_batch: whether the gradient needs the whole batch because it is not a sum over its parts.
    """

    texts: ClassVar[int] = 1
    reference: ClassVar[str | None] = None
    whole_batch: ClassVar[bool] = False

    def counts(self, rows: Rows, settings: TrainingSettings) -> tuple[jax.Array, ...]:
        """Return the divisor of each term of the loss."""
        return counts(rows, settings)

    def gradient(self, forward: Callable, settings: TrainingSettings) -> Gradient:
        """Return the gradient function."""
        value_and_grad = jax.value_and_grad(mean_loss(forward, settings), has_aux=True)
        return lambda trainable, frozen, rows, weights, step: value_and_grad(trainable, frozen, rows, weights)

    def optimizer(self, optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        """Return the optimiser for a run of ``steps`` steps."""
        return optimizer


@dataclasses.dataclass(frozen=True)
class Pairs(Method):
    """Rows with two texts."""

    texts: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True)
class TextPairs(Pairs):
    """Rows with two texts, each with its own loss."""

    def counts(self, rows: Rows, settings: TrainingSettings) -> tuple[jax.Array, ...]:
        """Return the counts of both texts."""
        return tuple(counts(text_rows(rows, text), settings)[0] for text in range(self.texts))


@dataclasses.dataclass(frozen=True)
class ReferencedPairs(Pairs):
    """Rows with two texts, compared with a reference policy."""

    reference: ClassVar[str | None] = "sums"


def objective_method(settings: TrainingSettings) -> Method:
    """Return the method for the settings' objective."""
    if settings.objective in REFERENCE:
        return ReferencedPairs()
    return Pairs() if TEXTS[settings.objective] == 2 else Method()
