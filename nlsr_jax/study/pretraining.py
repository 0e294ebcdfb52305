"""Train bases from scratch, on documents of the toy world or on natural text."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.data.batching import pack
from nlsr_jax.data.encoding import describe_counts, encode
from nlsr_jax.data.examples import Example
from nlsr_jax.data.given import TRAIN, Given
from nlsr_jax.data.text_tokenizer import train_tokenizer
from nlsr_jax.errors import InputError
from nlsr_jax.formats.hugging_face import save_params
from nlsr_jax.models import Llama, load_model
from nlsr_jax.random_streams import stream
from nlsr_jax.study.config import Pretraining
from nlsr_jax.study.real import describe
from nlsr_jax.study.stages import Base
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.training.initial import new_params
from nlsr_jax.training.loop import Task, train
from nlsr_jax.training.step import model_forward
from nlsr_jax.types import Tokenizer


def new_model(pretraining: Pretraining, tokenizer: Tokenizer) -> Llama:
    """Return a model of the given architecture, with the tokenizer's vocabulary and special tokens."""
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

    Prompts are random, so learning to predict them as well would waste most of a small model's training on noise
    and delay learning what is forbidden.

    Args:
      key: PRNG key of the initial weights, the documents and their order.
      world: the world.
      pretraining: architecture, documents and training.
      folder, identity, show: see ``train``.
    """
    documents = world.documents(stream(key, "documents"), pretraining.documents)
    return _train(
        key,
        documents,
        world.tokenizer,
        pretraining,
        special_tokens=world.special_tokens,
        folder=folder,
        identity=identity,
        show=show,
    )


def text_rows(
    names: Sequence[str],
    given: Given,
    *,
    count: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Example]:
    """Return the harmless training rows of data sets in the Alpaca template.

    Args:
      names: data set names, see ``DATA_SETS``.
      given: places of data sets, and tasks of the user's; other sets come from the hub.
      count: number of rows of each; None for all.
      note: called with one line about each set that was read.

    Raises:
      InputError: if a set cannot be read, or has no harmless prompts with answers.
    """
    found: list[Example] = []
    for name in names:
        loaded = given.load(name, TRAIN, count=count)
        note(describe(name, loaded))
        rows = [row for row in loaded.rows if isinstance(row, Example) and row.response and row.kind != "harmful"]
        if not rows:
            raise InputError(f"data set {name} has no harmless prompts with answers; name a task set such as sst2")
        found += rows
    return found


def pretrain_on_texts(
    key: jax.Array,
    rows: Sequence[Example],
    pretraining: Pretraining,
    *,
    vocabulary: int,
    prompts: bool = True,
    folder: str | os.PathLike | None = None,
    identity: Mapping[str, Any] | None = None,
    show: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Base:
    """Train a tokenizer and a base on natural text.

    Args:
      key: PRNG key of the initial weights and the order of the rows.
      rows: rendered rows.
      pretraining: architecture and training; all rows are used as documents.
      vocabulary: maximum number of tokens of the tokenizer.
      prompts: learn to predict all tokens, not only those of the responses.
      folder, identity, show: see ``train``.
      note: called with one line if rows were skipped or cut.

    Raises:
      InputError: if rows or settings are invalid.
    """
    tokenizer = train_tokenizer([text for row in rows for text in (row.prompt, row.response)], vocabulary)
    written = tokenizer.backend_tokenizer.to_str()
    return _train(
        key,
        rows,
        tokenizer,
        pretraining,
        special_tokens=True,
        folder=folder,
        identity={"tokenizer": hashlib.sha256(written.encode()).hexdigest(), **(identity or {})},
        show=show,
        prompts=prompts,
        note=note,
    )


def _train(
    key,
    rows,
    tokenizer,
    pretraining: Pretraining,
    *,
    special_tokens,
    folder,
    identity,
    show,
    prompts=False,
    note=lambda _: None,
) -> Base:
    """Train a new model on the responses of rows, or on whole rows."""
    settings = pretraining.training
    model = new_model(pretraining, tokenizer)
    options: dict[str, Any] = {"special_tokens": special_tokens, "vocabulary": model.config.vocab_size}
    encoded = encode(rows, tokenizer, max_length=settings.max_length, **options)
    if skipped := describe_counts(encoded.counts):
        note(f"pretrain: {skipped}")
    texts = [tuple(text._replace(start=1) for text in row) for row in encoded.rows] if prompts else encoded.rows
    if settings.remat:
        model = dataclasses.replace(model, remat=True)
    task = Task(
        model_forward(model, jnp.dtype(settings.compute_dtype)),
        new_params(stream(key, "weights"), model),
        None,
        pack(texts),
        pad_id=tokenizer.pad_token_id,
    )
    identity = {"model": str(model.config), **(identity or {})}
    order = stream(key, "order")
    state = train(order, task, settings, folder=folder, identity=identity, description="pretrain", show=show)
    return Base(model, state.trainable, tokenizer, special_tokens)


def save_base(base: Base, folder: pathlib.Path) -> None:
    """Write a base with its tokenizer into an existing folder, in Hugging Face format.

    Raises:
      InputError: if the folder already contains one of the files.
    """
    part = folder / "model"
    save_params(base.params, base.model.config, part)
    base.tokenizer.save_pretrained(part)
    for file in part.iterdir():
        if (folder / file.name).exists():
            raise InputError(f"{folder / file.name}: exists; write into another folder")
        file.rename(folder / file.name)
    part.rmdir()


def load_base(folder: str | os.PathLike, world: ToyWorld) -> Base:
    """Load a base of the toy world."""
    model, params = load_model(folder)
    return Base(model, params, world.tokenizer, world.special_tokens)
