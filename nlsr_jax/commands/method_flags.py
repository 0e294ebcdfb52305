"""Flags made from the fields of settings: name, type, default and help are those of the field."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

from nlsr_jax.commands import path_flags
from nlsr_jax.errors import InputError, argument

FLAGS = flags.FLAGS
_DEFINE: dict[type, Callable[..., Any]] = {
    float: flags.DEFINE_float,
    int: flags.DEFINE_integer,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
    tuple: flags.DEFINE_list,
}
_PLACES = {"path": path_flags.define_input, "name": path_flags.define_name_or_input}


def names_of(settings: type, *, realigns: bool = True) -> tuple[str, ...]:
    """Return the names of the fields that have a flag.

    Args:
      settings: a dataclass whose fields were made by ``nlsr_jax.nlsr.settings.setting``.
      realigns: False for those that identification has.
    """
    found = [field for field in dataclasses.fields(settings) if field.metadata.get("flag", True)]
    return tuple(field.name for field in found if realigns or not field.metadata.get("realigns"))


def define_flags(settings: type, names: Iterable[str], prefix: str = "") -> None:
    """Define the flags of some fields.

    Args:
      settings: a dataclass whose fields were made by ``nlsr_jax.nlsr.settings.setting``.
      names: of its fields.
      prefix: of the flags.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for name in names:
        field = fields[name]
        if (define := _PLACES.get(field.metadata.get("kind", ""))) is not None:
            define(prefix + name, None, field.metadata["help"])
        else:
            _DEFINE[_type(field)](prefix + name, field.default, field.metadata["help"])


def values_of(settings: type, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of the flags of some fields, as the fields take them."""
    fields = {field.name: field for field in dataclasses.fields(settings)}
    lists = {name for name in names if _type(fields[name]) is tuple}
    return {name: _numbers(name, FLAGS[name].value) if name in lists else FLAGS[name].value for name in names}


def _type(field: dataclasses.Field) -> type:
    """The type of a field's values beside None."""
    kinds = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    (kind,) = (kind for kind in kinds if kind is not types.NoneType)
    return typing.get_origin(kind) or kind


def _numbers(name: str, texts: list[str] | None) -> tuple[int, ...] | None:
    """Read numbers and ranges: ``["8-11", "20"]`` → (8, 9, 10, 11, 20)."""
    if texts is None:
        return None
    found: set[int] = set()
    for text in texts:
        first, dash, last = text.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(text) > 20:
            raise InputError(f"{argument(name)} has {text!r}; expected numbers or ranges such as 8,9 or 8-11")
        span = range(int(first), int(last if dash else first) + 1)
        if not span or span[-1] > 10_000:
            raise InputError(f"{argument(name)} has {text!r}; expected a range that rises, such as 8-11")
        found |= set(span)
    return tuple(sorted(found))
