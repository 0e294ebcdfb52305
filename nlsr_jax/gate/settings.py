"""The settings of a check, each written once: what is asked, who judges, and the bounds.

Commands make their flags from these fields. ``nlsr realign`` has those of ``ReadingSettings`` already.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from nlsr_jax.data.templates import AUTO
from nlsr_jax.errors import InputError, argument
from nlsr_jax.gate.kinds import KINDS
from nlsr_jax.nlsr.setting_checks import check_fields
from nlsr_jax.nlsr.settings import setting
from nlsr_jax.pipeline.settings import DTYPES

if TYPE_CHECKING:
    from nlsr_jax.data.own_sets import OwnTask

NEW_TOKENS, TASK_TOKENS = 128, 200
"""Longest answers to requests and to task rows where no config says otherwise."""


@dataclasses.dataclass(frozen=True)
class BoundSettings:
    """The bounds, in per cent; a bound that is None is not checked.

    Attributes:
      max_hs: harmful requests answered harmfully.
      max_over_refusal: harmless requests refused.
      min_benign: harmless requests answered.
      min_fa: task rows answered correctly.
    """

    max_hs: float | None = setting(
        None, "Highest share of harmful requests answered harmfully, in per cent.", within=(0, 100)
    )
    max_over_refusal: float | None = setting(
        None, "Highest share of harmless requests refused, in per cent.", within=(0, 100)
    )
    min_benign: float | None = setting(
        None, "Lowest share of harmless requests answered, in per cent.", within=(0, 100)
    )
    min_fa: float | None = setting(
        None, "Lowest share of task rows answered correctly, in per cent.", within=(0, 100)
    )

    def bounds(self) -> dict[str, float]:
        """Return the bounds that are given."""
        return {name: value for name in KINDS if (value := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True)
class RequestSettings:
    """What is asked.

    Attributes:
      harmful, harmful_field: rows of harmful requests, whose answers are not read, and their column; or the name of
        a benchmark.
      config: a study, by name or by its file, whose requests and judge are taken in place of rows.
      task: a task whose test rows are asked too.
      rows: at most so many requests of each kind, and rows of the task; None for all.
      max_new_tokens, task_tokens: longest answers.
    """

    harmful: str | None = setting(
        None,
        "Rows of harmful requests, or a benchmark such as advbench; any answers in them are not read.",
        kind="path",
    )
    harmful_field: str | None = setting(
        None, "Column of the harmful requests; by default it is found.", kind="column"
    )
    config: str | None = setting(
        None,
        "Take the requests and the judge of this study in place of rows: tiny, or a file (.toml, .json).",
        kind="name",
    )
    task: str | None = setting(
        None, "Also ask the test rows of a task: sst2, ag_news, gsm8k, or a name that --data gives rows of yours."
    )
    rows: int | None = setting(
        None, "Ask at most so many requests of each kind, drawn by the seed; by default all.", least=1
    )
    max_new_tokens: int | None = setting(
        None, f"Longest answer to a request in tokens; by default the config's, else {NEW_TOKENS}.", least=1
    )
    task_tokens: int | None = setting(
        None, f"Longest answer to a task row in tokens; by default the config's, else {TASK_TOKENS}.", least=1
    )


@dataclasses.dataclass(frozen=True)
class JudgeChoice:
    """Who judges.

    Attributes:
      judge, judge_model, judge_template: see ``nlsr_jax.study.judging.JudgeSettings``; None for the world's rule.
      second_judge, second_judge_model, second_judge_template: another one, whose agreement with the first is
        measured; it decides no bound.
    """

    judge: str | None = setting(
        None,
        "refusals, advbench, policy, toy, qa_moderation, guard, harmbench, wildguard, strongreject, a file of "
        "phrases or module:function; by default refusals, or the config's.",
        kind="name",
    )
    judge_model: str | None = setting(None, "The judge model, a Hugging Face directory or hub id.", kind="path")
    judge_template: str | None = setting(
        None, "File with the question of the judge harmbench or strongreject.", kind="path"
    )
    second_judge: str | None = setting(
        None, "A second judge, whose agreement with the first one is measured.", kind="name"
    )
    second_judge_model: str | None = setting(None, "The second judge's model.", kind="path")
    second_judge_template: str | None = setting(None, "File with the second judge's question.", kind="path")


@dataclasses.dataclass(frozen=True)
class ReadingSettings:
    """How requests are read and asked.

    Attributes:
      harmless, harmless_field: rows of harmless requests, whose answers are not read, and their column; or, for a
        check, the name of a benchmark.
      template: of prompts; see ``nlsr_jax.data.templates``.
      dtype: number type of the weights.
      batch_size: prompts per batch; None for the config's, or 16.
      seed: of the PRNG key that draws rows and bootstraps.
    """

    harmless: str | None = setting(
        None, "Rows of harmless requests; any answers in them are not read.", kind="path"
    )
    harmless_field: str | None = setting(
        None, "Column of the harmless requests; by default it is found.", kind="column"
    )
    template: str = setting(
        AUTO, "Prompt template: none, alpaca, chat, one by name or a Jinja file; auto is the tokenizer's, if any."
    )
    dtype: str = setting("float32", "Number type of the weights: float32, bfloat16 or float16.", choices=DTYPES)
    batch_size: int | None = setting(None, "Prompts per batch; by default the config's, or 16.", least=1)
    seed: int = setting(0, "Seed of the PRNG key.", least=0, most=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class CheckSettings(ReadingSettings, JudgeChoice, RequestSettings, BoundSettings):
    """Everything that a check takes beside the models. For the fields see the parts.

    Attributes:
      data: file or folder by name of a data set: the rows of ``task``, benchmarks, a config's sets.
      tasks: tasks of the user's by name.
    """

    data: Mapping[str, str] = dataclasses.field(default_factory=dict, metadata={"flag": False})
    tasks: "Mapping[str, OwnTask]" = dataclasses.field(default_factory=dict, metadata={"flag": False})


_ROWS = {"hs": "harmful", "over_refusal": "harmless", "benign_answered": "harmless"}
"""The rows that a measure takes."""


def check_settings(settings: CheckSettings, *, bounded: bool = True, has: Collection[str] = ()) -> None:
    """Check all that can be checked without reading a file.

    Args:
      settings: of the check.
      bounded: whether there must be a bound.
      has: kinds of requests that are at hand without rows.

    Raises:
      InputError: naming the setting that is missing or cannot be used.
    """
    from nlsr_jax.evaluation.tasks import TASKS
    from nlsr_jax.study.config_files import is_config_file

    check_fields(settings)
    known = (*TASKS, *settings.tasks)
    if settings.task not in (None, *known) and not is_config_file(settings.config or ""):
        raise InputError(f"{argument('task')} is {settings.task!r}; expected one of {', '.join(known)}")
    bounds = settings.bounds()
    if bounded and not bounds:
        raise InputError(
            f"no bound is given; give at least one of {', '.join(argument(name) for name in KINDS)}, in per cent"
        )
    if settings.config is not None:
        for name in ("harmful", "harmless"):
            if getattr(settings, name) is not None:
                raise InputError(
                    f"{argument(name)} is given together with {argument('config')} {settings.config}, which has "
                    "its own requests; leave one of them out"
                )
    for name in bounds:
        _check_measured(settings, name, has)
    if not any((settings.config, settings.harmful, settings.harmless, settings.task, has)):
        raise InputError(
            f"nothing is asked; give {argument('harmful')} and {argument('harmless')}, or {argument('config')} tiny"
        )


def _check_measured(settings: CheckSettings, bound: str, has: Collection[str]) -> None:
    """Check that what a bound is on is measured."""
    measure = KINDS[bound].measure
    needed = "task" if measure == "fa" else _ROWS[measure]
    at_hand = needed in has or (settings.config is not None and needed != "task")
    if getattr(settings, needed) is None and not at_hand:
        raise InputError(f"{argument(bound)} needs {argument(needed)}, which is missing")


def described(settings: CheckSettings) -> dict[str, Any]:
    """Return the settings that decide the figures, for a file; paths and bounds are described elsewhere."""
    from nlsr_jax.data.benchmarks import BENCHMARKS

    found = {name: getattr(settings, name) for name in ("config", "task", "rows", "template", "dtype", "seed")}
    found |= {kind: name for kind in ("harmful", "harmless") if (name := getattr(settings, kind)) in BENCHMARKS}
    if own := settings.tasks.get(settings.task or ""):
        found["own_task"] = dataclasses.asdict(own)
    if settings.config is None:
        return found
    return {**found, "config": pathlib.PurePath(settings.config).name, "template": None}
