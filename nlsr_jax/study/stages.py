"""Training stages of a study on one base: adapters in, adapters out."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.encoding import describe_counts
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.models.llama import Llama
from nlsr_jax.training.loop import Task, train
from nlsr_jax.training.methods import Method
from nlsr_jax.training.rows import paired_rows, training_rows
from nlsr_jax.training.settings import TrainingSettings
from nlsr_jax.training.step import adapter_forward


class Base(NamedTuple):
    """A base model with its tokenizer.

    Attributes:
      model, params: from ``load_model``.
      tokenizer: a transformers tokenizer.
      special_tokens: whether the tokenizer adds its special tokens to prompts; False if a chat template did.
    """

    model: Llama
    params: Any
    tokenizer: Any
    special_tokens: bool = True


def train_adapter(
    key: jax.Array,
    base: Base,
    start: Adapter,
    rows: Sequence[Example] | Sequence[Preference],
    settings: TrainingSettings,
    *,
    companions: Sequence[Example] = (),
    method: Method | None = None,
    folder: str | os.PathLike | None = None,
    identity: Mapping[str, Any] | None = None,
    description: str = "train",
    show: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Adapter:
    """Train an adapter on a frozen base.

    Args:
      key: PRNG key of the order of the rows.
      base: the base.
      start: the initial adapter; for DPO and KTO also the reference policy.
      rows: see ``training_rows``.
      settings: training settings.
      companions: second texts for a method that takes two; see ``paired_rows``. Empty if rows have both texts.
      method: training method; None for the objective alone.
      folder, identity, description, show: see ``train``. Model, attention and scaling are part of the identity.
      note: called with one line if rows were skipped or cut.

    Returns:
      The trained adapter, float32.

    Raises:
      InputError: if rows or settings are invalid.
    """
    found = _encoded(base, rows, companions, settings, method)
    if skipped := describe_counts(found.counts):
        note(f"{description}: {skipped}")
    model = dataclasses.replace(base.model, remat=True) if settings.remat else base.model
    forward = adapter_forward(model, start, jnp.dtype(settings.compute_dtype))
    pad = base.tokenizer.pad_token_id
    task = Task(
        forward, start.factors, base.params, found.packed, found.desirable, 0 if pad is None else pad, method
    )
    whole = {"model": str(base.model.config), "scaling": str(start.scaling), **(identity or {})}
    if model.attention != "plain":
        whole["attention"] = model.attention
    state = train(key, task, settings, folder=folder, identity=whole, description=description, show=show)
    return dataclasses.replace(start, factors=state.trainable)


def _encoded(base: Base, rows, companions, settings, method: Method | None):
    options: dict[str, Any] = {"special_tokens": base.special_tokens, "vocabulary": len(base.params["embed"])}
    if method is None or method.texts == 1:
        return training_rows(rows, base.tokenizer, settings, **options)
    if companions:
        return paired_rows(rows, companions, base.tokenizer, settings, **options)
    pairs = dataclasses.replace(settings, objective="dpo")
    return training_rows(rows, base.tokenizer, pairs, **options)
