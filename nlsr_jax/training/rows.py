"""Encode examples and preferences as packed rows in the shape that an objective takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.data.batching import Packed, pack
from nlsr_jax.data.encoding import encode
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.errors import InputError
from nlsr_jax.training.settings import TrainingSettings
from nlsr_jax.types import Tokenizer

UNDESIRABLE = "harmful"


class TrainingRows(NamedTuple):
    """Rows ready for training.

    Attributes:
      packed: their tokens.
      desirable: ``[n]`` bool for KTO, else None.
      counts: the counts of ``encode``.
    """

    packed: Packed
    desirable: np.ndarray | None
    counts: dict[str, int]


def training_rows(
    rows: Sequence[Example] | Sequence[Preference],
    tokenizer: Tokenizer,
    settings: TrainingSettings,
    *,
    special_tokens: bool,
    vocabulary: int | None = None,
) -> TrainingRows:
    """Encode rows for an objective.

    Args:
      rows: examples for SFT and KTO (for KTO, those of kind ``"harmful"`` are undesirable), preferences for DPO,
        ORPO and SimPO.
      tokenizer: a transformers tokenizer.
      settings: objective and longest text.
      special_tokens, vocabulary: see ``encode``.

    Returns:
      ``TrainingRows``. For KTO, the second text of a row is its prompt with the next row's response: the
      mismatched pairs from which the distance to the reference policy is estimated. They are the same in every
      epoch, so their reference log-probabilities are computed only once.

    Raises:
      InputError: if rows are of the wrong kind, or none fits.
    """
    wanted = Example if settings.objective in ("sft", "kto") else Preference
    wrong = [row for row in rows if not isinstance(row, wanted)]
    if wrong or not rows:
        found = type(wrong[0]).__name__ if wrong else "none"
        raise InputError(f"objective {settings.objective} takes {wanted.__name__} rows, found {found}")
    encoded = encode(
        mismatched(rows) if settings.objective == "kto" else rows,  # type: ignore[arg-type]
        tokenizer,
        max_length=settings.max_length,
        special_tokens=special_tokens,
        vocabulary=vocabulary,
    )
    desirable = None
    if settings.objective == "kto":
        desirable = np.array([rows[i].kind != UNDESIRABLE for i in encoded.kept])
    return TrainingRows(pack(encoded.rows), desirable, encoded.counts)


def paired_rows(
    rows: Sequence[Example],
    companions: Sequence[Example],
    tokenizer: Tokenizer,
    settings: TrainingSettings,
    *,
    special_tokens: bool,
    vocabulary: int | None = None,
) -> TrainingRows:
    """Encode rows with two texts of different prompts: a row's own, and a companion's.

    Args:
      rows: the first texts.
      companions: the second texts, in order, repeated if there are fewer.
      tokenizer, settings, special_tokens, vocabulary: as for ``training_rows``.

    Returns:
      ``TrainingRows``; the counts include both.

    Raises:
      InputError: if rows are of the wrong kind, or none fits.
    """
    if not all(isinstance(row, Example) for row in (*rows, *companions)):
        raise InputError("rows and companions must be Example rows")
    options: dict[str, Any] = {
        "max_length": settings.max_length,
        "special_tokens": special_tokens,
        "vocabulary": vocabulary,
    }
    both = [encode(texts, tokenizer, **options) for texts in (rows, companions)]
    first, second = (found.rows for found in both)
    joined = [(*texts, *second[i % len(second)]) for i, texts in enumerate(first)]
    counts = {name: both[0].counts[name] + both[1].counts[name] for name in both[0].counts}
    return TrainingRows(pack(joined), None, counts)


def mismatched(rows: Sequence[Example]) -> list[Preference]:
    """Pair each prompt with its own response and with the next row's.

    Raises:
      InputError: if there are fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError("KTO needs at least two rows: each is paired with another row's response")
    following = [*rows[1:], rows[0]]
    return [Preference(a.prompt, a.response, b.response) for a, b in zip(rows, following, strict=True)]
