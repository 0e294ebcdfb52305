"""One module per published row, and the built-in default, each with ``get_config()``."""

import importlib
import pathlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nlsr_jax.errors import InputError
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.study.worlds import World


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


def open_world(
    config: StudyConfig,
    place: str,
    *,
    sources: Mapping[str, str] | None = None,
    note: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> tuple[Tokenizer, "World"]:
    """Open the tokenizer of a base and the world of a study.

    Args:
      config: the study.
      place: the base, a directory or hub id.
      sources: file or folder by name of a data set; see ``RealWorld``.
      note: called with one line about each set that is read.
      options: options for real data; see ``RealWorld``.

    Returns:
      ``(tokenizer, World)``.

    Raises:
      InputError: if the tokenizer cannot be used or belongs to another world.
    """
    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.study.policy import PolicyWorld
    from nlsr_jax.study.real import RealWorld
    from nlsr_jax.study.toy import ToyWorld

    tokenizer = load_tokenizer(place)
    if config.world == "policy":
        return tokenizer, PolicyWorld(tokenizer, sources=sources, note=note)
    if config.world != "toy":
        return tokenizer, RealWorld(tokenizer, config.template, sources=sources, note=note, **options)
    world = ToyWorld()
    if tokenizer.get_vocab() != world.tokenizer.get_vocab():
        raise InputError(f"{place}: its tokenizer is not the toy world's; give a base made with nlsr pretrain")
    return tokenizer, world
