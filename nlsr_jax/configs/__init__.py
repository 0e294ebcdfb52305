"""One module per published row, and the built-in default, each with ``get_config()``."""

import importlib
import pathlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nlsr_jax.data.given import Given
from nlsr_jax.errors import InputError
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.config_files import Study, is_config_file, read_study
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


def open_world(
    config: StudyConfig,
    place: str,
    *,
    template: Callable[[Tokenizer], str] | None = None,
    given: Given | None = None,
    note: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> tuple[Tokenizer, "World"]:
    """Open the tokenizer of a base and the world of a study.

    Args:
      config: the study.
      place: the base, a directory or hub id.
      template: returns the name of the template for real data; by default the config's.
      given: data sets of the user's; see ``RealWorld``.
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
        return tokenizer, PolicyWorld(tokenizer, given=given, note=note)
    if config.world != "toy":
        name = config.template if template is None else template(tokenizer)
        return tokenizer, RealWorld(tokenizer, name, given=given, note=note, **options)
    world = ToyWorld()
    if tokenizer.get_vocab() != world.tokenizer.get_vocab():
        raise InputError(f"{place}: its tokenizer is not the toy world's; give a base made with nlsr pretrain")
    return tokenizer, world
