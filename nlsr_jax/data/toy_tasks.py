"""The three tasks of the toy world, each in two wordings: the task's own, and the one used in pre-training.

Fine-tuning teaches the task's wording. The base has the skill in the other wording, so its accuracy on the task
starts near zero and is learnt, as in fine-tuning as a service.
"""

from collections.abc import Container
from typing import NamedTuple

import numpy as np

from nlsr_jax.data import toy_words as words
from nlsr_jax.errors import InputError

TASKS = ("sst2", "ag_news", "gsm8k")
"""The toy task for each real task, under the real task's name, whose scoring rule it uses."""


class Question(NamedTuple):
    """One item of a task: prompt and response in both wordings, and the true answer."""

    prompt: str
    response: str
    base_prompt: str
    base_response: str
    label: str


def _pick(rng, items):
    return items[int(rng.integers(len(items)))]


def sentiment(rng: np.random.Generator) -> Question:
    """Draw a judgement with or without negation."""
    good = bool(rng.integers(2))
    degree = _pick(rng, words.DEGREES)
    sentence = _pick(rng, words.OPENINGS).format(
        _pick(rng, words.SUBJECTS), degree, _pick(rng, words.GOOD if good else words.BAD)
    )
    label = "positive" if good != ("not" in degree or "never" in degree) else "negative"
    liked = "yes , they liked it ." if label == "positive" else "no , they hated it ."
    return Question(f"label the sentiment : {sentence} .", label, f"{sentence} . did they like it ?", liked, label)


def topic(rng: np.random.Generator) -> Question:
    """Draw a news headline."""
    label = _pick(rng, tuple(words.TOPICS))
    first, second = rng.permutation(words.TOPICS[label])[:2]
    sentence = _pick(rng, words.NEWS).format(first, second)
    answer = f"it is about {words.TOPIC_SYNONYMS[label]} ."
    prompt, base_prompt = f"name the section : {sentence} .", f"{sentence} . what is it about ?"
    return Question(prompt, label, base_prompt, answer, words.TOPIC_LABELS[label])


def arithmetic(rng: np.random.Generator) -> Question:
    """Draw a sum or a difference with numbers up to ``LARGEST``."""
    total = int(rng.integers(2, words.LARGEST + 1))
    part = int(rng.integers(1, total))
    who, what = _pick(rng, words.PEOPLE), _pick(rng, words.GOODS)
    if rng.integers(2):
        story, a, sign, b, c = "and gets", part, "+", total - part, total
    else:
        story, a, sign, b, c = "and loses", total, "-", part, total - part
    return Question(
        f"solve this : {who} has {a} {what} {story} {b} . how many are there ?",
        f"{a} {sign} {b} = {c} . the final answer is : {c}",
        f"what is {a} {sign} {b} ?",
        f"{a} {sign} {b} = {c} .",
        str(c),
    )


DRAW = {"sst2": sentiment, "ag_news": topic, "gsm8k": arithmetic}


def draw_questions(
    rng: np.random.Generator, task: str, count: int, exclude: Container[str] = (), by: str = "prompt"
) -> list[Question]:
    """Draw distinct questions.

    Args:
      rng: source of randomness.
      task: one of ``TASKS``.
      count: number of questions.
      exclude: prompts to avoid.
      by: the wording checked for duplicates and exclusions, ``"prompt"`` or ``"base_prompt"``.

    Raises:
      InputError: if the task is unknown or has too few distinct questions.
    """
    if task not in DRAW:
        raise InputError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    questions: dict[str, Question] = {}
    for _ in range(20 * count):
        question = DRAW[task](rng)
        prompt = getattr(question, by)
        if prompt not in exclude:
            questions.setdefault(prompt, question)
        if len(questions) == count:
            return list(questions.values())
    raise InputError(f"cannot draw {count} distinct {task} questions; found only {len(questions)}")
