"""One optimiser step: the gradient of a whole batch, computed in one or several parts."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from nlsr_jax.adapter import Adapter
from nlsr_jax.hardware import NARROW, converts_layers
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.lora import expand
from nlsr_jax.models.shared_prefix import can_share
from nlsr_jax.models.token_log_probabilities import layer_log_probabilities, token_log_probabilities
from nlsr_jax.training.losses import Rows, kto_distance
from nlsr_jax.training.methods import Method, objective_method
from nlsr_jax.training.settings import TrainingSettings
from nlsr_jax.types import Params


class TrainState(NamedTuple):
    """The state that training updates.

    Attributes:
      step: int32 number of optimiser steps so far.
      trainable: float32 adapter factors, or the parameters of a whole model.
      optimizer: state of the optimiser.
    """

    step: jax.Array
    trainable: Any
    optimizer: Any


class Representations(NamedTuple):
    """Intermediate results of a forward pass.

    Attributes:
      log_probabilities: ``[H, B, T - 1]`` float32 of the tokens, from the embedding and every layer's output
        through the final norm and the head; the last are the model's own.
      feed_forward: ``[L, B, T, D]``, outputs of the feed-forward blocks.
    """

    log_probabilities: jax.Array
    feed_forward: jax.Array


class Forward(Protocol):
    """A forward pass ``forward(trainable, frozen, tokens [B, T])``: log-probabilities ``[B, T - 1]`` float32.

    Two that compare equal compute the same.
    """

    def __hash__(self) -> int: ...

    def __call__(
        self, trainable: Any, frozen: Params, tokens: jax.Array, probes: Any = None, prefix: Any = None
    ) -> jax.Array:
        """Run the forward pass.

        Args:
          trainable, frozen, tokens: of the pass.
          probes: ``[L, B, T, D]``, added to the outputs of attention.
          prefix: ``[P]`` before every row, where ``takes_prefix`` says so.
        """
        ...

    @property
    def takes_prefix(self) -> bool:
        """Whether rows may come behind a prefix that is computed once."""
        ...

    def probes(self, tokens: jax.Array) -> jax.Array:
        """Return probes of zeros, which change nothing."""
        ...

    def representations(self, trainable: Any, frozen: Params, tokens: jax.Array) -> Representations:
        """Run the forward pass and return its intermediate results."""
        ...


@dataclasses.dataclass(frozen=True)
class _ModelForward:
    """The forward pass with the whole model trainable."""

    model: Llama
    dtype: Any

    def _variables(self, trainable, frozen) -> tuple[Any, Any]:
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype), trainable), None

    def __call__(self, trainable, frozen, tokens, probes=None, prefix=None):
        params, lora = self._variables(trainable, frozen)
        return token_log_probabilities(self.model, params, lora, tokens, probes, prefix)

    @property
    def takes_prefix(self):
        return can_share(self.model)

    def probes(self, tokens):
        config = self.model.config
        return jnp.zeros((config.num_layers, *tokens.shape, config.hidden_size), jnp.float32)

    def representations(self, trainable, frozen, tokens):
        params, lora = self._variables(trainable, frozen)
        return Representations(*layer_log_probabilities(self.model, params, lora, tokens))


@dataclasses.dataclass(frozen=True)
class _AdapterForward(_ModelForward):
    """The forward pass with only an adapter's factors trainable; ``structure`` is that adapter."""

    structure: Any

    def _variables(self, trainable, frozen) -> tuple[Any, Any]:
        adapter = jax.tree.unflatten(self.structure, jax.tree.leaves(trainable))
        lora = expand(adapter, self.model.config.num_layers)
        return frozen, jax.tree.map(lambda leaf: leaf.astype(self.dtype), lora)


def adapter_forward(model: Llama, adapter: Adapter, dtype: Any = jnp.float32) -> Forward:
    """Return the forward pass with only an adapter's factors trainable; ``frozen`` is the base.

    Args:
      model: a Llama.
      adapter: gives scaling and layers; the factors are passed to every call.
      dtype: dtype in which the factors are used.
    """
    return _AdapterForward(model, jnp.dtype(dtype), jax.tree.structure(adapter))


def model_forward(model: Llama, dtype: Any = jnp.float32) -> Forward:
    """Return the forward pass with the whole model trainable."""
    return _ModelForward(model, jnp.dtype(dtype))


def row_log_probabilities(
    forward: Forward, trainable: Any, frozen: Params, tokens: jax.Array, prefix: Any = None
) -> jax.Array:
    """Return log-probabilities ``[B, P, T - 1]`` of all texts, ``tokens [B, P, T]``, behind a prefix."""
    options = {} if prefix is None else {"prefix": prefix}
    flat = forward(trainable, frozen, tokens.reshape(-1, tokens.shape[-1]), **options)
    return flat.reshape(*tokens.shape[:2], -1)


def make_step(
    forward: Forward,
    optimizer: optax.GradientTransformation,
    settings: TrainingSettings,
    method: Method | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Return the compiled ``step(state, frozen, rows) → (state, metrics)``.

    Args:
      forward: the forward pass.
      optimizer: from ``make_optimizer``.
      settings: objective and number of parts of a batch.
      method: source of the gradient; None for the objective alone.

    Returns:
      A function that donates the state's memory. Its metrics are scalars: ``loss``, ``gradient_norm`` and
      row means of what the objective logs.
    """
    method = method or objective_method(settings)
    gradient = method.gradient(forward, settings)

    def step(state: TrainState, frozen, rows: Rows):
        weights = tuple(1 / jnp.maximum(count, 1.0) for count in method.counts(rows, settings))
        rest = (weights, state.step)
        if settings.accumulate == 1:
            (loss, logged), grads = gradient(state.trainable, frozen, rows, *rest)
        else:
            if settings.objective == "kto":
                rows = _with_distance(forward, state.trainable, frozen, rows, settings.accumulate)
            (loss, logged), grads = _accumulate(gradient, state.trainable, frozen, rows, rest, settings.accumulate)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        present = jnp.maximum(jnp.sum(rows.lengths[:, 0] > 0), 1)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(grads)}
        metrics.update({name: value / present for name, value in logged.items()})
        return TrainState(state.step + 1, trainable, optimizer_state), metrics

    return _Step(step)


class _Step:
    """A compiled step; its compiler options follow the type of the frozen weights."""

    def __init__(self, step: Callable[..., Any]):
        self._plain = jax.jit(step, donate_argnums=0)
        self._narrow = jax.jit(step, donate_argnums=0, compiler_options=NARROW)

    def __call__(self, state: TrainState, frozen, rows: Rows):
        return self._chosen(frozen)(state, frozen, rows)

    def lower(self, state: TrainState, frozen, rows: Rows):
        """Lower the step, as the method of a compiled function does."""
        return self._chosen(frozen).lower(state, frozen, rows)

    def _chosen(self, frozen):
        kinds = [leaf.dtype for leaf in jax.tree.leaves(frozen)]
        return self._narrow if any(map(converts_layers, kinds)) else self._plain


def _parts(rows, parts: int):
    """Split a batch into equal parts ``[parts, B / parts, ...]``."""
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), rows)


def _with_distance(forward: Forward, trainable, frozen, rows: Rows, parts: int) -> Rows:
    """Return rows with KTO's z of the whole batch, computed in one more forward pass over its parts."""

    def measure(tokens):
        return row_log_probabilities(forward, trainable, frozen, tokens)

    found = jax.lax.map(measure, _parts(rows.tokens[:, 1:2], parts))
    kl = kto_distance(found.reshape(len(rows.tokens), -1), rows)
    return rows._replace(kl=jnp.broadcast_to(kl, rows.desirable.shape))


def _accumulate(gradient, trainable, frozen, rows, rest, parts):
    """Sum loss and gradient over equal parts of a batch."""
    pieces = _parts(rows, parts)

    def add(total, piece):
        return jax.tree.map(jnp.add, total, gradient(trainable, frozen, piece, *rest)), None

    first = jax.eval_shape(gradient, trainable, frozen, jax.tree.map(lambda leaf: leaf[0], pieces), *rest)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    return jax.lax.scan(add, zero, pieces)[0]
