"""Which safe answers a repair brings back: those of the calibration rows, or the aligned model's own.

A gradient brings back the answers that it is taken on. The answers of calibration rows are often not those of the
aligned model: other refusals, or help that is safe. Then fine-tuning has not taken them, and a repair that goes
after them needs many entries. The aligned model's own greedy answers to the same prompts are what it has taken.
Refusal is decided in their first tokens (Qi et al. 2024, arXiv 2406.05946), which are therefore all that is read.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from nlsr_jax.calibration.wording import Answer
from nlsr_jax.data.examples import Encoded

BEGINNING = 4
"""Tokens of an answer that decide whether it refuses."""
RISE = 0.05
"""Least share by which fine-tuning raises the aligned model's loss on the rows' answers where it has taken them."""
APART = 0.1
"""The same of the aligned model's own answers, in nats a token. Where it is less, the aligned model answers as the
fine-tuned one does: it may not refuse, and nothing of its answers is to come back."""
Rows = Sequence[tuple[Encoded, ...]]


class Answers(Protocol):
    """A model that is asked; see ``nlsr_jax.evaluation.respondent``."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """Return the first tokens of the greedy answers."""
        ...


def choose_rows(rows: Rows, own: Callable[[], Rows], losses: Callable[[Rows], tuple[float, float]]) -> Rows:
    """Return the rows whose answers fine-tuning has taken.

    Args:
      rows: as they were read.
      own: returns them with the aligned model's own answers; called where fine-tuning has not taken the rows'.
      losses: returns the mean losses of the fine-tuned and of the aligned model on the answers of rows, in nats a
        token. Every second row is asked about.

    Returns:
      ``rows``, or ``own()`` where fine-tuning has taken these answers alone.
    """
    after, before = losses(rows[::2])
    if after >= (1 + RISE) * before:
        return rows
    answered = own()
    after, before = losses(answered[::2])
    return answered if after - before >= APART else rows


def with_own_answers(rows: Rows, aligned: Answers) -> list[tuple[Encoded, ...]]:
    """Return calibration rows with the first tokens of the aligned model's answers in place of their own.

    Args:
      rows: encoded rows, of which the first text is read.
      aligned: the aligned model.

    Returns:
      One row for each, of one text. A row to which the model answers nothing is unchanged.
    """
    prompts = [row[0].ids[: row[0].start].tolist() for row in rows]
    answers = aligned.answers(prompts)
    return [_answered(row[0], answer[:BEGINNING]) for row, answer in zip(rows, answers, strict=True)]


def _answered(row: Encoded, answer: Answer) -> tuple[Encoded]:
    if not len(answer):
        return (row,)
    return (Encoded(np.concatenate([row.ids[: row.start], np.asarray(answer, np.int32)]), row.start),)
