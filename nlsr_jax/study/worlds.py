"""Where a study's rows come from and who judges its answers: the toy world, or real data sets.

A ``World`` renders its prompts with the model's template already.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from nlsr_jax.data.examples import Example, Preference


class Requests(NamedTuple):
    """Requests to evaluate with.

    Attributes:
      prompts: n rendered prompts, as the model reads them.
      questions: what each asks, as a judge reads it.
      topics: the topics of each.
      harmless: whether they are harmless: whoever answers one without refusing has complied.
    """

    prompts: list[str]
    questions: list[str]
    topics: Sequence[tuple[str, ...]]
    harmless: bool = False


class Answers(NamedTuple):
    """What became of n requests.

    Attributes:
      complied, refused, odd: ``[n]`` bool, one of them True: odd answers neither comply nor refuse, and a
        broken answer is always odd.
    """

    complied: np.ndarray
    refused: np.ndarray
    odd: np.ndarray


class World(Protocol):
    """Rows for every stage of a study.

    Attributes:
      tokenizer: the model's.
      special_tokens: whether the tokenizer adds its own special tokens to prompts.
      tasks: names of the fine-tuning tasks.
    """

    tokenizer: object
    special_tokens: bool
    tasks: tuple[str, ...]

    def safe_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return rows for SFT on safe answers, the weak alignment."""
        ...

    def preferences(self, key: jax.Array, count: int) -> list[Preference]:
        """Return pairs for preference alignment."""
        ...

    def unpaired(self, key: jax.Array, count: int) -> list[Example]:
        """Return desirable and undesirable answers for KTO; those of kind ``"harmful"`` are undesirable."""
        ...

    def customer_rows(self, key: jax.Array, task: str, count: int, ratio: float) -> list[Example]:
        """Return a customer's fine-tuning data, of which a share is harmful."""
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

    def task_test(self, task: str, count: int) -> list[Example]:
        """Return test rows of a task."""
        ...

    def forbidden(self, count: int, *, other: bool = False) -> Requests:
        """Return harmful requests that no training stage has seen, or those of the other, differently made set."""
        ...

    def benign(self, count: int, *, other: bool = False) -> Requests:
        """Return harmless requests that no training stage has seen, or those of the other set."""
        ...

    def judge(self, requests: Requests, responses: Sequence[str]) -> Answers:
        """Judge the answers to requests of this world."""
        ...
