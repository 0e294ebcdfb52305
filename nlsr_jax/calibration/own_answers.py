"""Which safe answers a repair restores: those of the calibration rows, or the aligned model's own.

A gradient restores the answers that it is taken on. Fine-tuning has *taken* answers if it has made them less
likely. The answers of calibration rows are often not those of the aligned model: other refusals, or help that is
safe. Fine-tuning then has hardly made them less likely, and a repair by their gradient needs many entries. It has
made the aligned model's own greedy answers to the same prompts less likely. Their first tokens are read.
"""

from collections.abc import Callable

import numpy as np

from nlsr_jax.calibration.asking import Respondent
from nlsr_jax.calibration.wording import BEGINNING, Answer
from nlsr_jax.data.examples import Encoded

RISE = 0.05
"""Fine-tuning has taken the answers of the rows if the loss on them rises by this share or more."""
OWN_RISE = 0.1
"""Fine-tuning has taken the aligned model's own answers if the loss on them rises by so many nats a token or more.
Otherwise the two models answer alike, and there is nothing to restore."""
Rows = list[tuple[Encoded, ...]]


def choose_rows(rows: Rows, own: Callable[[], Rows], losses: Callable[[Rows], tuple[float, float]]) -> Rows:
    """Return the rows whose answers fine-tuning has taken.

    Args:
      rows: as they were read.
      own: returns them with the aligned model's own answers; called if fine-tuning has not taken those of the rows.
      losses: returns the mean losses of the fine-tuned and of the aligned model on answers, in nats a token.

    Returns:
      ``own()`` if fine-tuning has taken these answers alone, otherwise ``rows``.
    """
    after, before = losses(rows)
    if after >= (1 + RISE) * before:
        return rows
    answered = own()
    after, before = losses(answered)
    return answered if after - before >= OWN_RISE else rows


def with_own_answers(rows: Rows, aligned: Respondent) -> Rows:
    """Return calibration rows with the first tokens of the aligned model's answers in place of their own.

    Args:
      rows: encoded rows, of which the first text is read.
      aligned: the aligned model.

    Returns:
      One row for each, of one text. A row to which the model answers nothing is unchanged.
    """
    prompts = [row[0].prompt for row in rows]
    answers = aligned.answers(prompts)
    return [_answered(row[0], answer[:BEGINNING]) for row, answer in zip(rows, answers, strict=True)]


def _answered(row: Encoded, answer: Answer) -> tuple[Encoded]:
    if not len(answer):
        return (row,)
    return (Encoded(np.concatenate([row.ids[: row.start], np.asarray(answer, np.int32)]), row.start),)
