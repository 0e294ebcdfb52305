"""The training loop: batches in, steps, checkpoints and metrics out.

A run depends only on its inputs, settings and key, so a killed and resumed run produces the same bytes as an
uninterrupted one.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nlsr_jax.data.batching import Batch, BatchShape, Packed, batches_in_order, training_batches
from nlsr_jax.errors import InputError
from nlsr_jax.files.output import describe_os_error
from nlsr_jax.progress import Stages
from nlsr_jax.random_streams import stream
from nlsr_jax.training.folder import RunFolder
from nlsr_jax.training.identity import run_identity
from nlsr_jax.training.losses import Rows
from nlsr_jax.training.methods import Method, Pairs, ReferencedPairs, objective_method
from nlsr_jax.training.objectives import sums_and_counts
from nlsr_jax.training.optimizer import learning_rate, make_optimizer
from nlsr_jax.training.prefix import cut, shared_length
from nlsr_jax.training.settings import TrainingSettings, check_training
from nlsr_jax.training.step import Forward, TrainState, make_step, row_log_probabilities

LOG_EVERY = 10


class Task(NamedTuple):
    """What to train, and the rows to train on.

    Attributes:
      forward: the forward pass.
      trainable: initial float32 arrays.
      frozen: other arrays used by the forward pass.
      packed: encoded rows, with as many texts per row as the objective takes.
      desirable: ``[n]`` bool for KTO, else None.
      pad_id: padding token.
      method: training method; None for the objective alone.
      prefix: ``[P]`` tokens that ``packed`` leaves out before every text; None for none.
    """

    forward: Forward
    trainable: Any
    frozen: Any
    packed: Packed
    desirable: np.ndarray | None = None
    pad_id: int = 0
    method: Method | None = None
    prefix: np.ndarray | None = None


def train(
    key: jax.Array,
    task: Task,
    settings: TrainingSettings,
    *,
    folder: str | os.PathLike | None = None,
    identity: Mapping[str, Any] | None = None,
    description: str = "train",
    show: bool = False,
) -> TrainState:
    """Train.

    Args:
      key: PRNG key; it decides the order of the rows.
      task: what to train, and the rows.
      settings: training settings.
      folder: where to keep checkpoints and metrics. A run with checkpoints in this folder is resumed.
      identity: further values that identify the run, beside ``run_identity``; see ``RunFolder``.
      description: label of the progress bar.
      show: show progress.

    Returns:
      The last state.

    Raises:
      InputError: if settings or rows are invalid, or the folder belongs to another run or cannot be written.
    """
    check_training(settings)
    method = task.method or objective_method(settings)
    name = f"method {type(method).__name__}" if task.method else f"objective {settings.objective}"
    if task.packed.lengths.shape[1] != method.texts:
        raise InputError(f"{name} takes rows of {method.texts} texts, found {task.packed.lengths.shape[1]}")
    if method.whole_batch and settings.accumulate > 1:
        raise InputError(f"{name} needs whole batches; accumulate is {settings.accumulate}, expected 1")
    flags, count = task.desirable, len(task.packed.lengths)
    if settings.objective == "kto" and (flags is None or flags.shape != (count,)):
        raise InputError(f"objective kto needs a desirable flag for each of the {count} rows")
    if folder is None:
        return _train(key, task._replace(method=method), settings, None, description, show)
    rows = (task.packed, task.desirable)
    whole = {**(identity or {}), **run_identity(task.trainable, task.frozen, rows, settings)}
    if task.method is not None:
        whole["method"] = {"name": type(method).__name__, **vars(method)}
    try:
        with contextlib.closing(RunFolder(folder, whole)) as run:
            return _train(key, task._replace(method=method), settings, run, description, show)
    except OSError as error:
        raise InputError(describe_os_error(error, folder)) from error


def _train(key, task: Task, settings, run: RunFolder | None, description, show):
    lengths, task = task.packed.lengths, _without_prefix(task, settings)
    ahead = 0 if task.prefix is None else len(task.prefix)
    shape = BatchShape(settings.batch_size, settings.max_length - ahead, settings.one_length, task.pad_id)
    steps = settings.epochs * shape.steps(len(task.packed.lengths))
    assert task.method is not None
    optimizer, take_step = prepare_step(
        task.forward, dataclasses.replace(settings, save_every=0), steps, task.method
    )
    reference = _reference(task, settings, shape, run)
    trainable = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), task.trainable)
    state = TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))
    if run is not None:
        state = run.restore(state, key)
        run.start_metrics(int(state.step))
    first = int(state.step)
    rate = learning_rate(settings, steps)
    order = stream(key, "training order")
    batches = training_batches(task.packed, order, shape, epochs=settings.epochs, first_step=first)
    started, tokens = time.perf_counter(), 0
    with Stages(show).steps(description, steps, first) as advance:
        for step, batch in enumerate(batches, first + 1):
            state, metrics = take_step(state, task.frozen, _rows(batch, task, reference))
            last = step == steps
            logged = step % LOG_EVERY == 0 or step == 1 or last
            saved = last or (settings.save_every > 0 and step % settings.save_every == 0)
            values = _finite(metrics, step) if logged or saved else {}
            tokens += int(lengths[batch.rows[batch.rows >= 0]].sum())
            speed = tokens / max(time.perf_counter() - started, 1e-9)
            advance(step, f"loss {values['loss']:.4f}, {speed:,.0f} tokens/s" if logged else "")
            if run is not None and logged:
                beside = {"learning_rate": float(rate(step - 1)), "tokens_per_second": round(speed, 1)}
                run.log({"step": step, **values, **beside})
            if run is not None and saved:
                run.save(state, key)
    return state


@functools.lru_cache(maxsize=16)
def prepare_step(
    forward: Forward, settings: TrainingSettings, steps: int, method: Method
) -> tuple[optax.GradientTransformation, Callable]:
    """Return ``(optimizer, step)``; similar runs, such as a study's seeds and tasks, share the compiled step.

    Args:
      forward: the forward pass.
      settings: training settings.
      steps: number of steps of the whole run.
      method: training method.
    """
    optimizer = method.optimizer(make_optimizer(settings, steps), steps)
    return optimizer, make_step(forward, optimizer, settings, method)


def _finite(metrics, step: int) -> dict[str, float]:
    """Return the metrics as numbers; raise InputError if the loss or gradient is not finite."""
    values = {name: float(metrics[name]) for name in sorted(metrics, key=lambda name: (name != "loss", name))}
    for name, value in values.items():
        if not np.isfinite(value):
            what = name.replace("_", " ")
            raise InputError(f"the {what} is {value} at step {step}; lower the learning rate or check the data")
    return values


def _rows(batch: Batch, task: Task, reference: np.ndarray) -> Rows:
    present = batch.rows >= 0
    kept = reference[batch.rows]
    if kept.ndim == 3:
        width = batch.texts[0].tokens.shape[1] - 1
        kept = np.pad(kept, ((0, 0), (0, 0), (0, max(0, width - kept.shape[2]))))[:, :, :width]
    absent = ~present.reshape(-1, *[1] * (kept.ndim - 1))
    return Rows(
        tokens=np.stack([text.tokens for text in batch.texts], axis=1),
        response=np.stack([text.response_mask for text in batch.texts], axis=1),
        lengths=np.where(present[:, None], task.packed.lengths[batch.rows], 0),
        reference=np.where(absent, 0, kept).astype(np.float32),
        desirable=present if task.desirable is None else present & task.desirable[batch.rows],
        prefix=task.prefix,
    )


def _without_prefix(task: Task, settings: TrainingSettings) -> Task:
    """Take what all texts begin with out of them, where the objective reads responses alone."""
    plain = type(task.method) in (Method, Pairs, ReferencedPairs) and settings.objective in ("sft", "dpo", "simpo")
    takes = plain and settings.accumulate == 1 and task.forward.takes_prefix
    length = shared_length(task.packed) if takes else 0
    if not length:
        return task
    first = int(task.packed.first[0, 0])
    return task._replace(packed=cut(task.packed, length), prefix=task.packed.ids[first : first + length])


def _reference(task: Task, settings: TrainingSettings, shape: BatchShape, run: RunFolder | None) -> np.ndarray:
    """Return the log-probabilities of the reference policy, which is the initial state of training.

    ``[n, P]`` for whole responses; ``[n, P, longest text - 1]`` if the method needs them per token.
    """
    none = np.zeros(task.packed.lengths.shape, np.float32)
    assert task.method is not None
    if task.method.reference is None:
        return none
    tokens = task.method.reference == "tokens"
    found = np.zeros((*none.shape, task.packed.lengths.max() - 1), np.float32) if tokens else none.copy()
    kept = None if run is None else run.reference(found.shape)
    if kept is not None:
        return kept

    for batch in batches_in_order(task.packed, np.arange(len(none)), shape):
        present = batch.rows >= 0
        values = np.asarray(_measure(task.forward, task.trainable, task.frozen, _rows(batch, task, none), tokens))[
            present
        ]
        if tokens:
            width = min(values.shape[-1], found.shape[-1])  # anything beyond the longest text is padding
            found[batch.rows[present], :, :width] = values[..., :width]
        else:
            found[batch.rows[present]] = values
    if run is not None:
        run.keep_reference(found)
    return found


@functools.partial(jax.jit, static_argnames=("forward", "tokens"))
def _measure(forward: Forward, trainable, frozen, rows: Rows, tokens: bool):
    """Return log-probabilities of tokens or of whole responses."""
    values = row_log_probabilities(forward, trainable, frozen, rows.tokens, rows.prefix)
    return values if tokens else sums_and_counts(values, rows.response[:, :, 1:])[0]
