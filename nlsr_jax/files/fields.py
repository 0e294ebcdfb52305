"""Checks of single fields of JSON files: errors name the file, the field, what it holds and what was expected."""

from typing import Any

from nlsr_jax.errors import InputError

_LARGEST = 2**31 - 1


def short(value: Any, most: int = 80) -> str:
    """Return a value as a message shows it, in at most ``most`` characters.

    >>> short("a" * 100, 10)
    "'aaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def unexpected(value: Any, name: str, where: str, expected: str) -> InputError:
    """Return the error of a field that holds something else than it should.

    Args:
      value: what the field holds.
      name: of the field.
      where: its file.
      expected: what was expected.
    """
    return InputError(f"{where}: {name} is {short(value)}; expected {expected}")


def is_whole(value: Any, least: int = 1, largest: int = _LARGEST) -> bool:
    """Say whether a value is a whole number in a range; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest


def is_number(value: Any) -> bool:
    """Say whether a value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(value: Any, name: str, where: str, largest: int = _LARGEST) -> int:
    """Return a whole number from 1 on; raise InputError that names the field and the file."""
    if not is_whole(value, 1, largest):
        raise unexpected(value, name, where, f"a whole number from 1 to {largest}")
    return value


def positive(value: Any, name: str, where: str) -> float:
    """Return a positive number as float; raise InputError that names the field and the file."""
    if not is_number(value) or not 0 < value < 1e30:
        raise unexpected(value, name, where, "a positive number")
    return float(value)


def factor(value: Any, name: str, where: str) -> float:
    """Return a number to multiply by, unchanged; raise InputError that names the field and the file."""
    if not is_number(value) or not 1e-30 < abs(value) < 1e30:
        raise unexpected(value, name, where, "a finite number other than 0")
    return value
