"""One module per published row and the embedded default, each with ``get_config()``."""

import importlib
import pkgutil

from nlsr_jax.errors import InputError
from nlsr_jax.laboratory.config import StudyConfig


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
