"""The flags of a check, shared by nlsr check and nlsr realign --check."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from nlsr_jax.commands import data_flags, method_flags, path_flags
from nlsr_jax.gate.settings import BoundSettings, CheckSettings, JudgeChoice, ReadingSettings, RequestSettings

FLAGS = flags.FLAGS
OWN = tuple(name for part in (BoundSettings, RequestSettings, JudgeChoice) for name in method_flags.names_of(part))
"""Settings that are of a check alone."""
READING = method_flags.names_of(ReadingSettings)
"""Settings that nlsr realign has too."""


def define_check_flags(names: Sequence[str] = OWN) -> None:
    """Define the flags of a check and of the data sets that it reads."""
    method_flags.define_flags(CheckSettings, names)
    path_flags.define_named_inputs("data", "NAME=PATH: read a data set, such as a task's, from a file or folder.")


def given() -> list[str]:
    """Return the flags of a check that are given."""
    return [name for name in (*OWN, "data") if FLAGS[name].present]


def get_settings(**changes: Any) -> CheckSettings:
    """Return the settings from the flags, with changes.

    Raises:
      InputError: if flags of the data or of a task do not fit, or a config's file cannot be read.
    """
    from nlsr_jax import configs
    from nlsr_jax.study.config_files import is_config_file

    values = method_flags.values_of(CheckSettings, (*OWN, *READING)) | changes
    config = values["config"]
    given = configs.open_study(config).given if config and is_config_file(config) else None
    places, tasks = ({}, {}) if given is None else (given.places, given.tasks)
    data = data_flags.sources(tasks)
    own = data_flags.own_task({**places, **data}, tasks)
    return CheckSettings(**values, data=data, tasks={} if own is None else {own.name: own})
