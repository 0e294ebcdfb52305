"""One module per published row, and the built-in default, each with ``get_config()``."""

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
      InputError: if the name is unknown.
    """
    if name not in names():
        raise InputError(f"--config is {name!r}; expected one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").get_config()


def base_of(config: StudyConfig, given: str | None = None) -> str:
    """Return the directory or hub id of a study's base.

    Args:
      config: the study.
      given: a base to use instead of the config's.

    Raises:
      InputError: if the config's base is shipped with this project but missing here.
    """
    if given:
        return given
    if pathlib.Path(config.base).is_absolute() and not pathlib.Path(config.base).exists():
        raise InputError(
            f"{config.base}: the base of --config {config.name} is not there, because it is in the source tree "
            f"and not in the installed package; run this in the source tree, or make one with nlsr pretrain "
            f"--config {config.name} --output DIR and give --base DIR"
        )
    return config.base
