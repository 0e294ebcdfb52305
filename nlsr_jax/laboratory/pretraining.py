"""A base for the toy world, trained from nothing."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.data.batching import pack
from nlsr_jax.data.encoding import encode
from nlsr_jax.formats.hugging_face import save_params
from nlsr_jax.laboratory.config import Pretraining
from nlsr_jax.laboratory.stages import Base
from nlsr_jax.laboratory.toy import ToyWorld
from nlsr_jax.models import Llama, parse_model_config
from nlsr_jax.random_streams import stream
from nlsr_jax.training.initial import new_params
from nlsr_jax.training.loop import Task, train
from nlsr_jax.training.step import model_forward


def new_model(pretraining: Pretraining, tokenizer) -> Llama:
    """Return the model of an architecture, with the tokenizer's vocabulary and special tokens."""
    fields = dict(pretraining.architecture)
    fields["architectures"] = list(fields["architectures"])  # type: ignore[call-overload]
    fields["vocab_size"] = len(tokenizer)
    return Llama(parse_model_config(fields, "architecture"))


def pretrain(
    key: jax.Array,
    world: ToyWorld,
    pretraining: Pretraining,
    *,
    folder: str | os.PathLike | None = None,
    identity: Mapping[str, Any] | None = None,
    show: bool = False,
) -> Base:
    """Train a base on the responses of documents of the toy world.

    Prompts are drawn at random, so that learning to predict them too would spend most of a small model's training
    on what cannot be known, and what is forbidden would be learnt late.

    Args:
      key: PRNG key of the initial weights, the documents and their order.
      world: the world.
      pretraining: architecture, documents and training.
      folder, identity, show: see ``train``.
    """
    tokenizer = world.tokenizer
    documents = world.documents(stream(key, "documents"), pretraining.documents)
    encoded = encode(
        documents, tokenizer, max_length=pretraining.training.max_length, special_tokens=world.special_tokens
    )
    model = new_model(pretraining, tokenizer)
    if pretraining.training.remat:
        model = dataclasses.replace(model, remat=True)
    start = new_params(stream(key, "weights"), model)
    forward = model_forward(model, jnp.dtype(pretraining.training.compute_dtype))
    task = Task(forward, start, None, pack(encoded.rows), pad_id=tokenizer.pad_token_id)
    state = train(
        stream(key, "order"),
        task,
        pretraining.training,
        folder=folder,
        identity={"model": str(model.config), **(identity or {})},
        description="pretrain",
        show=show,
    )
    return Base(model, state.trainable, tokenizer, world.special_tokens)


def save_base(base: Base, folder: pathlib.Path) -> None:
    """Write a base with its tokenizer into a folder that exists, in Hugging Face format."""
    part = folder / "model"
    save_params(base.params, base.model.config, part)
    base.tokenizer.save_pretrained(part)
    for file in part.iterdir():
        file.rename(folder / file.name)
    part.rmdir()
