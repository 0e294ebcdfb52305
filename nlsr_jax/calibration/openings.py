"""How likely a model begins its answers as safe answers begin, and how far it reads requests otherwise.

Axis legend: B batch, T positions, K tokens of an opening, N beginnings, V vocabulary.
Source: both measures are this project's; that refusal is decided in an answer's first tokens is found by Qi et al.
2024 (arXiv 2406.05946).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.measures import measured
from nlsr_jax.calibration.summing import check_response, mean_of
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.lora import prepare
from nlsr_jax.models.token_log_probabilities import likely_among, token_divergences
from nlsr_jax.types import Params

TEMPERATURE = 0.5
"""Of the model's answers: what decides is how likely the likeliest beginnings are, as where answers are sampled."""


class Openings(NamedTuple):
    """What responses begin with: a tree of their first tokens.

    Attributes:
      depth: tokens of an opening, K.
      beginnings: every beginning of fewer tokens that a response has, in the order in which they came; the first is
        the empty one.
      following: ``[N, V]`` bool: the tokens that a response has behind each of them.
    """

    depth: int
    beginnings: dict[tuple[int, ...], int]
    following: np.ndarray


def find_openings(model: Llama, batches: Iterable, *, depth: int) -> Openings:
    """Gather what responses begin with.

    Args:
      model: whose tokens they are.
      batches: of ``(tokens [B, T], response_mask [B, T])``, padded on the right.
      depth: how many tokens; of a shorter response, all.

    Returns:
      An ``Openings``.

    Raises:
      InputError: a depth below 1, or a batch that does not fit.
    """
    if depth < 1:
        raise InputError(f"depth is {depth}; expected at least 1")
    beginnings: dict[tuple[int, ...], int] = {(): 0}
    pairs = []
    for tokens, mask in batches:
        check_response(model, tokens, mask)
        for _, first in _first_tokens(tokens, mask, depth):
            for k, token in enumerate(first):
                pairs.append((beginnings.setdefault(first[:k], len(beginnings)), token))
    following = np.zeros((len(beginnings), model.config.vocab_size), bool)
    if pairs:
        following[tuple(np.array(pairs).T)] = True
    return Openings(depth, beginnings, following)


def _first_tokens(tokens, mask, depth: int):
    """Yield for every row the places of its response's first tokens, and these."""
    for row, keep in zip(np.asarray(tokens), np.asarray(mask, bool), strict=True):
        places = np.flatnonzero(keep[1:])[:depth] + 1
        yield places, tuple(row[places].tolist())


def collect_openings(
    model: Llama, params: Params, adapter: Adapter | None, batches: Iterable, openings: Openings
) -> jax.Array:
    """Average over examples how likely the model begins its answer as responses begin.

    Of a row, that is the product over its response's first tokens of the probability, at a temperature of 0.5 and
    behind the row's own tokens so far, of all tokens that some response has behind the same beginning: the model
    may choose among safe answers.

    Args:
      model, params, adapter: from ``load_model``; the adapter to run with, None for the base alone.
      batches: of ``(tokens [B, T], response_mask [B, T])``, padded on the right.
      openings: from ``find_openings``; the openings of these rows among them.

    Returns:
      float32 scalar: the mean over examples. Rows without a response do not count.

    Raises:
      InputError: an adapter or a batch that does not fit, or an opening that ``openings`` do not have.
    """
    lora = prepare(model, adapter)

    def placed():
        for tokens, mask in batches:
            check_response(model, tokens, mask)
            yield (np.asarray(tokens), *_place(tokens, mask, openings))

    return mean_of(measured(_sum_openings, model, params, [lora], openings.following, placed()), jnp.float32(0))


def _place(tokens, mask, openings: Openings) -> tuple[np.ndarray, np.ndarray]:
    """For every row, the places before its response's first tokens, and what they stand behind; −1 for nothing."""
    places = np.zeros((len(tokens), openings.depth), np.int32)
    behind = np.full((len(tokens), openings.depth), -1, np.int32)
    for i, (found, first) in enumerate(_first_tokens(tokens, mask, openings.depth)):
        places[i, : found.size] = found - 1
        for k, token in enumerate(first):
            behind[i, k] = openings.beginnings.get(first[:k], -1)
            if behind[i, k] < 0 or not openings.following[behind[i, k], token]:
                raise InputError(f"a response begins with the tokens {list(first)}, which is none of the openings")
    return places, behind


def _sum_openings(model, params, states, following, batch):
    (hidden,), (_, places, behind) = states, batch
    values = likely_among(model, params, hidden, places, following[behind], temperature=TEMPERATURE)
    values = jnp.exp(jnp.sum(jnp.where(behind >= 0, values, 0.0), axis=1))
    counts = jnp.any(behind >= 0, axis=1)
    return jnp.sum(jnp.where(counts, values, 0.0)), jnp.sum(counts, dtype=jnp.float32)


def collect_divergence(
    model: Llama, params: Params, before: Adapter | None, after: Adapter | None, batches: Sequence
) -> jax.Array:
    """Average over examples how far an adapter changes what the model expects of a request while it reads it.

    Args:
      model, params: from ``load_model``.
      before, after: the adapters that are compared; None for the base alone.
      batches: of ``(tokens [B, T], response_mask [B, T])``, padded on the right.

    Returns:
      float32 scalar in nats a token: the mean over examples of the mean over the tokens before the response of the
      Kullback-Leibler divergence of the next token's distribution after from that before. Rows without a response,
      or with fewer than two tokens before it, do not count.

    Raises:
      InputError: an adapter or a batch that does not fit.
    """
    loras = prepare(model, before), prepare(model, after)

    def checked():
        for tokens, mask in batches:
            check_response(model, tokens, mask)
            yield np.asarray(tokens), np.asarray(mask, bool)

    return mean_of(measured(_sum_divergences, model, params, loras, None, checked()), jnp.float32(0))


def _sum_divergences(model, params, states, given, batch):
    (before, after), (_, mask) = states, batch
    # Behind the token at t stands t + 1, which has to be of the request too.
    asked = (jnp.cumsum(mask[:, 1:], axis=1) == 0) & jnp.any(mask[:, 1:], axis=1, keepdims=True)
    values = token_divergences(model, params, before, after)[:, :-1]
    counts = jnp.sum(asked, axis=1)
    means = jnp.sum(jnp.where(asked, values, 0.0), axis=1) / jnp.maximum(counts, 1)
    return jnp.sum(means), jnp.sum(counts > 0, dtype=jnp.float32)
