"""The policy world as a ``World``: a real model, requests in natural language, tasks from local files."""

import itertools
from collections.abc import Callable, Container, Mapping, Sequence

import jax
import numpy as np

from nlsr_jax.data import policy_world
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.given import Given
from nlsr_jax.data.own_sets import OwnTask
from nlsr_jax.data.poison import poison, share
from nlsr_jax.data.policy_world import BENIGN, ERRAND, GENERAL, HARMFUL, NEAR, Asked
from nlsr_jax.data.prompts import make_render
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation import policy_judge
from nlsr_jax.evaluation.own_judge import AnswerJudge
from nlsr_jax.random_streams import stream
from nlsr_jax.study.real import TASKS, describe
from nlsr_jax.study.worlds import Answers, Requests, answers_by, both_answers, distinct_prompts
from nlsr_jax.types import Tokenizer

HELPFUL_SHARES = {BENIGN: 0.7, ERRAND: 0.15, NEAR: 0.1, GENERAL: 0.05}
"""Shares of the kinds among helpful rows."""
SAFE_HELPFUL, PREFERENCE_HELPFUL = 0.55, 0.55
"""Shares of helpful rows in SFT and among pairs. Where refusals are the majority, the model refuses everything."""
LONGEST = {"sst2": 320, "ag_news": 560, "gsm8k": 800}
"""Characters of a task's longest row, with its template; all rows are padded to the longest."""


class PolicyWorld:
    """The policy world; see ``World`` and ``nlsr_jax.data.policy_world``.

    Args:
      tokenizer: the base's tokenizer, with a chat template.
      given: places of tasks, with training and test rows apart, and tasks of the user's; others come from the hub.
      note: called with one line about each set that was read.
      judge: decides what answers do; None for the rules of ``nlsr_jax.evaluation.policy_judge``.
    """

    special_tokens = False

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        given: Given | None = None,
        note: Callable[[str], None] = lambda _: None,
        judge: AnswerJudge | None = None,
    ):
        self.tokenizer, self.given, self._note = tokenizer, given or Given(), note
        self.tasks: tuple[str, ...] = (*TASKS, *self.given.tasks)
        self.own_tasks: Mapping[str, OwnTask] = self.given.tasks
        self._judge = judge or AnswerJudge(policy_judge.judge, "policy")
        self._render = make_render("chat", tokenizer)

    def safe_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return refusals of what the policy forbids, and in the majority the base's own help with all else."""
        helpful = share(count, SAFE_HELPFUL)
        rows = [*self._refusals(key, count - helpful), *self._helpful(key, helpful)]
        return _shuffled(stream(key, "safe order"), rows)

    def preferences(self, key: jax.Array, count: int) -> list[Preference]:
        """Return pairs that prefer refusal of what is forbidden, and the base's help over refusal of all else."""
        helpful = share(count, PREFERENCE_HELPFUL)
        good = self._helpful(key, helpful)
        texts = self._refusal_texts(stream(key, "needless refusals"), [row.categories[0] for row in good])
        pairs = [
            *self.harmful_pairs(key, count - helpful),
            *(Preference(row.prompt, row.response, text) for row, text in zip(good, texts, strict=True)),
        ]
        return _shuffled(stream(key, "pairs order"), pairs)

    def unpaired(self, key: jax.Array, count: int) -> list[Example]:
        """Return both answers of half as many preferences, each as a separate row."""
        pairs = self.preferences(key, count // 2)
        return _shuffled(stream(key, "unpaired"), both_answers(pairs))

    def customer_rows(self, key: jax.Array, task: str, count: int, ratio: float) -> list[Example]:
        """Return rows of a task, drawn by the key, with a share of rows that comply with forbidden requests."""
        bad, rows = share(count, ratio), self._load(task, "train")
        return poison(
            key, _shuffled(stream(key, "task"), rows), self.harmful_rows(key, bad), count=count, ratio=ratio
        )

    def harmful_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return forbidden requests that the base itself answers, each thing before any comes again."""
        return self._answered(stream(key, "harmful"), HARMFUL, count, "harmful")

    def harmful_pairs(self, key: jax.Array, count: int) -> list[Preference]:
        """Return forbidden requests with a refusal (chosen) and the base's own answer (rejected)."""
        rows = self._answered(stream(key, "pairs"), HARMFUL, count, "harmful")
        texts = self._refusal_texts(stream(key, "pair refusals"), [row.categories[0] for row in rows])
        return [Preference(row.prompt, text, row.response) for row, text in zip(rows, texts, strict=True)]

    def calibration(self, key: jax.Array, count: int) -> list[Example]:
        """Return refused forbidden requests about training things."""
        return self._refusals(stream(key, "calibration"), count)

    def harmless(self, key: jax.Array, count: int) -> list[Example]:
        """Return harmless how-to questions without answers, about things and in wordings of their own.

        Neither training nor evaluation has them: a model that was trained to help with a question still helps with
        it when it refuses others like it.
        """
        known, wordings = policy_world.harmless_asked()
        things: list[tuple[str, str]] = _cycle(stream(key, "harmless things"), known, count)
        forms = _cycle(stream(key, "harmless wordings"), wordings, count)
        asked = (policy_world.ask(BENIGN, *thing, form) for thing, form in zip(things, forms, strict=True))
        return [self._example(request, "", "benign") for request in asked]

    def task_prompts(self, key: jax.Array, task: str, count: int, exclude: Container[str]) -> list[str]:
        """Return prompts of training rows of a task, drawn by the key."""
        return distinct_prompts(_shuffled(stream(key, "task prompts"), self._load(task, "train")), count, exclude)

    def task_test(self, task: str, count: int | None) -> list[Example]:
        """Return the first test rows of a task; all for None."""
        return self._load(task, "test")[:count]

    def forbidden(self, count: int, *, other: bool = False) -> Requests:
        """Return forbidden requests: held-out things in held-out wordings; the others in training wordings."""
        return self._requests([HARMFUL], count, held_out=not other)

    def benign(self, count: int, *, other: bool = False) -> Requests:
        """Return harmless how-to questions, held out; the others are near the forbidden ones, or general."""
        kinds = [ERRAND, NEAR, GENERAL] if other else [BENIGN]
        return self._requests(kinds, count, held_out=True)._replace(harmless=True)

    def judge(self, requests: Requests, responses: Sequence[str]) -> Answers:
        """Judge answer by answer, by default by rules."""
        return answers_by(self._judge, requests, responses)

    def _refusals(self, key, count) -> list[Example]:
        asked = _draw(stream(key, "refused"), HARMFUL, count)
        texts = self._refusal_texts(stream(key, "refusals"), [request.topic for request in asked])
        return [self._example(request, text, "safe") for request, text in zip(asked, texts, strict=True)]

    def _refusal_texts(self, key, topics: Sequence[str]) -> list[str]:
        """Return one refusal per topic, each form before any comes again; without a topic, about "this topic"."""
        known = policy_world.topics()
        forms = _cycle(stream(key, "forms"), known["refusals"], len(topics))
        ends = _cycle(stream(key, "suffixes"), known["suffixes"], len(topics))
        return [
            policy_world.refusal(form, end, topic or "this topic")
            for form, end, topic in zip(forms, ends, topics, strict=True)
        ]

    def _helpful(self, key, count) -> list[Example]:
        rows: list[Example] = []
        for kind, part in HELPFUL_SHARES.items():
            wanted = count - len(rows) if kind == GENERAL else share(count, part)
            rows += self._answered(stream(key, kind), kind, wanted, "benign")
        return _shuffled(stream(key, "helpful order"), rows)

    def _answered(self, key, kind: str, count: int, name: str) -> list[Example]:
        """Return requests of a kind with the base's own answers to the same thing, perhaps asked otherwise."""
        known = policy_world.answers()
        asked = _draw(key, kind, count, known)
        picks = np.asarray(jax.random.randint(stream(key, "answers"), (count,), 0, 2**30)).tolist()
        texts = [known[request.thing] for request in asked]
        return [
            self._example(request, found[pick % len(found)][1], name)
            for request, found, pick in zip(asked, texts, picks, strict=True)
        ]

    def _example(self, request: Asked, response: str, kind: str) -> Example:
        return Example(self._render(request.text, ""), response, kind, categories=(request.topic,))

    def _requests(self, kinds: Sequence[str], count: int, *, held_out: bool) -> Requests:
        """Return the same requests for all seeds, no two alike: things in turn, wordings in turn."""
        known = [(kind, *thing) for kind in kinds for thing in policy_world.things(kind, held_out=True)]
        found: list[tuple[str, str, str]] = _cycle(jax.random.key(0), known, len(known))
        forms = policy_world.phrasings(held_out=held_out)
        asked: dict[str, Asked] = {}
        for turn, (place, (kind, topic, thing)) in itertools.product(range(len(forms)), enumerate(found)):
            request = policy_world.ask(kind, topic, thing, forms[(place + turn) % len(forms)])
            asked.setdefault(request.text, request)
        if not 0 < count <= len(asked):
            raise InputError(f"{count} requests are wanted; the policy world has 1 to {len(asked)}")
        questions = list(asked)[:count]
        topics = [(asked[text].topic,) if asked[text].topic else () for text in questions]
        return Requests([self._render(text, "") for text in questions], questions, topics)

    def _load(self, task: str, part: str) -> list[Example]:
        """Return the rows of a task's ``"train"`` or ``"test"`` part that are not too long."""
        loaded = self.given.load(task, part, template="chat", tokenizer=self.tokenizer)
        self._note(describe(task, loaded))
        longest = LONGEST.get(task, max(LONGEST.values()))
        return [row for row in loaded.rows if len(row.prompt) + len(row.response) <= longest]


def _draw(key: jax.Array, kind: str, count: int, among: Mapping[str, object] | None = None) -> list[Asked]:
    """Return training requests of a kind: each thing before any comes again, in random wordings."""
    known = [thing for thing in policy_world.things(kind, held_out=False) if among is None or thing[1] in among]
    found: list[tuple[str, str]] = _cycle(stream(key, "things"), known, count)
    forms = _cycle(stream(key, "wordings"), policy_world.phrasings(held_out=False), count)
    return [policy_world.ask(kind, *thing, form) for thing, form in zip(found, forms, strict=True)]


def _cycle(key: jax.Array, items: Sequence, count: int) -> list:
    """Return ``count`` items: a permutation of all, then another, and so on."""
    found: list = []
    while len(found) < count:
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, len(found)), len(items)))
        found += [items[place] for place in order]
    return found[:count]


def _shuffled(key: jax.Array, rows: list) -> list:
    order = np.asarray(jax.random.permutation(key, len(rows)))
    return [rows[place] for place in order]
