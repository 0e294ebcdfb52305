"""Checked reading of single fields of a ``config.json``."""

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import positive, short, whole

__all__ = ["flag", "positive", "short", "whole"]


def flag(config: dict, name: str, where: str) -> bool:
    """Return a boolean field, False where it is absent or null, or raise InputError."""
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{where}: {name} is {short(value)}; expected true or false")
    return bool(value)
