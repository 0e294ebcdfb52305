"""A file of a command's settings, by the names of its flags: TOML or JSON. Flags that are given come first.

A file that is also a study's config (it has ``from``) holds the settings in a table of the command's name.
"""

import sys
from typing import Any

from absl import flags

from nlsr_jax.commands import path_flags
from nlsr_jax.errors import InputError, argument

FLAGS = flags.FLAGS
_ONE_RUN = (
    "config",
    "output",
    "overwrite",
    "from_record",
    "distributed",
    "coordinator",
    "processes",
    "process",
)


def define_settings_file(command: str) -> None:
    """Define the flag of the file.

    Args:
      command: ``realign`` or ``identify``.
    """
    path_flags.define_input(
        "config",
        None,
        f"File of settings (.toml, .json) by the names of flags, in a table [{command}] or alone; flags that are "
        "given come first.",
    )


def apply_settings_file(command: str, *, studies: bool = False) -> None:
    """Set the flags that the file names and the command line does not.

    Args:
      command: ``realign``, ``identify`` or ``check``.
      studies: whether the flag may name a study that is built in, which holds no settings of a command.

    Raises:
      InputError: if the file cannot be read, names no setting of this command, or has a value of another type; the
        message names file and setting.
    """
    from nlsr_jax import configs
    from nlsr_jax.files.paths import expand
    from nlsr_jax.study.config_files import SUFFIXES, read_table

    if not FLAGS.config or ("check" in FLAGS and FLAGS.check and FLAGS.config in configs.names()):
        return
    if studies and not is_settings_file(FLAGS.config):
        return
    if not is_settings_file(FLAGS.config):
        raise InputError(
            f"{argument('config')} is {FLAGS.config!r}; expected a file of settings, {', '.join(SUFFIXES)}"
        )
    values = read_table(expand(FLAGS.config))
    if command in values or "from" in values:
        values = values.get(command, {})
    known = [name for name in FLAGS.flag_values_dict() if _is_ours(name) and name not in _ONE_RUN]
    if not isinstance(values, dict):
        raise InputError(f"{FLAGS.config}: {command} is {values!r}; expected a table of settings")
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{FLAGS.config}: no setting {name!r}; expected some of {', '.join(known)}")
        if not FLAGS[name].present:
            _set(FLAGS[name], value)


def is_settings_file(name: str) -> bool:
    """Return whether the value of the flag names a file, and no study."""
    from nlsr_jax.study.config_files import is_config_file

    return is_config_file(name)


def names_study(name: str | None) -> bool:
    """Return whether the value of the flag names a study, built in or in a file with ``from``."""
    from nlsr_jax.files.paths import expand
    from nlsr_jax.study.config_files import read_table

    return name is not None and (not is_settings_file(name) or "from" in read_table(expand(name)))


def _is_ours(name: str) -> bool:
    """Return whether a flag is of a module of this project, or of the program itself."""
    module = str(FLAGS.find_module_defining_flag(name))
    return module == sys.argv[0] or module.startswith("nlsr_jax.")


def _set(flag: flags.Flag, value: Any) -> None:
    """Set a flag as the command line would."""
    kind = flag.flag_type()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "bool": isinstance(value, bool),
        "float": number,
        "int": number and isinstance(value, int),
        "comma separated list of strings": isinstance(value, list),
    }.get(kind, isinstance(value, str))
    words = {"bool": "true or false", "float": "a number", "int": "a whole number"}
    expected = words.get(kind, "a list" if "list" in kind else "text")
    text: Any = ",".join(map(str, value)) if isinstance(value, list) else value
    try:
        if not fits:
            raise ValueError
        given: Any = text if isinstance(text, str | bool) else repr(text)
        flag.value = flag.parser.parse(given)
    except (ValueError, TypeError) as error:
        more = f" ({error})" if str(error) else ""
        raise InputError(f"{FLAGS.config}: {flag.name} is {value!r:.60}; expected {expected}{more}") from None
    flag.present += 1
    flag.using_default_value = False
