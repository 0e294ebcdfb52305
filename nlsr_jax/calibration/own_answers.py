"""Calibration rows whose answers are the aligned model's own.

A gradient brings back the answers that it is taken on. The answers of calibration rows are often not those of the
aligned model: other refusals, or help that is safe. The aligned model's own greedy answers to the same prompts are
what a repair is to bring back, as far as fine-tuning has taken them. Refusal is decided in their first tokens (Qi
et al. 2024, arXiv 2406.05946), which are therefore all that is read.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from nlsr_jax.calibration.wording import Answer
from nlsr_jax.data.examples import Encoded

BEGINNING = 4
"""Tokens of an answer that decide whether it refuses."""
APART = 0.1
"""Nats a token by which fine-tuning must have made the aligned model's answers less likely. Where it has not, the
aligned model answers as the fine-tuned one does: it may not refuse, and nothing of its answers is to come back."""


class Answers(Protocol):
    """A model that is asked; see ``nlsr_jax.evaluation.respondent``."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> Sequence[Answer]:
        """Return the first tokens of the greedy answers."""
        ...


def with_own_answers(rows: Sequence[tuple[Encoded, ...]], aligned: Answers) -> list[tuple[Encoded, ...]]:
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
