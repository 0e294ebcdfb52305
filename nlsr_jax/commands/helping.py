"""The help of a program: how it is called, its docstring and its own flags; and the reading of its flags.

It takes the place of absl's, which lists the flags of one module alone and ends with status 1.
"""

import re
import sys
import textwrap
from collections.abc import Callable, Sequence

from absl import app, flags

from nlsr_jax.errors import InputError

FLAGS = flags.FLAGS
_PACKAGE = "nlsr_jax.commands."
_DEFAULTS: dict[str, str] = {}
_UNLISTED: set[str] = set()


def tell_default(name: str, text: str) -> None:
    """Let the help say what a flag is by default, where that depends on other flags."""
    _DEFAULTS[name] = text


def leave_out(*names: str) -> None:
    """Leave flags out of the help: those that the program shares with another one and does not take."""
    _UNLISTED.update(names)


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Read the flags; a help flag prints the help and ends the program with status 0.

    Args:
      arguments: the command line with the program's name.

    Returns:
      The arguments that are not flags.

    Raises:
      InputError: a flag that is not known or has a value that it cannot have.
    """
    _define_help_flags()
    try:
        return FLAGS(list(arguments))
    except flags.UnrecognizedFlagError as error:
        raise InputError(f"{_unknown(error.flagname)}{_program()} --help lists the flags") from None
    except flags.Error as error:
        text = re.sub(r"\('(.*)', '.*'\)$", r"\1", " ".join(str(error).split()))  # how absl puts its own errors
        text = re.sub(r"^flag (--\w+)=None: Flag .* must have a value other than None\.$", r"\1 is missing", text)
        raise InputError(f"{text}; {_program()} --help lists the flags") from None


class _Help(flags.BooleanFlag):
    """A flag that prints a text where the command line is read."""

    def __init__(self, name: str, what: str, text: Callable[[], str]):
        super().__init__(name, False, what, allow_override=True, allow_hide_cpp=True)
        self._text = text

    def parse(self, argument) -> None:
        if self._parse(argument):
            print(self._text())
            sys.exit(0)


def _define_help_flags() -> None:
    if "h" in FLAGS:
        return
    app.define_help_flags()
    for name in ("help", "helpshort", "h", "?"):
        flags.DEFINE_flag(_Help(name, "show this help", short_help), module_name="absl.app")
    flags.DEFINE_flag(_Help("helpfull", "show all flags", full_help), module_name="absl.app")


def short_help() -> str:
    """Return how the program is called, its docstring, and the flags of this project's modules."""
    return f"{_described()}\n{_listed(ours=True)}\n\n--helpfull lists absl's flags too."


def full_help() -> str:
    """Return the short help with the flags of absl."""
    return f"{_described()}\n{_listed(ours=True)}\n\nflags of absl:\n{_listed(ours=False)}"


def _described() -> str:
    text = (sys.modules["__main__"].__doc__ or "").strip()
    return f"usage: {_program()} [flags]\n\n{text}\n\nflags:"


def _program() -> str:
    """How the main module is called."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = "" if spec is None else spec.name
    return f"nlsr {name.removeprefix(_PACKAGE)}" if name.startswith(_PACKAGE) else f"python -m {name or 'MODULE'}"


def _listed(*, ours: bool) -> str:
    """Flags in the order of their definition, with what they are and what they are by default."""
    return "\n".join(_line(FLAGS[name]) for name in _names(ours=ours))


def _names(*, ours: bool) -> list[str]:
    """Names of the flags in the order of their definition."""
    names = [name for name in FLAGS.flag_values_dict() if FLAGS.find_module_defining_flag(name) is not None]
    return [name for name in names if _is_ours(name) == ours and name not in _UNLISTED]


def _unknown(name: str) -> str:
    """Say that a flag does not exist, and which one may be meant."""
    import difflib

    near = difflib.get_close_matches(name, _names(ours=True), n=1)
    return f"--{name} is not a flag of {_program()}; " + (f"did you mean --{near[0]}? " if near else "")


def _is_ours(name: str) -> bool:
    return not str(FLAGS.find_module_defining_flag(name)).startswith("absl.")


def _line(flag: flags.Flag) -> str:
    name = f"[no]{flag.name}" if flag.boolean else flag.name
    default = "" if flag.default_as_str is None else f" (default: {flag.default_as_str})"
    default = f" ({_DEFAULTS[flag.name]})" if flag.name in _DEFAULTS else default
    return textwrap.fill(
        f"--{name}: {' '.join((flag.help or '').split())}{default}",
        width=max(40, flags.get_help_width()),
        initial_indent="  ",
        subsequent_indent="      ",
        break_on_hyphens=False,
        break_long_words=False,
    )
