"""Checks of settings that their fields say by themselves: choices, ranges, finite numbers."""

import dataclasses
import math
from typing import Any

from nlsr_jax.errors import InputError, argument


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass whose fields were made by ``nlsr_jax.nlsr.settings.setting``.

    What depends on several settings is not checked here.

    Args:
      settings: an instance.

    Raises:
      InputError: naming the first field that cannot be used.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None:
            continue
        expected = _expected(value, **field.metadata)
        if expected is not None:
            shown = "empty" if value == "" else repr(value) if isinstance(value, str) else value
            raise InputError(f"{argument(field.name)} is {shown}; {expected}")


def choices_of(settings: type) -> dict[str, tuple[str, ...]]:
    """Return the choices of the fields of a dataclass that have some."""
    fields = dataclasses.fields(settings)
    return {field.name: field.metadata["choices"] for field in fields if "choices" in field.metadata}


def _expected(
    value: Any,
    choices: tuple[str, ...] | None = None,
    least: float = -math.inf,
    most: float = math.inf,
    within: tuple[float, float] | None = None,
    kind: str = "",
    **_: Any,
) -> str | None:
    """Say what is expected in place of a value; None where it can be used."""
    if choices is not None and value not in choices:
        return f"expected one of {', '.join(choices)}"
    if within is not None and not within[0] < value < within[1]:
        return f"expected a number between {within[0]} and {within[1]}, both excluded"
    if kind == "column" and value == "":
        return "give the name of a column, or leave it out"
    if not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "expected a finite number"
    if not least <= value <= most:
        number = "a number from " if isinstance(value, float) else ""
        return f"expected at least {least}" if math.isinf(most) else f"expected {number}{least} to {most}"
    return None
