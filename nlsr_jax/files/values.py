"""Convert values from outside to the type of the setting, or refuse them in one line."""

import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import is_number, short


def convert(name: str, value: Any, kind: Any) -> Any:
    """Return a value of JSON as a setting of a type: ``0`` for a float becomes ``0.0``, a list a tuple.

    Args:
      name: of the setting, for the error.
      value: the value.
      kind: ``bool``, ``int``, ``float``, ``str``, a tuple of one of the last three, or one of them or None.

    Raises:
      InputError: a value of another kind, or a number that is not finite.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        return None if value is None else convert(name, value, kinds[0])
    if typing.get_origin(kind) is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(convert(name, one, typing.get_args(kind)[0]) for one in value)
        parts = {int: "whole numbers", str: "texts", float: "numbers"}[typing.get_args(kind)[0]]
        raise InputError(f"setting {name} is {short(value)}; expected a list of {parts}")
    if kind is float and is_number(value) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is not float and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    raise InputError(f"setting {name} is {short(value)}; expected {words[kind]}")
