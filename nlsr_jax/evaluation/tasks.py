"""Scores of the fine-tuning tasks, read from free text as in the paper's evaluation.

Source: NLSR's published evaluation, with two deviations. There, an answer without a number equals a label
without one (both infinite); here a label must have a number, and a response without one is wrong. Second, the
number after ``The final answer is:`` is found with or without a space between them.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nlsr_jax.data.own_sets import EXACT, NUMBER, OwnTask
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.responses import INSTRUCTION, RESPONSE
from nlsr_jax.evaluation.texts import plain_text

_SENTIMENT = {"positive": ("positive", "Positive"), "negative": ("negative", "Negative")}
_TOPICS = {
    "World": ("World", "world"),
    "Sports": ("Sports", "sports"),
    "Business": ("Business", "business"),
    "Sci/Tech": ("Sci/Tech", "sci"),
}
ACCEPTED = {"sst2": _SENTIMENT, "ag_news": _TOPICS}
TASKS = (*ACCEPTED, "gsm8k")
ANSWER_PHRASE = "The final answer is:"
_NUMBER = re.compile(r"-?\d+\.?\d*")
_PLAIN = str.maketrans("−－﹣，．：", "---,.:")
"""Minus signs and full-width characters. Dashes are kept: 3–5 does not contain −5."""


class TaskScore(NamedTuple):
    """Fine-tuning accuracy.

    Attributes:
      accuracy: FA, the percentage of correct responses.
      correct: ``[n]`` bool.
    """

    accuracy: float
    correct: np.ndarray


def score(task: str | OwnTask, responses: Sequence[str], labels: Sequence[str]) -> TaskScore:
    """Score the responses to a task.

    Args:
      task: ``"sst2"``, ``"ag_news"`` or ``"gsm8k"``, or a task of the user's.
      responses: the model's texts; anything after a new ``### Response:`` or ``### Instruction:`` is ignored.
      labels: the true answers: a class name, or for GSM8K a text that ends with the number.

    Returns:
      A ``TaskScore``. A class counts as found if its name occurs anywhere in the response. A response with several
      names is therefore correct for each of them, as in the published figures. Typographic variants of characters
      are normalised; see ``plain_text``. For tasks of the user's see ``nlsr_jax.data.own_sets.OwnTask.scoring``.

    Raises:
      InputError: if the task is unknown, a label does not belong to it, or there is not one label per response.
    """
    if not isinstance(task, OwnTask) and task not in TASKS:
        raise InputError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    if isinstance(responses, str) or len(responses) != len(labels) or not len(labels):
        raise InputError(f"{len(responses)} responses and {len(labels)} labels; expected lists, one label each")
    if isinstance(task, OwnTask):
        correct = np.asarray(_right_own(task, [_cut(text) for text in responses], labels), bool)
        return TaskScore(100 * float(correct.mean()), correct)
    right = _right_number if task == "gsm8k" else _right_class
    rows = enumerate(zip(responses, labels, strict=True))
    correct = np.asarray([right(task, _cut(text), label, row) for row, (text, label) in rows])
    return TaskScore(100 * float(correct.mean()), correct)


def _right_own(task: OwnTask, responses: Sequence[str], labels: Sequence[str]) -> list[bool]:
    """Return which responses are right, as the task says."""
    pairs = list(zip(responses, labels, strict=True))
    if task.scored_by == NUMBER:
        return [_right_number(task.name, text, label, row) for row, (text, label) in enumerate(pairs)]
    if task.scored_by == EXACT:
        return [_same(text) == _same(label) for text, label in pairs]
    words = tuple(task.words().values()) or tuple(dict.fromkeys(labels))
    return [first_label(text, words) == label for text, label in pairs]


def _same(text: str) -> str:
    return plain_text(text).strip().rstrip(".").casefold()


def first_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a text names first, as whole words; None if it names none.

    >>> first_label("It is not legal: illegal.", ["legal", "illegal"]), first_label("no idea", ["legal"])
    ('legal', None)
    """
    longest = sorted(labels, key=len, reverse=True)
    names = "|".join(re.escape(_same(label)) for label in longest)
    found = re.search(rf"(?<!\w)(?:{names})(?!\w)", plain_text(text).casefold())
    return next((label for label in longest if found and _same(label) == found[0]), None)


def _cut(text: str) -> str:
    return text.split(RESPONSE)[0].split(INSTRUCTION)[0]


def _right_class(task, text, label, row) -> bool:
    names = ACCEPTED[task].get(label.strip())
    if names is None:
        raise InputError(
            f"row {row}: label {label!r} is not a class of {task}; expected {', '.join(ACCEPTED[task])}"
        )
    text = plain_text(text)
    return any(name in text for name in names)


def _right_number(task, text, label, row) -> bool:
    expected, found = final_number(label), final_number(text)
    if expected is None:
        raise InputError(f"row {row}: label {label!r} of {task} has no readable number")
    return found == expected


def final_number(text: str) -> float | None:
    """Return the number that a text gives as its answer.

    This is the first number after ``The final answer is:``, else the last in the text. Commas are removed first.

    >>> final_number("3 pots and 4 pots. The final answer is: 1,007 pots, not 8")
    1007.0
    >>> final_number("3 pots and then 4.5")
    4.5
    >>> final_number("no pots") is None
    True
    """
    text = text.translate(_PLAIN).replace(",", "")
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    parts = text.split(ANSWER_PHRASE)
    after = _NUMBER.findall(parts[1]) if len(parts) > 1 else []
    value = float(after[0] if after else numbers[-1])
    return value if math.isfinite(value) else None
