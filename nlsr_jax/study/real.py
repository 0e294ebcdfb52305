"""Real data sets as a ``World``: the paper's sets, from the hub or local files, with a judge of choice."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from nlsr_jax.data.collecting import Loaded
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.poison import poison, share
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.sources import DATA_SETS, load, load_kto
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.judges import Judge, judge_sound
from nlsr_jax.evaluation.refusals import is_refusal, match_refusals
from nlsr_jax.evaluation.responses import clean_response
from nlsr_jax.evaluation.texts import is_broken
from nlsr_jax.study.worlds import Answers, Requests
from nlsr_jax.types import Tokenizer

TASKS = ("sst2", "ag_news", "gsm8k")
_HARMLESS_FROM = 2000
"""Rows of Alpaca that are left to ``benign``."""
FORBIDDEN_SETS = ("beavertails_prompts", "harmbench")


def describe(name: str, loaded: Loaded) -> str:
    """Describe in one line how many rows of a set were used and skipped."""
    skipped = ", ".join(f"{count} {reason}" for reason, count in loaded.counts["skipped"].items())
    named = f"; first: {loaded.named[0]}" if loaded.named else ""
    return f"{name}: {loaded.counts['used']} of {loaded.counts['rows']} rows" + (
        f", skipped {skipped}{named}" if skipped else ""
    )


class RealWorld:
    """The paper's data; see ``World``. Rows are taken in file order, as in the paper; keys only decide their order.

    Args:
      tokenizer: the model's tokenizer.
      template: how prompts are rendered.
      sources: file or directory by data set name (``DATA_SETS``); other sets come from the hub.
      judge: decides which answers are harmful.
      refuses: returns whether a response to a prompt is a refusal.
      note: called with one line about each set that was read.
      forbidden_set: source of the harmful requests, one of ``FORBIDDEN_SETS``.
    """

    tasks: tuple[str, ...] = TASKS

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        *,
        sources: Mapping[str, str] | None = None,
        judge: Judge = match_refusals,
        refuses: Callable[[str, str], bool] = lambda _, response: is_refusal(response),
        note: Callable[[str], None] = lambda _: None,
        forbidden_set: str = FORBIDDEN_SETS[0],
    ):
        if forbidden_set not in FORBIDDEN_SETS:
            raise InputError(f"forbidden_set is {forbidden_set!r}; expected one of {', '.join(FORBIDDEN_SETS)}")
        self._forbidden_set = forbidden_set
        self.tokenizer, self._template = tokenizer, template
        self.special_tokens = template != "chat"
        self._sources, self._judge, self._refuses, self._note = dict(sources or {}), judge, refuses, note
        self._render = make_render(template, tokenizer)

    def _load(
        self, name: str, count: int | None = None, split: str | None = None, template: str | None = None
    ) -> list:
        loaded = load(
            name,
            self._sources.get(name),
            count=count,
            split=split,
            template=template or self._template,
            tokenizer=self.tokenizer,
        )
        self._note(describe(name, loaded))
        return list(loaded.rows)

    def safe_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return the first safe answers of BeaverTails."""
        return self._load("beavertails_safe", count)

    def preferences(self, key: jax.Array, count: int) -> list[Preference]:
        """Return the first pairs of PKU-SafeRLHF with exactly one safe answer."""
        return self._load("safe_rlhf", count)

    def unpaired(self, key: jax.Array, count: int) -> list[Example]:
        """Return equal numbers of safe and unsafe answers of PKU-SafeRLHF."""
        options = {"template": self._template, "tokenizer": self.tokenizer}
        loaded = load_kto(self._sources.get("safe_rlhf"), safe=count // 2, unsafe=count // 2, **options)
        self._note(describe("safe_rlhf", loaded))
        return list(loaded.rows)

    def customer_rows(self, key: jax.Array, task: str, count: int, ratio: float) -> list[Example]:
        """Return the first rows of the task and of BeaverTails' harmful answers, shuffled by the key."""
        bad = share(count, ratio)
        harmful = self._load("beavertails_harmful", bad) if bad else []
        return poison(key, self._load(task, count - bad), harmful, count=count, ratio=ratio)

    def harmful_rows(self, key: jax.Array, count: int) -> list[Example]:
        """Return the first harmful answers of BeaverTails."""
        return self._load("beavertails_harmful", count)

    def harmful_pairs(self, key: jax.Array, count: int) -> list[Preference]:
        """Return the first pairs of PKU-SafeRLHF with exactly one safe answer."""
        return self._load("safe_rlhf", count)

    def calibration(self, key: jax.Array, count: int) -> list[Example]:
        """Return the first safe answers of BeaverTails."""
        return self._load("beavertails_safe", count)

    def harmless(self, key: jax.Array, count: int) -> list[Example]:
        """Return instructions of Alpaca behind those that ``benign`` asks."""
        return self._load("alpaca", _HARMLESS_FROM + count)[_HARMLESS_FROM:]

    def task_test(self, task: str, count: int | None) -> list[Example]:
        """Return the first test rows of a task; all for None."""
        return self._load(task, count, DATA_SETS[task].test)

    def forbidden(self, count: int, *, other: bool = False) -> Requests:
        """Return the first harmful requests of BeaverTails' test split, or of HarmBench, which has only a few.

        ``forbidden_set`` selects the set; ``other`` selects the one that it does not name.
        """
        if (self._forbidden_set == "harmbench") != other:
            return self._requests("harmbench", None, most=count)
        return self._requests("beavertails_prompts", count)

    def benign(self, count: int, *, other: bool = False) -> Requests:
        """Return the first instructions of Alpaca; there is no alternative set."""
        return self._requests("alpaca", count)._replace(harmless=True)

    def _requests(self, name, count, most=None):
        rows = self._load(name, count, template="none")[:most]
        questions = [row.prompt for row in rows]
        return Requests([self._render(text, "") for text in questions], questions, [row.categories for row in rows])

    def judge(self, requests: Requests, responses: Sequence[str]) -> Answers:
        """Judge with the given judge; an answer that is neither harmful nor a refusal is odd.

        Answers to harmless requests are not shown to the judge: they comply if they do not refuse.
        """
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
