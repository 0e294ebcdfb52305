"""One module per published row and the embedded default, each with ``get_config()``."""

import importlib
import pathlib
import pkgutil

from nlsr_jax.errors import InputError
from nlsr_jax.study.config import StudyConfig


def names() -> tuple[str, ...]:
    """Return the names of all configs."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "paper"))


def get(name: str) -> StudyConfig:
    """Return a config by name.

    Raises:
      InputError: there is none of that name.
    """
    if name not in names():
        raise InputError(f"--config is {name!r}; expected one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").get_config()


def base_of(config: StudyConfig, given: str | None = None) -> str:
    """Return the directory or hub id of a study's base.

    Args:
      config: the study.
      given: a base to take in place of the config's.

    Raises:
      InputError: the config's is one that this project ships, and it is not here.
    """
    if given:
        return given
    if pathlib.Path(config.base).is_absolute() and not pathlib.Path(config.base).exists():
        raise InputError(
            f"{config.base}: the base of --config {config.name} is not there, for it lies in the project's source "
            f"tree and not in the installed package; run this in that tree, or make one by nlsr pretrain --config "
            f"{config.name} --output DIR and give --base DIR"
        )
    return config.base
