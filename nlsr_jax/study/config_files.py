"""Configs of the user's: a TOML or JSON file that changes a built-in config and names data, tasks and a judge.

  from = "llama3_8b"                # the built-in config that the file changes
  base = "models/my-base"           # fields of the config, as ``nlsr_jax.study.config.StudyConfig`` has them
  template = "chat"
  poison_ratio = 0.02
  [lora]
  rank = 16
  [finetuning]
  rows = 500
  [finetuning.training]
  learning_rate = 1e-4
  [data]
  safe = "rows/refusals.jsonl"
  [tasks.tickets]
  train = "rows/tickets.csv"
  test = "rows/tickets_test.csv"
  prompt_field = "text"
  label_field = "team"
  labels = ["billing", "shipping"]
  [judge]
  name = "rows/phrases.txt"
  [realign]                         # flags of nlsr realign --config FILE
  template = "chat"

Paths are those of the working directory, as on the command line.
"""

import dataclasses
import pathlib
import tomllib
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nlsr_jax.data.given import Given, check_names
from nlsr_jax.data.own_sets import OwnTask, check_task
from nlsr_jax.data.poison import share
from nlsr_jax.data.templates import AUTO, open_template
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import check_file, expand
from nlsr_jax.files.values import convert
from nlsr_jax.study.config import Stage, StudyConfig
from nlsr_jax.training.settings import LoraSettings, TrainingSettings, check_lora, check_training

SUFFIXES = (".toml", ".json")
COMMANDS = ("realign", "identify", "check")
"""Tables with the settings of a command, which ``nlsr_jax.commands.settings_file`` reads."""
_FROM, _DATA, _TASKS, _JUDGE = "from", "data", "tasks", "judge"
_FIXED = ("name", "world", "published", "recommended", "pretraining")
"""Fields that a file does not change."""
_PLACES = ("path", "train", "test")
_JUDGES = ("name", "model", "template")
DTYPES = ("float32", "bfloat16", "float16")


class Study(NamedTuple):
    """A study as a user opens it.

    Attributes:
      config: its config.
      origin: the built-in config that it is or comes from.
      given: the user's data and tasks.
      judge: ``name``, ``model`` and ``template`` of its judge, as far as the file names them.
      digest: SHA-256 of the file; None for a built-in config.
    """

    config: StudyConfig
    origin: str
    given: Given
    judge: Mapping[str, str]
    digest: str | None = None


def is_config_file(name: str) -> bool:
    """Return whether a config's name is that of a file."""
    return pathlib.Path(name).suffix.lower() in SUFFIXES


def read_study(path: str, builtin: Callable[[str], StudyConfig]) -> Study:
    """Read a config of the user's.

    Args:
      path: a ``.toml`` or ``.json`` file.
      builtin: returns a built-in config by name.

    Raises:
      InputError: if the file cannot be read or a field cannot be used; the message names file, field and what is
        expected.
    """
    file = expand(path)
    values = read_table(file)
    origin = values.pop(_FROM, None)
    if not isinstance(origin, str) or is_config_file(origin):
        raise InputError(f"{file}: 'from' is {origin!r}; expected the name of the built-in config that it changes")
    for name in COMMANDS:
        values.pop(name, None)  # settings of a command
    parts = {name: _table(values.pop(name, {}), f"{file}: {name}") for name in (_DATA, _TASKS, _JUDGE)}
    try:
        before = builtin(origin)
    except InputError as error:
        raise InputError(f"{file}: from: {error}") from None
    changed = changed_fields(before, values, str(file), without=_FIXED)
    config = dataclasses.replace(changed, name=file.stem)
    _check(config, str(file))
    given = _given(parts[_DATA], parts[_TASKS], str(file))
    if config.world == "toy" and (given.places or given.tasks):
        raise InputError(
            f"{file}: data and tasks are for real data; {origin} is a toy world that makes its own rows"
        )
    return Study(config, origin, given, _judge(parts[_JUDGE], str(file)), sha256(file))


def read_table(file: pathlib.Path) -> dict[str, Any]:
    """Read a TOML or JSON file of named values.

    Raises:
      InputError: if it cannot be read.
    """
    if file.suffix.lower() == ".json":
        return dict(read_json_object(file, "config"))
    if check_file(file, "the config") > LIMITS.json_bytes:
        raise InputError(f"{file}: config is too long; expected at most {LIMITS.json_bytes} bytes")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: config is not UTF-8 text (byte {error.start})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{file}: config is not TOML ({error})") from error


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} is {type(value).__name__}; expected a table of names and values")
    return value


def changed_fields(instance: Any, values: Mapping[str, Any], where: str, *, without: tuple[str, ...] = ()) -> Any:
    """Return a dataclass with changed fields; tables change the fields of a field.

    Args:
      instance: the dataclass.
      values: new values by field, as TOML and JSON have them.
      where: file and field, for messages.
      without: fields that cannot be changed.

    Raises:
      InputError: an unknown field, or a value of another type.
    """
    kinds = typing.get_type_hints(type(instance))
    known = [field.name for field in dataclasses.fields(instance) if field.name not in without]
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{where}: no field {name!r}; expected some of {', '.join(known)}")
        changes[name] = _changed(getattr(instance, name), value, kinds[name], f"{where}: {name}")
    return dataclasses.replace(instance, **changes)


def _changed(before: Any, value: Any, kind: Any, where: str) -> Any:
    """Return the new value of a field."""
    if dataclasses.is_dataclass(before):
        return changed_fields(before, _table(value, where), where)
    if isinstance(before, dict):  # stages by objective
        known = ", ".join(before)
        unknown = [name for name in _table(value, where) if name not in before]
        if unknown:
            raise InputError(f"{where}: no field {unknown[0]!r}; expected some of {known}")
        return before | {name: changed_fields(before[name], _table(one, f"{where}: {name}"), f"{where}: {name}")
                         for name, one in value.items()}  # fmt: skip
    try:
        return convert(where.rpartition(": ")[2], value, kind)
    except InputError as error:
        raise InputError(f"{where.rpartition(': ')[0]}: {error}") from None


def _check(config: StudyConfig, where: str) -> None:
    """Check the values of a config."""
    stages: dict[str, Stage] = {"sft": config.sft, "finetuning": config.finetuning}
    stages |= {f"alignment: {name}": stage for name, stage in config.alignment.items()}
    stages |= {f"anew: {name}": stage for name, stage in config.anew.items()}
    for name, stage in stages.items():
        if stage.rows < 1:
            raise InputError(f"{where}: {name}: rows is {stage.rows}; expected at least 1")
        _check_part(check_training, stage.training, f"{where}: {name}: training")
    _check_part(check_lora, config.lora, f"{where}: lora")
    if config.template != AUTO:
        _check_part(open_template, config.template, where)
    try:
        share(100, config.poison_ratio)
    except InputError as error:
        raise InputError(f"{where}: poison_{error}") from None
    counts = {f"exam: {name}": value for name, value in dataclasses.asdict(config.exam).items()}
    for name, value in {**counts, "calibration_rows": config.calibration_rows}.items():
        if value < 1:
            raise InputError(f"{where}: {name} is {value}; expected at least 1")
    if config.dtype not in DTYPES:
        raise InputError(f"{where}: dtype is {config.dtype!r}; expected one of {', '.join(DTYPES)}")


def _check_part(check: Callable[[Any], Any], value: TrainingSettings | LoraSettings | str, where: str) -> None:
    try:
        check(value)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _given(data: Mapping[str, Any], tasks: Mapping[str, Any], where: str) -> Given:
    """Return data and tasks of a file."""
    places: dict[str, str] = {}
    own: dict[str, OwnTask] = {}
    for name, value in data.items():
        places |= _places(name, value, f"{where}: data: {name}")
    for name, value in tasks.items():
        here = f"{where}: tasks: {name}"
        table = _table(value, here)
        places |= _places(name, {key: table[key] for key in _PLACES if key in table}, here)
        fields = {key: one for key, one in table.items() if key not in _PLACES}
        own[name] = changed_fields(OwnTask(name), fields, here, without=("name",))
        check_task(own[name], f"{here}: ")
    try:
        check_names(places, own)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return Given(places, own)


def _places(name: str, value: Any, where: str) -> dict[str, str]:
    """Return the places of a data set: a path, or a table of ``path``, or of ``train`` and ``test``."""
    table = {"path": value} if isinstance(value, str) else _table(value, where)
    for key, place in table.items():
        if key not in _PLACES or not isinstance(place, str) or not place:
            raise InputError(f"{where}: {key} is {place!r}; expected a path, as path, or as train and test")
    return {name if key == "path" else f"{name}.{key}": place for key, place in table.items()}


def _judge(table: Mapping[str, Any], where: str) -> dict[str, str]:
    for name, value in table.items():
        if name not in _JUDGES or not isinstance(value, str):
            raise InputError(f"{where}: judge: {name} is {value!r}; expected texts for {', '.join(_JUDGES)}")
    return dict(table)
