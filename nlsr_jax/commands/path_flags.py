"""Flags that are paths: ``~`` in them is the home folder, and what a command reads is known by them."""

from typing import Any

from absl import flags

from nlsr_jax.files.paths import expand_text, is_regular

FLAGS = flags.FLAGS


class _Path(flags.ArgumentParser):
    """Reads a path."""

    def parse(self, argument: str) -> str:
        return expand_text(argument)

    def flag_type(self) -> str:
        return "string"


class _Input(_Path):
    """Reads the path of something that is read, or a hub id."""


class _NameOrInput(_Input):
    """Reads a name, or the path of something that is read, with the function of a file behind a colon."""


class _NamedInput(_Input):
    """Reads ``NAME=PATH``."""

    def parse(self, argument: str) -> str:
        name, sign, path = argument.partition("=")
        return name + sign + expand_text(path)


def define_input(name: str, default: str | None, help_text: str, **options: Any) -> None:
    """Define a flag that names a file, a folder or a hub data set or model that is read."""
    flags.DEFINE(_Input(), name, default, help_text, serializer=flags.ArgumentSerializer(), **options)


def define_name_or_input(name: str, default: str | None, help_text: str) -> None:
    """Define a flag that is a name or names a file that is read (``file.py:function`` too)."""
    flags.DEFINE(_NameOrInput(), name, default, help_text, serializer=flags.ArgumentSerializer())


def define_named_inputs(name: str, help_text: str) -> None:
    """Define a flag ``NAME=PATH`` that may be given several times, of what is read."""
    text = help_text.removesuffix(".")  # absl adds a clause
    flags.DEFINE_multi(_NamedInput(), flags.ArgumentSerializer(), name, [], text)


def define_output(name: str, default: str | None, help_text: str) -> None:
    """Define a flag that names a file or folder to write."""
    flags.DEFINE(_Path(), name, default, help_text, serializer=flags.ArgumentSerializer())


def define_overwrite() -> None:
    """Define the flag that allows an output which exists."""
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists, if nlsr_jax has written all of it.")


def inputs() -> dict[str, str]:
    """Return what this command reads, by its flags."""
    found: dict[str, str] = {}
    for name in FLAGS:
        value = FLAGS[name].value
        if not isinstance(FLAGS[name].parser, _Input) or not value:
            continue
        if isinstance(FLAGS[name].parser, _NameOrInput):
            place = value.partition(".py:")[0] + ".py" if ".py:" in value else value
            found |= {f"--{name}": place} if is_regular(place) else {}
        elif isinstance(FLAGS[name].parser, _NamedInput):
            found |= {f"--{name} {text.partition('=')[0]}": text.partition("=")[2] for text in value}
        else:
            found[f"--{name}"] = value
    return found
