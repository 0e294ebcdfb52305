"""What a check asks: the requests of files or of a study, rows of a task, and the world that judges by rule."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from nlsr_jax import configs
from nlsr_jax.data.asked import Asked, read_questions
from nlsr_jax.data.benchmarks import BENCHMARKS, BENIGN, HARMFUL, check_whole, names_of
from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.data.examples import Example
from nlsr_jax.data.given import TEST, Given
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.templates import AUTO, NONE, default_template, open_template, renders_turns
from nlsr_jax.errors import InputError, argument
from nlsr_jax.gate.config import given_of, study_of
from nlsr_jax.gate.judging import FIRST, judge_settings, world_kind
from nlsr_jax.gate.settings import NEW_TOKENS, TASK_TOKENS, CheckSettings
from nlsr_jax.pipeline.templating import is_rendered
from nlsr_jax.random_streams import stream
from nlsr_jax.study.config import ExamSettings, StudyConfig
from nlsr_jax.study.exam import NO_TASK, Exam, make_exam
from nlsr_jax.study.policy import PolicyWorld
from nlsr_jax.study.real import RealWorld
from nlsr_jax.study.worlds import Requests, World
from nlsr_jax.types import Tokenizer

_Row = TypeVar("_Row")
Note = Callable[[str], None]
_BATCH = 16
_NOTHING = Requests([], [], [])


class Questions(NamedTuple):
    """What is asked.

    Attributes:
      tokenizer: the base's.
      world: judges answers by its rule.
      exam: the prompts.
      special_tokens: whether the tokenizer adds its special tokens to them.
      longest: longest answers and the size of a batch.
      notes: what a user should know of the rows.
      given: the data sets that rows are read from by name.
    """

    tokenizer: Tokenizer
    world: World
    exam: Exam
    special_tokens: bool
    longest: ExamSettings
    notes: list[str]
    given: Given


def open_questions(
    settings: CheckSettings, base: str, note: Note, *, harmless: Sequence[str] | None = None
) -> Questions:
    """Read what is asked.

    Args:
      settings: of the check.
      base: directory or hub id of the base, whose tokenizer encodes the prompts.
      note: called with messages for the user, one line each.
      harmless: plain requests that are asked where the settings name no rows.

    Raises:
      InputError: rows, a tokenizer or a study that cannot be used.
    """
    study = study_of(settings)
    if study is not None:
        return _of_study(settings, study.config, base, note)
    return _of_rows(settings, base, note, harmless)


def _of_study(settings: CheckSettings, config: StudyConfig, base: str, note: Note) -> Questions:
    given = given_of(settings)
    tokenizer, world = configs.open_world(config, base, given=given, note=note)
    longest = _longest(settings, config.exam)
    counts = {name: min(getattr(longest, name), settings.rows or 10**9) for name in ("forbidden", "benign", "rows")}
    exam = make_exam(world, settings.task or NO_TASK, **counts)
    return Questions(tokenizer, world, exam, world.special_tokens, longest, [], given)


def _of_rows(settings: CheckSettings, base: str, note: Note, harmless: Sequence[str] | None) -> Questions:
    tokenizer = load_tokenizer(base)
    asked, settings = settings.template, dataclasses.replace(settings, template=_template(settings, tokenizer))
    given, notes = given_of(settings), list[str]()
    read = _Reader(settings, given, tokenizer, note)
    exam = Exam(
        read.requests("harmful", notes),
        (read.requests("harmless", notes) if harmless is None else read.plain(harmless))._replace(harmless=True),
        settings.task or NO_TASK,
        [],
    )
    world = _world(settings, given, tokenizer, note)
    if settings.task is not None:
        exam = exam._replace(rows=_task_rows(settings, world), own=world.own_tasks.get(settings.task))
    if asked == NONE and getattr(tokenizer, "chat_template", None):
        notes.append(
            "the base has a chat template, but with the template none the prompts are asked without it; the "
            "template chat renders them"
        )
    longest = _longest(settings, ExamSettings(0, 0, 0, NEW_TOKENS, TASK_TOKENS, _BATCH))
    return Questions(tokenizer, world, exam, not renders_turns(settings.template), longest, notes, given)


def _template(settings: CheckSettings, tokenizer: Tokenizer) -> str:
    """Return the name of the template: the tokenizer's for ``auto``, unless the prompts are rendered with it."""
    if settings.template != AUTO:
        open_template(settings.template)
        return settings.template
    places = [place for place in (settings.harmful, settings.harmless) if place not in (None, *BENCHMARKS)]
    rendered = any(is_rendered(place, tokenizer) for place in places if place is not None)
    return NONE if rendered else default_template(tokenizer)


def _world(settings: CheckSettings, given: Given, tokenizer: Tokenizer, note: Note) -> World:
    if world_kind(settings) == "policy":
        return PolicyWorld(tokenizer, given=given, note=note)
    return RealWorld(tokenizer, settings.template, given=given, note=note)


def _longest(settings: CheckSettings, default: ExamSettings) -> ExamSettings:
    names = ("max_new_tokens", "task_tokens", "batch_size")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(settings, name)) is not None}
    return dataclasses.replace(default, **given)


def _task_rows(settings: CheckSettings, world: World) -> list[Example]:
    assert settings.task is not None
    found = world.task_test(settings.task, None)
    if not found:
        raise InputError(f"{settings.task}: no test rows")
    return _drawn(stream(jax.random.key(settings.seed), settings.task), found, settings.rows)


class _Reader:
    """Reads requests: every prompt once, because a repeated one tells nothing new, and at most so many."""

    def __init__(self, settings: CheckSettings, given: Given, tokenizer: Tokenizer, note: Note):
        self._settings, self._given, self._tokenizer, self._note = settings, given, tokenizer, note
        self._key = jax.random.key(settings.seed)

    def requests(self, kind: str, notes: list[str]) -> Requests:
        """Return the requests of a kind, ``"harmful"`` or ``"harmless"``; none where no rows are given."""
        place = getattr(self._settings, kind)
        if place is None:
            return _NOTHING
        if place in BENCHMARKS:
            found = self._benchmark(kind, place, notes)
        else:
            found = read_questions(
                place,
                self._tokenizer,
                template=self._settings.template,
                field=getattr(self._settings, f"{kind}_field"),
                field_argument=f"{kind}_field",
                note=self._note,
            )
        once = list({row.prompt: row for row in found}.values())
        if repeated := len(found) - len(once):
            notes.append(f"{repeated} of {len(found)} {kind} rows repeat a prompt; each prompt is asked once")
        drawn = _drawn(stream(self._key, kind), once, self._settings.rows)
        return Requests([row.prompt for row in drawn], [row.question for row in drawn], [()] * len(drawn))

    def _benchmark(self, kind: str, name: str, notes: list[str]) -> list[Asked]:
        """Return the requests of a benchmark, and note if its authors use another judge."""
        known = names_of(HARMFUL if kind == "harmful" else BENIGN)
        if name not in known:
            what = f"{name}, whose requests are {BENCHMARKS[name].kind}"
            raise InputError(f"{argument(kind)} is {what}; expected rows or one of {', '.join(known)}")
        loaded = self._given.load(name, TEST, template=NONE, tokenizer=self._tokenizer)
        check_whole(name, loaded)
        published, chosen = BENCHMARKS[name].judge, judge_settings(self._settings)[FIRST].name
        if published not in (None, chosen):
            notes.append(f"published figures on {name} are by the judge {published}; these are by {chosen}")
        render = make_render(self._settings.template, self._tokenizer)
        return [Asked(render(row.prompt, ""), row.prompt) for row in loaded.rows]

    def plain(self, texts: Sequence[str]) -> Requests:
        """Return requests that are given as plain text."""
        render = make_render(self._settings.template, self._tokenizer)
        return Requests([render(text, "") for text in texts], list(texts), [()] * len(texts))


def _drawn(key: jax.Array, rows: Sequence[_Row], most: int | None) -> list[_Row]:
    """Draw some of the rows without replacement; they stay in their order."""
    if most is None or len(rows) <= most:
        return list(rows)
    return [rows[place] for place in np.sort(np.asarray(jax.random.permutation(key, len(rows)))[:most])]
