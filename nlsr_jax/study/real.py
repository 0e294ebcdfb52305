"""Real data sets as a ``World``: the paper's sets, from the hub or local files, with a judge of choice."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nlsr_jax.data.benchmarks import BENCHMARKS, BENIGN, HARMFUL, check_whole, names_of
from nlsr_jax.data.collecting import Loaded
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.given import TEST, TRAIN, Given
from nlsr_jax.data.own_sets import ROLES, OwnTask
from nlsr_jax.data.poison import poison, share
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.sources import load_kto
from nlsr_jax.data.templates import renders_turns
from nlsr_jax.errors import InputError, argument
from nlsr_jax.evaluation.judges import Judge, judge_sound
from nlsr_jax.evaluation.own_judge import AnswerJudge
from nlsr_jax.evaluation.refusals import is_refusal, match_refusals
from nlsr_jax.evaluation.responses import clean_response
from nlsr_jax.evaluation.texts import is_broken
from nlsr_jax.study.worlds import Answers, Requests, answers_by, both_answers, distinct_prompts
from nlsr_jax.types import Tokenizer

TASKS = ("sst2", "ag_news", "gsm8k")
_HARMLESS_FROM = 2000
"""Rows of Alpaca that are left to ``benign``."""
FORBIDDEN_SETS = names_of(HARMFUL)
BENIGN_SETS = ("alpaca", *names_of(BENIGN))
_PAPER = FORBIDDEN_SETS[:2]
"""The paper's sets of harmful requests; each is the alternative set of the other."""


def describe(name: str, loaded: Loaded) -> str:
    """Describe in one line how many rows of a set were used and skipped."""
    skipped = ", ".join(f"{count} {reason}" for reason, count in loaded.counts["skipped"].items())
    named = f"; first: {loaded.named[0]}" if loaded.named else ""
    return f"{name}: {loaded.counts['used']} of {loaded.counts['rows']} rows" + (
        f", skipped {skipped}{named}" if skipped else ""
    )


def check_sets(forbidden: str | None, benign: str | None) -> None:
    """Check the names of sets of requests; None for the ones by default.

    Raises:
      InputError: if one is unknown.
    """
    for name, value, known in (("forbidden_set", forbidden, FORBIDDEN_SETS), ("benign_set", benign, BENIGN_SETS)):
        if value is not None and value not in known:
            raise InputError(f"{argument(name)} is {value!r}; expected one of {', '.join(known)}")


class RealWorld:
    """The paper's data; see ``World``. Rows are taken in file order, as in the paper; keys only decide their order.

    Args:
      tokenizer: the model's tokenizer.
      template: how prompts are rendered.
      given: places of data sets, of roles and of tasks of the user's; other sets come from the hub.
      judge: decides which answers are harmful; an ``AnswerJudge`` decides on refusals, too.
      refuses: returns whether a response to a prompt is a refusal, beside a judge that does not.
      note: called with one line about each set that was read.
      forbidden_set: source of the harmful requests, one of ``FORBIDDEN_SETS``.
      benign_set: source of the harmless requests, one of ``BENIGN_SETS``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        *,
        given: Given | None = None,
        judge: Judge = match_refusals,
        refuses: Callable[[str, str], bool] = lambda _, response: is_refusal(response),
        note: Callable[[str], None] = lambda _: None,
        forbidden_set: str = FORBIDDEN_SETS[0],
        benign_set: str = BENIGN_SETS[0],
    ):
        check_sets(forbidden_set, benign_set)
        self._forbidden_set, self._benign_set = forbidden_set, benign_set
        self.tokenizer, self._template = tokenizer, template
        self.special_tokens = not renders_turns(template)
        self.given, self._judge, self._refuses, self._note = given or Given(), judge, refuses, note
        self.tasks: tuple[str, ...] = (*TASKS, *self.given.tasks)
        self.own_tasks: Mapping[str, OwnTask] = self.given.tasks
        self._render = make_render(template, tokenizer)

    def _load(self, name: str, count: int | None = None, part: str = TRAIN, template: str | None = None) -> list:
        options: dict[str, Any] = {"template": template or self._template, "tokenizer": self.tokenizer}
        if name in ROLES:
            loaded = self.given.load_role(name, count=count, note=self._note, **options)
        else:
            loaded = self.given.load(name, part, count=count, **options)
        if name in BENCHMARKS and name not in _PAPER:
            check_whole(name, loaded)
        self._note(describe(name, loaded))
        return list(loaded.rows)

    def _first(self, role: str, other: str, count: int) -> list:
        """Return the first rows of a role if some are given, else of a public set."""
        return self._load(role if self.given.has(role, TRAIN) else other, count)

    def safe_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return the first rows of ``safe``, by default safe answers of BeaverTails."""
        return self._first("safe", "beavertails_safe", count)

    def preferences(self, key: jax.Array, count: int) -> list[Preference]:
        """Return the first rows of ``preferences``, by default pairs of PKU-SafeRLHF with one safe answer."""
        return self._first("preferences", "safe_rlhf", count)

    def unpaired(self, key: jax.Array, count: int) -> list[Example]:
        """Return equal numbers of safe and unsafe answers: both of ``preferences``, or of PKU-SafeRLHF."""
        if self.given.has("preferences", TRAIN):
            return both_answers(self.preferences(key, count // 2))
        options: dict[str, Any] = {"template": self._template, "tokenizer": self.tokenizer}
        loaded = load_kto(self.given.place("safe_rlhf", TRAIN), safe=count // 2, unsafe=count // 2, **options)
        self._note(describe("safe_rlhf", loaded))
        return list(loaded.rows)

    def customer_rows(self, key: jax.Array, task: str, count: int, ratio: float) -> list[Example]:
        """Return the first rows of the task and of harmful answers, shuffled by the key."""
        bad = share(count, ratio)
        harmful = self.harmful_rows(key, bad) if bad else []
        return poison(key, self._load(task, count - bad), harmful, count=count, ratio=ratio)

    def harmful_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return the first rows of ``harmful``, by default harmful answers of BeaverTails."""
        return self._first("harmful", "beavertails_harmful", count)

    def harmful_pairs(self, key: jax.Array, count: int) -> list[Preference]:
        """Return the first preferences; see ``preferences``."""
        return self.preferences(key, count)

    def calibration(self, key: jax.Array, count: int) -> list[Example]:
        """Return the first rows of ``calibration``, by default those of ``safe_rows``."""
        return (
            self._load("calibration", count) if self.given.has("calibration", TRAIN) else self.safe_rows(key, count)
        )

    def harmless(self, key: jax.Array, count: int) -> list[Example]:
        """Return the first rows of ``harmless``, by default instructions of Alpaca behind those that are asked."""
        if self.given.has("harmless", TRAIN):
            return self._load("harmless", count)
        return self._load("alpaca", _HARMLESS_FROM + count, TEST)[_HARMLESS_FROM:]

    def task_prompts(self, key: jax.Array, task: str, count: int, exclude: Container[str]) -> list[str]:
        """Return the prompts of the first training rows of a task that are not excluded."""
        return distinct_prompts(self._load(task), count, exclude)

    def task_test(self, task: str, count: int | None) -> list[Example]:
        """Return the first test rows of a task; all for None."""
        return self._load(task, count, TEST)

    def forbidden(self, count: int, *, other: bool = False) -> Requests:
        """Return the first requests of ``forbidden_set``; all of a benchmark that has fewer.

        ``other`` takes HarmBench in place of BeaverTails, and BeaverTails in place of any other set. Rows that are
        given as ``forbidden`` take the place of all sets.
        """
        if self.given.has("forbidden", TEST):
            return self._requests("forbidden", count)
        if not other:
            return self._requests(self._forbidden_set, count)
        return self._requests(_PAPER[1] if self._forbidden_set == _PAPER[0] else _PAPER[0], count)

    def benign(self, count: int, *, other: bool = False) -> Requests:
        """Return the first requests of ``benign_set``, or of the rows of ``benign``."""
        name = "benign" if self.given.has("benign", TEST) else self._benign_set
        return self._requests(name, count)._replace(harmless=True)

    def _requests(self, name: str, count: int) -> Requests:
        whole = name in BENCHMARKS and name != _PAPER[0]  # which has thousands
        rows = self._load(name, None if whole else count, TEST, template="none")[:count]
        questions = [row.prompt for row in rows]
        return Requests([self._render(text, "") for text in questions], questions, [row.categories for row in rows])

    def judge(self, requests: Requests, responses: Sequence[str]) -> Answers:
        """Judge with the given judge; an answer that is neither harmful nor a refusal is odd.

        Answers to harmless requests are not shown to the judge: they comply if they do not refuse. An
        ``AnswerJudge`` decides on all answers.
        """
        if isinstance(self._judge, AnswerJudge):
            return answers_by(self._judge, requests, responses)
        asked, texts = requests.questions, [clean_response(text) for text in responses]
        broken = np.array([is_broken(text) for text in texts], bool)
        refused = ~broken & np.array([self._refuses(p, t) for p, t in zip(asked, texts, strict=True)], bool)
        if requests.harmless:
            return Answers(~broken & ~refused, refused, broken)
        verdicts = judge_sound(
            texts, lambda rows: self._judge([asked[row] for row in rows], [texts[row] for row in rows])
        )
        harmful = np.asarray(verdicts.harmful, bool)
        return Answers(harmful, refused & ~harmful, ~harmful & ~refused)
