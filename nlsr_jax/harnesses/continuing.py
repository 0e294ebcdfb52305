"""Continuations of token sequences up to stop strings, and likelihoods of given continuations."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from nlsr_jax.data.encoding import check_vocabulary
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import bucketed, next_tokens
from nlsr_jax.evaluation.responses import end_tokens
from nlsr_jax.harnesses.served import Served
from nlsr_jax.harnesses.stopping import TokenTexts, cut
from nlsr_jax.models.generate import generate
from nlsr_jax.models.likelihood import score_continuations


class Sampling(NamedTuple):
    """How answers are made.

    Attributes:
      max_new_tokens: longest answer.
      stops: strings that end an answer; it does not include them.
      temperature: 0 for the most likely token, else the logits are divided by it and sampled.
    """

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0


class Answer(NamedTuple):
    """An answer: its text, how many tokens were made, and whether it ended by itself or at a stop string."""

    text: str
    tokens: int
    ended: bool


def answer_tokens(
    served: Served,
    texts: TokenTexts,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int,
    key: jax.Array | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Continue prompts in batches of similar length.

    A batch ends when each of its rows has an end token or a token that contains a stop string. A stop string
    that several tokens spell together cuts the answer, but not the time that it takes.

    Args:
      served: the model.
      texts: of its tokenizer.
      prompts: token ids; of one that leaves no room for the answer, the beginning is dropped.
      sampling: how answers are made.
      batch_size: prompts per batch.
      key: PRNG key, needed for sampling; each batch draws with its own.

    Yields:
      The index of a prompt, and its answer.

    Raises:
      InputError: settings that cannot be used, or tokens outside the embedding.
    """
    room = served.max_length - sampling.max_new_tokens
    if room < 1:
        raise InputError(
            f"an answer of {sampling.max_new_tokens} tokens leaves no room for a prompt: the model reads "
            f"{served.max_length}; ask for fewer tokens, or raise max_length"
        )
    rows = [list(ids)[-room:] for ids in prompts]
    for number, ids in enumerate(rows):
        check_vocabulary(ids, served.tokenizer, served.model.config.vocab_size, f"prompt {number}")
    ends, stops = end_tokens(served.model, served.tokenizer), texts.containing(sampling.stops)
    batches = bucketed(rows, batch_size=batch_size, max_length=served.max_length, side="left")
    for number, batch in enumerate(batches):
        made = generate(
            served.model,
            served.params,
            batch.tokens,
            adapter=served.adapter,
            attention_mask=batch.mask,
            max_new_tokens=sampling.max_new_tokens,
            eos_id=tuple(sorted({*ends, *stops})),
            temperature=sampling.temperature,
            key=None if key is None else jax.random.fold_in(key, number),
        )
        for row, new in zip(batch.rows, np.asarray(made).tolist(), strict=False):
            yield int(row), _answer(served, new, sampling.stops, {*ends}, {*stops})


def _answer(served: Served, new: list[int], stops: Sequence[str], ends: set[int], last: set[int]) -> Answer:
    """Return the answer that tokens make: ``ends`` do not belong to it, the text of ``last`` may in part."""
    count = next((i for i, token in enumerate(new) if token in ends or token in last), None)
    kept = new if count is None else new[: count + (new[count] not in ends)]
    whole = served.tokenizer.decode(kept, skip_special_tokens=True)
    text = cut(whole, stops)
    return Answer(text, len(new) if count is None else count + 1, count is not None or text != whole)


class Scored(NamedTuple):
    """The log-probability of a continuation, and whether greedy decoding makes it."""

    log_likelihood: float
    greedy: bool


def score_tokens(
    served: Served, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int
) -> Iterator[tuple[int, Scored]]:
    """Score continuations after their contexts, in batches of similar length.

    Args:
      served: the model.
      pairs: token ids of each context and its continuation, at least one each; of a pair that is too long, the
        beginning of the context is dropped.
      batch_size: pairs per batch.

    Yields:
      The index of a pair, and its score.

    Raises:
      InputError: a part without tokens, a continuation that is too long, or tokens outside the embedding.
    """
    rows = [_whole(served, number, *pair) for number, pair in enumerate(pairs)]
    starts = [len(ids) - len(continuation) for ids, (_, continuation) in zip(rows, pairs, strict=True)]
    inputs = [ids[:-1] for ids in rows]
    for batch in bucketed(inputs, batch_size=batch_size, max_length=served.max_length):
        targets, keep = next_tokens(batch, rows, starts)
        found = score_continuations(
            served.model,
            served.params,
            batch.tokens,
            targets,
            keep,
            adapter=served.adapter,
            attention_mask=batch.mask,
        )
        values = zip(np.asarray(found.log_likelihood).tolist(), np.asarray(found.greedy).tolist(), strict=True)
        for row, value in zip(batch.rows, values, strict=False):
            yield int(row), Scored(*value)


def _whole(served: Served, number: int, context: Sequence[int], continuation: Sequence[int]) -> list[int]:
    if not context or not continuation:
        raise InputError(f"request {number}: no tokens in the context or in the continuation; expected one each")
    if len(continuation) > served.max_length:
        raise InputError(
            f"request {number}: a continuation has {len(continuation)} tokens; the model reads {served.max_length}"
        )
    ids = [*context, *continuation][-(served.max_length + 1) :]
    check_vocabulary(ids, served.tokenizer, served.model.config.vocab_size, f"request {number}")
    return ids
