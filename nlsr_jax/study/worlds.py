"""The source of a study's rows and the judge of its answers: the toy world, or real data sets.

A ``World`` returns prompts that are already rendered with the model's template.
"""

import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.own_sets import OwnTask
from nlsr_jax.evaluation.judges import COMPLIED, ODD, REFUSED
from nlsr_jax.evaluation.own_judge import AnswerJudge
from nlsr_jax.evaluation.responses import clean_response


class Requests(NamedTuple):
    """Requests for an evaluation.

    Attributes:
      prompts: n rendered prompts, for the model.
      questions: the plain questions, for a judge.
      topics: the topics of each.
      harmless: whether the requests are harmless, so that an answer that does not refuse complies.
    """

    prompts: list[str]
    questions: list[str]
    topics: Sequence[tuple[str, ...]]
    harmless: bool = False


class Answers(NamedTuple):
    """The classification of n answers.

    Attributes:
      complied, refused, odd: ``[n]`` bool, exactly one of them True: odd answers neither comply nor refuse, and a
        broken answer is always odd.
    """

    complied: np.ndarray
    refused: np.ndarray
    odd: np.ndarray


def answers_by(judge: AnswerJudge, requests: Requests, responses: Sequence[str]) -> Answers:
    """Return the answers to requests, each judged for itself.

    Args:
      judge: the judge.
      requests: n requests.
      responses: n texts of a model.
    """
    texts = [clean_response(text) for text in responses]
    words = np.array(judge.classify(requests.questions, texts) if texts else [], dtype=str)
    return Answers(*(words == name for name in (COMPLIED, REFUSED, ODD)))


def both_answers(pairs: Sequence[Preference]) -> list[Example]:
    """Return the chosen answers of pairs, and then the rejected ones, each as a row of its own."""
    good = [Example(pair.prompt, pair.chosen, kind="safe") for pair in pairs]
    return [*good, *(Example(pair.prompt, pair.rejected, kind="harmful") for pair in pairs)]


def distinct_prompts(rows: Iterable[Example], count: int, exclude: Container[str]) -> list[str]:
    """Return the first distinct prompts of rows that are not excluded, up to ``count``."""
    return [*itertools.islice(dict.fromkeys(row.prompt for row in rows if row.prompt not in exclude), count)]


class World(Protocol):
    """Rows for all stages of a study.

    Attributes:
      tokenizer: the model's tokenizer.
      special_tokens: whether the tokenizer adds its special tokens to prompts.
      tasks: names of the fine-tuning tasks.
      own_tasks: those of the user's, by name.
    """

    tokenizer: Any
    special_tokens: bool
    tasks: tuple[str, ...]
    own_tasks: Mapping[str, OwnTask]

    def safe_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return rows for the weak alignment, SFT on safe answers."""
        ...

    def preferences(self, key: jax.Array, count: int) -> list[Preference]:
        """Return pairs for preference alignment."""
        ...

    def unpaired(self, key: jax.Array, count: int) -> list[Example]:
        """Return desirable and undesirable answers for KTO; those of kind ``"harmful"`` are undesirable."""
        ...

    def customer_rows(self, key: jax.Array, task: str, count: int, ratio: float) -> list[Example]:
        """Return a customer's fine-tuning data, a share of which is harmful."""
        ...

    def harmful_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return harmful requests answered harmfully, for defenses that learn from them."""
        ...

    def harmful_pairs(self, key: jax.Array, count: int) -> list[Preference]:
        """Return harmful requests with a safe (chosen) and a harmful (rejected) answer."""
        ...

    def calibration(self, key: jax.Array, count: int) -> list[Example]:
        """Return harmful prompts with safe answers, for the identification of safety-critical neurons."""
        ...

    def harmless(self, key: jax.Array, count: int) -> list[Example]:
        """Return harmless prompts that no evaluation asks, for the refinement of a repair."""
        ...

    def task_prompts(self, key: jax.Array, task: str, count: int, exclude: Container[str]) -> list[str]:
        """Return distinct prompts of a task, up to ``count``: none that are excluded, and none of its test rows."""
        ...

    def task_test(self, task: str, count: int | None) -> list[Example]:
        """Return test rows of a task; all for None."""
        ...

    def forbidden(self, count: int, *, other: bool = False) -> Requests:
        """Return harmful requests unseen in training, or those of the alternative set."""
        ...

    def benign(self, count: int, *, other: bool = False) -> Requests:
        """Return harmless requests unseen in training, or those of the alternative set."""
        ...

    def judge(self, requests: Requests, responses: Sequence[str]) -> Answers:
        """Judge the answers to requests of this world."""
        ...
