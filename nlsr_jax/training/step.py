"""One optimiser step: the gradient of a whole batch, taken in one or several parts."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nlsr_jax.adapter import Adapter
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.lora import expand
from nlsr_jax.models.token_log_probabilities import token_log_probabilities
from nlsr_jax.training.losses import Rows, counts, sums
from nlsr_jax.training.settings import TrainingSettings


class TrainState(NamedTuple):
    """What training changes.

    Attributes:
      step: int32 number of optimiser steps done.
      trainable: float32 adapter factors, or the parameters of a whole model.
      optimizer: state of the optimiser.
    """

    step: jax.Array
    trainable: Any
    optimizer: Any


Forward = Callable[[Any, Any, jax.Array], jax.Array]
"""``forward(trainable, frozen, tokens [B, T])``: log-probabilities ``[B, T - 1]`` float32."""


def adapter_forward(model: Llama, adapter: Adapter, dtype=jnp.float32) -> Forward:
    """Return the forward pass whose only trainable part is an adapter's factors; ``frozen`` is the base.

    Args:
      model: a Llama.
      adapter: its scaling and layers; the factors are given at every call.
      dtype: number type that the factors are used in.
    """

    def forward(factors, params, tokens):
        lora = expand(dataclasses.replace(adapter, factors=factors), model.config.num_layers)
        lora = jax.tree.map(lambda leaf: leaf.astype(dtype), lora)
        return token_log_probabilities(model, params, lora, tokens)

    return forward


def model_forward(model: Llama, dtype=jnp.float32) -> Forward:
    """Return the forward pass in which the whole model is trainable."""

    def forward(params, _, tokens):
        return token_log_probabilities(model, jax.tree.map(lambda leaf: leaf.astype(dtype), params), None, tokens)

    return forward


def row_log_probabilities(forward: Forward, trainable, frozen, tokens: jax.Array) -> jax.Array:
    """Return log-probabilities ``[B, P, T - 1]`` of the texts of rows, ``tokens [B, P, T]``."""
    flat = forward(trainable, frozen, tokens.reshape(-1, tokens.shape[-1]))
    return flat.reshape(*tokens.shape[:2], -1)


def make_step(forward: Forward, optimizer: optax.GradientTransformation, settings: TrainingSettings):
    """Return the compiled ``step(state, frozen, rows) → (state, metrics)``.

    Args:
      forward: the forward pass.
      optimizer: from ``make_optimizer``.
      settings: objective and how many parts a batch is taken in.

    Returns:
      A function that donates the state's memory. Its metrics are scalars: ``loss``, ``gradient_norm`` and
      means over rows of what the objective logs.
    """

    def part_loss(trainable, frozen, rows: Rows, weights):
        found, logged = sums(row_log_probabilities(forward, trainable, frozen, rows.tokens), rows, settings)
        return sum(value * weight for value, weight in zip(found, weights, strict=True)), logged

    gradient = jax.value_and_grad(part_loss, has_aux=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, frozen, rows: Rows):
        weights = tuple(1 / jnp.maximum(count, 1.0) for count in counts(rows, settings))
        if settings.accumulate == 1:
            (loss, logged), grads = gradient(state.trainable, frozen, rows, weights)
        else:
            (loss, logged), grads = _accumulate(
                gradient, state.trainable, frozen, rows, weights, settings.accumulate
            )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        present = jnp.maximum(jnp.sum(rows.lengths[:, 0] > 0), 1)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(grads)}
        metrics.update({name: value / present for name, value in logged.items()})
        return TrainState(state.step + 1, trainable, optimizer_state), metrics

    return step


def _accumulate(gradient, trainable, frozen, rows, weights, parts):
    """Sum loss and gradient over equal parts of a batch."""
    pieces = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), rows)

    def add(total, piece):
        return jax.tree.map(jnp.add, total, gradient(trainable, frozen, piece, weights)), None

    first = jax.eval_shape(gradient, trainable, frozen, jax.tree.map(lambda leaf: leaf[0], pieces), weights)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    return jax.lax.scan(add, zero, pieces)[0]
