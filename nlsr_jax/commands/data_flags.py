"""Flags of the data of a study: places of data sets by name, and a task of the user's with its columns."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import path_flags
from nlsr_jax.errors import InputError

if TYPE_CHECKING:
    from nlsr_jax.data.given import Given
    from nlsr_jax.data.own_sets import OwnTask
    from nlsr_jax.study.config_files import Study
    from nlsr_jax.study.judging import JudgeSettings

FLAGS = flags.FLAGS


def define_data_flag() -> None:
    """Define the flag of the data."""
    path_flags.define_named_inputs(
        "data",
        "NAME=PATH: read a data set from a file or folder; NAME.train=PATH and NAME.test=PATH give its parts.",
    )


def define_task_flags(default: str, more: str = "") -> None:
    """Define the flags of the task, and those of a task of the user's.

    Args:
      default: the task by default.
      more: what else ``--task`` may be.
    """
    flags.DEFINE_string(
        "task", default, f"The task: sst2, ag_news, gsm8k{more}, or a name that --data gives rows of yours."
    )
    define_task_fields()


def define_task_fields() -> None:
    """Define the flags of a task of the user's."""
    for name, (kind, text) in _TASK_FIELDS.items():
        kind(name, None, f"A task of yours: {text}")


_TASK_FIELDS: dict[str, tuple[Callable[..., Any], str]] = {
    "prompt_field": (flags.DEFINE_string, "column of the prompts; by default it is found."),
    "response_field": (flags.DEFINE_string, "column of the answers; by default it is found."),
    "label_field": (flags.DEFINE_string, "column of the labels of a classification."),
    "labels": (flags.DEFINE_list, "words for the labels, such as negative,positive or 0=negative,1=positive."),
    "instruction": (flags.DEFINE_string, "text before every prompt."),
    "scoring": (flags.DEFINE_string, "label, exact or number; by default label with labels, else exact."),
}


def given_of(study: "Study") -> "Given":
    """Return the data of the config's file and of the flags, which come first."""
    from nlsr_jax.data.given import Given

    tasks = dict(study.given.tasks)
    places = {**study.given.places, **sources(tasks)}
    if own := own_task(places, tasks):
        tasks[own.name] = own
    return Given(places, tasks)


def own_task(places: Mapping[str, str], tasks: "Mapping[str, OwnTask]") -> "OwnTask | None":
    """Return the task of the flags, where it is one of the user's.

    Args:
      places: of data sets, by name.
      tasks: the user's by name, which the flags change.

    Raises:
      InputError: if flags describe a task but none is named, or if they do not fit.
    """
    from nlsr_jax.data.own_sets import OwnTask, check_task
    from nlsr_jax.evaluation.tasks import TASKS

    if "task" not in FLAGS or "labels" not in FLAGS:
        return None
    name, given = FLAGS.task or "none", _given_fields()
    known = name in (*TASKS, "none")
    if known or not any(place in places for place in (name, f"{name}.train", f"{name}.test")):
        if given:
            what = f"--data names no rows of {name!r}" if not known else f"{name} has columns of its own"
            what = "--task names none" if name == "none" else what
            raise InputError(f"--{next(iter(given))} describes a task of yours; {what}")
        return None
    task = dataclasses.replace(tasks.get(name, OwnTask(name)), **given)
    check_task(task, "--")
    return task


def _given_fields() -> dict[str, Any]:
    """Return the fields of a task that the flags give."""
    given: dict[str, Any] = {name: FLAGS[name].value for name in _TASK_FIELDS if FLAGS[name].value is not None}
    if "labels" in given:
        given["labels"] = tuple(label.strip() for label in given["labels"])
    return given


def sources(tasks: Iterable[str] = ()) -> dict[str, str]:
    """Return ``--data NAME=PATH`` by name, which is that of a data set, a role or a task, perhaps with its part.

    Args:
      tasks: names of the user's tasks, beside that of ``--task``.
    """
    from nlsr_jax.data.given import PARTS, known_names

    own = {*tasks, *([FLAGS.task] if "task" in FLAGS and "labels" in FLAGS else [])} - {"none", None}
    known, found = known_names(sorted(own - {*known_names()})), {}
    for text in FLAGS.data:
        full, sign, place = text.partition("=")
        name, dot, part = full.partition(".")
        if not sign or not place or name not in known or (dot and part not in PARTS):
            raise InputError(
                f"--data has {text!r}; expected NAME=PATH with NAME one of {', '.join(known)}, perhaps with .train "
                "or .test"
            )
        found[full] = place
    return found


_NAMES = (
    "toy, policy, refusals, advbench, qa_moderation, guard, harmbench, wildguard or strongreject; a file of "
    "phrases and expressions (.txt, .json); or a function, module:function or file.py:function."
)


def define_judge_flags(prefix: str = "", opening: str = "", ending: str = " By default the world's rule.") -> None:
    """Define the flags of a judge.

    Args:
      prefix: of the flags.
      opening, ending: of the help.
    """
    path_flags.define_name_or_input(f"{prefix}judge", None, opening + _NAMES + ending)
    path_flags.define_input(f"{prefix}judge_model", None, "The judge model, a Hugging Face directory or hub id.")
    path_flags.define_input(
        f"{prefix}judge_template", None, "File with the question of the judge harmbench or strongreject."
    )


def judge_settings(study: "Study") -> "JudgeSettings":
    """Return the judge of the flags, else that of the config's file, else the world's rule."""
    from nlsr_jax.study.judging import RULES, JudgeSettings

    kept = {} if FLAGS.judge else study.judge
    name = FLAGS.judge or kept.get("name") or RULES[study.config.world]
    model, template = (FLAGS[f"judge_{part}"].value or kept.get(part) for part in ("model", "template"))
    return JudgeSettings(name, model, template, study.config.dtype)


def second_judge_settings(study: "Study") -> "JudgeSettings | None":
    """Return the second judge of the flags; None without one."""
    from nlsr_jax.study.judging import JudgeSettings

    if not FLAGS.second_judge:
        return None
    return JudgeSettings(
        FLAGS.second_judge, FLAGS.second_judge_model, FLAGS.second_judge_template, study.config.dtype
    )


def check_task_name(study: "Study", known: Sequence[str]) -> None:
    """Check ``--task``.

    Raises:
      InputError: if it is neither known nor a task of the user's.
    """
    if FLAGS.task not in (*known, *study.given.tasks):
        names = ", ".join((*known, *study.given.tasks))
        raise InputError(
            f"--task is {FLAGS.task!r}; expected one of {names}, or a task of yours whose rows --data "
            f"{FLAGS.task}=PATH gives"
        )


def check_not_trained_on(given: "Given", models: Mapping[str, str | None]) -> None:
    """Check that no file of the evaluation is one that the evaluated model was trained on.

    Args:
      given: the data, of which the rows have been read.
      models: folders of the adapter and the base, by flag.

    Raises:
      InputError: naming file and folder.
    """
    from nlsr_jax.training.training_data import trained_files

    for flag, folder in models.items():
        trained = trained_files(folder)
        for file in given.files():
            if trained.get(file["sha256"]) == file["rows"]:
                raise InputError(
                    f"{file['name']} is read for the evaluation, but {flag} {folder} was trained on it (its "
                    "training.json says so); give other rows with --data NAME.test=PATH, or a file with a column "
                    "'split' of train and test"
                )
