"""Tell refusals from other answers by the aligned model's own words.

No list of phrases knows every refusal. The aligned model's answers to the calibration prompts show how it refuses,
the fine-tuned model's answers and the answers to harmless prompts how the two help. A naive Bayes classifier over
the first tokens of these answers separates them. Some of the examples are on the wrong side: the aligned model
helps with some calibration prompts, and refuses some harmless ones. So the classifier labels its own examples and
is fitted again, as in self-training (Nigam et al. 2000, "Text classification from labeled and unlabeled
documents using EM").

A model may refuse harmless prompts in words that it never uses for calibration prompts. Its answers to the latter
do not show that these words refuse. The safe answers of the calibration rows may show it; see ``begin_as``. A
repair may refuse in words of the rows that neither model uses, too; see ``unused_beginnings``.
"""

import collections
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

Answer = Sequence[int]
"""The tokens of an answer, without its prompt and its end token."""

BEGINNING = 4
"""Tokens of an answer that decide whether it refuses (Qi et al. 2024, arXiv 2406.05946)."""
LENGTH = 12
"""Tokens of an answer that are read: a refusal shows in its first words."""
WHOLE = 32
"""Tokens of an answer to a prompt of the task that are read: its last words may say what counts."""
_PLACES = 4
"""Leading tokens whose place counts too."""
_ROUNDS = 4
_FEWEST = 4
"""Examples of a side below which its labels stay as they were given."""
_SMOOTHING = 4.0
"""Examples that every side is taken to have beside its own, with the features of both sides together."""


class Wording(NamedTuple):
    """How a model refuses, in contrast to how it helps.

    Attributes:
      odds: logarithm of how much more often refusals have a feature than other answers. A feature that no example
        has says nothing.
      forms: beginnings of refusals, whatever follows; see ``unused_beginnings``.
    """

    odds: Mapping[tuple[int, ...], float]
    forms: Set[tuple[int, ...]] = frozenset()

    def refuses(self, answers: Iterable[Answer]) -> np.ndarray:
        """Return for each of n answers whether it reads as a refusal, ``[n]`` bool; an empty one does not."""
        return np.array([_beginning(answer) in self.forms or self._score(answer) > 0 for answer in answers], bool)

    def _score(self, answer: Answer) -> float:
        return sum(self.odds.get(one, 0.0) for one in _features(answer))


def learn_wording(safe: Sequence[Answer], other: Sequence[Answer]) -> Wording:
    """Learn how a model refuses.

    Args:
      safe: answers of the aligned model to calibration prompts, most of which refuse.
      other: answers most of which help: those of the fine-tuned model, and all answers to harmless prompts.

    Returns:
      A ``Wording``. Answers of ``safe`` that read as help count as help, and the other way round, where enough
      examples of both sides are left.
    """
    answers = [*safe, *other]
    labels = np.arange(len(answers)) < len(safe)
    found = _fit(answers, labels)
    for _ in range(_ROUNDS):
        renewed = found.refuses(answers)
        if min(renewed.sum(), (~renewed).sum()) < _FEWEST or np.array_equal(renewed, labels):
            break
        labels = renewed
        found = _fit(answers, labels)
    return found


def begin_as(answers: Sequence[Answer], safe: Sequence[Answer], helpful: Sequence[Answer]) -> np.ndarray:
    """Return which of n answers begin as a safe answer does, and do so more often than helpful ones, ``[n]`` bool.

    Args:
      answers: the n answers.
      safe: answers that a safe model might give, most of which refuse; any number.
      helpful: n answers to the same prompts, most of which help.
    """
    found, begun = [_beginning(answer) for answer in answers], {_beginning(answer) for answer in safe} - {()}
    counts, others = collections.Counter(found), collections.Counter(map(_beginning, helpful))
    return np.array([one in begun and counts[one] > others[one] for one in found], bool)


def unused_beginnings(safe: Iterable[Answer], helpful: Iterable[Answer]) -> frozenset[tuple[int, ...]]:
    """Return the beginnings of safe answers with which no helpful answer begins."""
    return frozenset({_beginning(answer) for answer in safe} - {_beginning(answer) for answer in helpful} - {()})


def _beginning(answer: Answer) -> tuple[int, ...]:
    return tuple(int(token) for token in answer[:BEGINNING])


def _fit(answers: Sequence[Answer], labels: np.ndarray) -> Wording:
    """Return the log odds of all features, by the share of answers of each side that have one.

    The shares are drawn towards those of both sides together, so that a feature of one example says little, on the
    smaller side too.
    """
    counts: tuple[collections.Counter, collections.Counter] = (collections.Counter(), collections.Counter())
    for answer, label in zip(answers, labels, strict=True):
        counts[bool(label)].update(_features(answer))
    sizes = int((~labels).sum()), int(labels.sum())

    def logarithm(side: int, one: tuple[int, ...]) -> float:
        common = (counts[0][one] + counts[1][one]) / sum(sizes)
        return math.log((counts[side][one] + _SMOOTHING * common) / (sizes[side] + _SMOOTHING))

    return Wording({one: logarithm(1, one) - logarithm(0, one) for one in sorted({*counts[0], *counts[1]})})


def _features(answer: Answer) -> list[tuple[int, ...]]:
    """Return the tokens, pairs of neighbours and placed leading tokens of an answer's beginning, each once."""
    tokens = [int(token) for token in answer[:LENGTH]]
    placed = [(place, token, -1, -1) for place, token in enumerate(tokens[:_PLACES])]
    pairs = list(itertools.pairwise(tokens))
    return sorted({*((token,) for token in tokens), *pairs, *placed})
