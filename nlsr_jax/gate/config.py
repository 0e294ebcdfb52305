"""The study of a check, where it has one, and the data that a check reads by name."""

import pathlib

from nlsr_jax import configs
from nlsr_jax.data.given import Given
from nlsr_jax.files.paths import expand
from nlsr_jax.gate.settings import CheckSettings
from nlsr_jax.study.config_files import Study, is_config_file


def study_of(settings: CheckSettings) -> Study | None:
    """Return the study that a check names, built in or in a file; None if the check reads its requests from rows.

    Raises:
      InputError: an unknown name, or a file with a field that cannot be used.
    """
    return None if settings.config is None else configs.open_study(settings.config)


def given_of(settings: CheckSettings) -> Given:
    """Return the data of the study's file and of the settings; those of the settings override the file's."""
    study = study_of(settings)
    before = Given() if study is None else study.given
    return Given({**before.places, **settings.data}, {**before.tasks, **settings.tasks})


def config_file(settings: CheckSettings) -> pathlib.Path | None:
    """Return the file of the study; None for a built-in one, and without one."""
    return expand(settings.config) if settings.config and is_config_file(settings.config) else None
