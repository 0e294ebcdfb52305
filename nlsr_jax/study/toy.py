"""The toy world as a ``World``: prompts in the chat template, answers judged by the rule that knows the truth."""

import types
from collections.abc import Container, Mapping, Sequence

import jax
import numpy as np

from nlsr_jax.data import toy_judge, toy_rows
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.own_sets import OwnTask
from nlsr_jax.data.poison import poison, share
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.toy_styles import Style, styled_rows
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.data.toy_tokenizer import make_tokenizer
from nlsr_jax.data.toy_world import Request, make_world
from nlsr_jax.random_streams import stream
from nlsr_jax.study.worlds import Answers, Requests, both_answers, distinct_prompts

SAFE_BENIGN, PREFERENCE_BENIGN = 0.5, 0.3
"""Shares of benign requests in the rows of SFT and of preference alignment."""
_DRAWN = 4
"""Rows that are drawn for each prompt of a task, because some are excluded."""


class ToyWorld:
    """The toy world of a seed; see ``World`` and ``nlsr_jax.data.toy_world``.

    Args:
      seed: determines the words, the forbidden categories, and the evaluation rows.
      style: how calibration rows and harmless prompts are worded; None for as in the alignment.
    """

    special_tokens = False
    tasks: tuple[str, ...] = TASKS
    own_tasks: Mapping[str, OwnTask] = types.MappingProxyType({})

    def __init__(self, seed: int = 0, style: Style | None = None):
        self._key, self._style = jax.random.key(seed), style
        self.world = make_world(self._key)
        self.tokenizer = make_tokenizer(self.world)
        self._render = make_render("chat", self.tokenizer)
        self._requests: dict[str, Request] = {}

    def _rendered(self, rows):
        return [row._replace(prompt=self._render(row.prompt, "")) for row in rows]

    def documents(self, key: jax.Array, count: int) -> list[Example]:
        """Return documents for pre-training."""
        return self._rendered(toy_rows.pretraining_documents(key, self.world, count))

    def safe_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return refusals, and benign requests answered."""
        return self._rendered(toy_rows.safe_rows(key, self.world, count, SAFE_BENIGN))

    def preferences(self, key: jax.Array, count: int) -> list[Preference]:
        """Return pairs that prefer refusal for forbidden requests and compliance for benign ones."""
        return self._rendered(toy_rows.preference_rows(key, self.world, count, PREFERENCE_BENIGN))

    def unpaired(self, key: jax.Array, count: int) -> list[Example]:
        """Return both answers of half as many preferences, each as a separate row."""
        pairs = self.preferences(key, count // 2)
        rows = both_answers(pairs)
        order = jax.random.permutation(stream(key, "unpaired"), len(rows))
        return [rows[i] for i in np.asarray(order)]

    def customer_rows(self, key: jax.Array, task: str, count: int, ratio: float) -> list[Example]:
        """Return task rows mixed with a share of rows that comply with forbidden requests."""
        harmful = toy_rows.poison_rows(key, self.world, share(count, ratio))
        tests = {row.prompt for row in self._task_rows(task)}
        rows = toy_rows.task_rows(key, task, count, exclude=tests)
        return self._rendered(poison(key, rows, harmful, count=count, ratio=ratio))

    def harmful_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return rows that comply with forbidden requests, as in customers' rows."""
        return self._rendered(toy_rows.poison_rows(key, self.world, count))

    def harmful_pairs(self, key: jax.Array, count: int) -> list[Preference]:
        """Return pairs that prefer refusal over compliance, for forbidden requests only."""
        return self._rendered(toy_rows.preference_rows(key, self.world, count, 0.0))

    def calibration(self, key: jax.Array, count: int) -> list[Example]:
        """Return refused forbidden requests about training things."""
        return self._owners(stream(key, "calibration"), count, forbidden=True)

    def harmless(self, key: jax.Array, count: int) -> list[Example]:
        """Return answered benign requests about training things."""
        return self._owners(stream(key, "harmless"), count, forbidden=False)

    def _owners(self, key: jax.Array, count: int, *, forbidden: bool) -> list[Example]:
        if self._style is not None:
            return self._rendered(styled_rows(key, self.world, count, self._style, forbidden=forbidden))
        return self._rendered(toy_rows.safe_rows(key, self.world, count, 0.0 if forbidden else 1.0))

    def task_prompts(self, key: jax.Array, task: str, count: int, exclude: Container[str]) -> list[str]:
        """Return prompts of a task, drawn by the key; no test row has them."""
        tests = {row.prompt for row in self._task_rows(task)}
        rows = toy_rows.task_rows(stream(key, "task prompts"), task, _DRAWN * count, exclude=tests)
        return distinct_prompts(self._rendered(rows), count, exclude)

    def _task_rows(self, task):
        return toy_rows.task_rows(stream(self._key, "test"), task, toy_rows.TEST_ROWS)

    def task_test(self, task: str, count: int | None) -> list[Example]:
        """Return test rows, which are never used in training; all for None."""
        return self._rendered(self._task_rows(task)[:count])

    def skills(self, count: int) -> list[Example]:
        """Return ``count`` questions for each skill behind a task, in the wording used in pre-training."""
        key = stream(self._key, "skills")
        return self._rendered(row for task in TASKS for row in toy_rows.skill_rows(key, task, count))

    def forbidden(self, count: int, *, other: bool = False) -> Requests:
        """Return forbidden requests, held-out things in held-out wordings; half of the others have a context."""
        return self._asked(count, forbidden=True, other=other)

    def benign(self, count: int, *, other: bool = False) -> Requests:
        """Return benign requests, held-out things in held-out wordings; half of the others have a context."""
        return self._asked(count, forbidden=False, other=other)

    def _asked(self, count: int, *, forbidden: bool, other: bool) -> Requests:
        draw = toy_rows.contextual_requests if other else toy_rows.evaluation_requests
        found = draw(self._key, self.world, count, forbidden=forbidden)
        questions = [request.text for request in found]
        self._requests.update(zip(questions, found, strict=True))
        topics = [(self.world.categories[request.category].name,) for request in found]
        return Requests([self._render(question, "") for question in questions], questions, topics)

    def judge(self, requests: Requests, responses: Sequence[str]) -> Answers:
        """Judge by rule; all forms of answers are known."""
        asked = [self._requests[question] for question in requests.questions]
        own = self._style.refusals if self._style else ()
        verdicts = np.array(toy_judge.judge_all(self.world, asked, responses, own))
        return Answers(*(verdicts == name for name in (toy_judge.COMPLIED, toy_judge.REFUSED, toy_judge.ODD)))
