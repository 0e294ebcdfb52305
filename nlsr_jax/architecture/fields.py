"""Checked reading of single fields of a ``config.json``."""

from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import positive, short, whole

__all__ = ["cap", "check_architectures", "flag", "positive", "short", "whole"]


def flag(config: dict, name: str, where: str) -> bool:
    """Return a boolean field, False where it is absent or null, or raise InputError."""
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{where}: {name} is {short(value)}; expected true or false")
    return bool(value)


def check_architectures(config: dict, known: tuple[str, ...], where: str) -> None:
    """Raise InputError unless ``architectures`` names nothing but known classes."""
    named = config.get("architectures") or []
    for name in named if isinstance(named, list) else [named]:
        if name not in known:
            raise InputError(f"{where}: architecture {short(name)}; expected {known[0]}")


def cap(config: dict, name: str, default: float | None, where: str) -> float | None:
    """Return a soft cap; None for none, and where the default is 0 and the field is not read."""
    if default == 0:
        return None
    value = config.get(name, default)
    return None if value is None else positive(value, name, where)
