"""Rotary position embedding: its settings in a ``config.json``, and the frequencies they mean."""

import dataclasses
import math

import numpy as np

from nlsr_jax.architecture.family import Family
from nlsr_jax.architecture.fields import positive, short, whole
from nlsr_jax.errors import InputError

_LENGTH = "original_max_position_embeddings"
_SLIDING, _FULL = "sliding_attention", "full_attention"
_PLAIN = Family("llama", (), {})


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary embedding: its base and how frequencies are scaled.

    Attributes:
      theta: the base.
      kind: ``default``, ``linear``, ``llama3`` or ``longrope``.
      factor: of ``linear`` and ``llama3``.
      low_freq_factor, high_freq_factor: of ``llama3``.
      original_length: length before scaling, of ``llama3`` and ``longrope``.
      short_factors, long_factors: divisors of the frequencies up to the original length and beyond it, of
        ``longrope``.
      amplitude: what cosine and sine are multiplied by.
      partial: the share of a head that is turned.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    amplitude: float = 1.0
    partial: float = 1.0


def parse_rope(config: dict, max_length: int, where: str, family: Family = _PLAIN, head_dim: int = 0) -> Rope:
    """Read ``rope_theta`` and ``rope_scaling``, or the ``rope_parameters`` that newer configs nest them in.

    Where both are given, ``rope_scaling`` counts, as in transformers.

    Args:
      config: the JSON object of a ``config.json``.
      max_length: its ``max_position_embeddings``.
      where: its file, for messages.
      family: what the family takes, and its default base.
      head_dim: H, which ``longrope`` has to match.

    Returns:
      A ``Rope``.

    Raises:
      InputError: a kind of scaling that is not supported, or a value that makes no sense.
    """
    scaling = _settings(config, where)
    for name, value in scaling.items():
        if isinstance(value, dict):
            raise InputError(
                f"{where}: rope_parameters differ between layers ({short(name)}), which is not supported"
            )
    return _parse(config, scaling, config.get("rope_theta", family.rope_theta), max_length, where, family, head_dim)


def parse_two_ropes(config: dict, max_length: int, where: str, family: Family) -> tuple[Rope, Rope]:
    """Read the rotary embeddings of layers that attend to everything and of windowed layers.

    Source: transformers' ``Gemma3TextConfig``: ``rope_scaling`` and ``rope_theta`` are of the former,
    ``rope_local_base_freq`` is of the latter; ``rope_parameters`` nests both by the kind of layer.

    Args:
      config, max_length, where, family: see ``parse_rope``.

    Raises:
      InputError: see ``parse_rope``.
    """
    nested = config.get("rope_parameters") or {}
    if not isinstance(nested, dict) or any(
        not isinstance(nested.get(kind, {}), dict | None) for kind in (_SLIDING, _FULL)
    ):
        raise InputError(f"{where}: rope_parameters is {short(nested)}; expected an object by the kind of layer")
    if nested and not {_SLIDING, _FULL} & set(nested):
        raise InputError(f"{where}: rope_parameters is {short(nested)}; expected {_FULL} and {_SLIDING} in it")
    scaling = config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise InputError(f"{where}: rope_scaling is {short(scaling)}; expected an object")
    found = []
    for kind, own, name, default in (
        (_FULL, scaling, "rope_theta", family.rope_theta),
        (_SLIDING, {}, "rope_local_base_freq", family.local_theta),
    ):
        settings = {**(nested.get(kind) or {}), **own}
        found.append(_parse(config, settings, config.get(name, default), max_length, where, family, 0))
    return found[0], found[1]


def _settings(config: dict, where: str) -> dict:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise InputError(f"{where}: rope_scaling is {short(scaling)}; expected an object")
    return scaling


def _parse(config, scaling, base, max_length, where, family: Family, head_dim) -> Rope:
    theta = positive(scaling.get("rope_theta", base), "rope_theta", where)
    partial = _partial(config, scaling, where, family)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("su", "yarn") and "longrope" in family.rope_kinds:
        kind = "longrope"  # what early configs of Phi-3 call it
    if not isinstance(kind, str) or kind not in family.rope_kinds:
        raise InputError(
            f"{where}: rope type {short(kind)} is not supported; expected {_listed(family.rope_kinds)}"
        )
    if kind == "linear":
        return Rope(theta, kind, positive(scaling.get("factor"), "rope_scaling factor", where))
    if kind == "llama3":
        return _parse_llama3(config, scaling, theta, max_length, where)
    if kind == "longrope":
        return _parse_longrope(config, scaling, theta, max_length, where, family, partial, head_dim)
    return Rope(theta, partial=partial)


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _partial(config, scaling, where, family: Family) -> float:
    value = scaling.get("partial_rotary_factor")
    if family.partial_rotary and value is None:
        value = config.get("partial_rotary_factor")
    if value is None or value == 1:
        return 1.0
    if not family.partial_rotary:
        raise InputError(f"{where}: partial_rotary_factor is {short(value)}; expected 1")
    share = positive(value, "partial_rotary_factor", where)
    if share > 1:
        raise InputError(f"{where}: partial_rotary_factor is {short(value)}; expected at most 1")
    return share


def _parse_llama3(config, scaling, theta, max_length, where) -> Rope:
    names = ("factor", "low_freq_factor", "high_freq_factor")
    numbers = {name: positive(scaling.get(name), f"rope_scaling {name}", where) for name in names}
    if numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        raise InputError(f"{where}: rope_scaling low_freq_factor must be below high_freq_factor")
    # A length beside the scaling comes first: transformers overwrites the nested one with it.
    length = config.get(_LENGTH, scaling.get(_LENGTH, max_length))
    factor, low, high = numbers.values()
    return Rope(theta, "llama3", factor, low, high, original_length=whole(length, _LENGTH, where))


def _parse_longrope(config, scaling, theta, max_length, where, family: Family, partial, head_dim) -> Rope:
    length = whole(config.get(_LENGTH, family.defaults[_LENGTH]), _LENGTH, where)
    count, factors = rotary_width(partial, head_dim) // 2, {}
    for name in ("short_factor", "long_factor"):
        values = scaling.get(name)
        if not isinstance(values, list) or len(values) != count:
            raise InputError(f"{where}: rope_scaling {name} is {short(values)}; expected {count} numbers")
        factors[name] = tuple(positive(value, f"rope_scaling {name}", where) for value in values)
    amplitude = scaling.get("attention_factor")
    if amplitude is None:
        stretch = scaling.get("factor")
        stretch = max_length / length if stretch is None else positive(stretch, "rope_scaling factor", where)
        amplitude = 1.0 if stretch <= 1 or length < 2 else math.sqrt(1 + math.log(stretch) / math.log(length))
    return Rope(
        theta,
        "longrope",
        original_length=length,
        short_factors=factors["short_factor"],
        long_factors=factors["long_factor"],
        amplitude=positive(amplitude, "rope_scaling attention_factor", where),
        partial=partial,
    )


def rotary_width(partial: float, head_dim: int) -> int:
    """Return how many entries of a head are turned."""
    return int(head_dim * partial)


def inverse_frequencies(rope: Rope, head_dim: int, far: bool = False) -> np.ndarray:
    """Return the rotary frequencies float32, half as many as entries of a head are turned.

    Source: Llama 3.1 reference code for ``llama3``: wavelengths beyond ``original / low`` are stretched by
    ``factor``, those below ``original / high`` kept, between the two interpolated. LongRoPE (Ding et al. 2024,
    arXiv 2402.13753) for ``longrope``.

    Args:
      rope: the settings.
      head_dim: H.
      far: whether positions go beyond the original length of ``longrope``.
    """
    width = rotary_width(rope.partial, head_dim)
    frequency = 1.0 / rope.theta ** (np.arange(0, width, 2) / width)
    if rope.kind == "linear":
        frequency = frequency / rope.factor
    if rope.kind == "longrope":
        frequency = frequency / np.asarray(rope.long_factors if far else rope.short_factors)
    if rope.kind == "llama3":
        turns = rope.original_length * frequency / (2 * np.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = np.clip(smooth, 0, 1)
        frequency = (1 - smooth) * frequency / rope.factor + smooth * frequency
    return frequency.astype(np.float32)
