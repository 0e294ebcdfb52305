"""One module per published row, and the built-in default, each with ``get_config()``."""

import importlib
import pathlib
import pkgutil

from nlsr_jax.data.given import Given
from nlsr_jax.errors import InputError
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.config_files import Study, is_config_file, read_study


def names() -> tuple[str, ...]:
    """Return the names of all configs."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "paper"))


def get(name: str) -> StudyConfig:
    """Return a config by name.

    Raises:
      InputError: if the name is unknown.
    """
    if name not in names():
        raise InputError(f"--config is {name!r}; expected one of {', '.join(names())}, or a .toml or .json file")
    return importlib.import_module(f"{__name__}.{name}").get_config()


def open_study(name: str) -> Study:
    """Return a study by the name of a built-in config, or by a file of the user's.

    Args:
      name: a built-in name, or the path of a ``.toml`` or ``.json`` file; see ``nlsr_jax.study.config_files``.

    Raises:
      InputError: if there is no such config, or a field of the file cannot be used.
    """
    if is_config_file(name):
        return read_study(name, lambda origin: get(origin))
    return Study(get(name), name, Given(), {})


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
