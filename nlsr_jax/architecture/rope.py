"""Rotary position embedding: its settings in a ``config.json``, and the frequencies they mean."""

import dataclasses

import numpy as np

from nlsr_jax.architecture.fields import positive, short, whole
from nlsr_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary embedding: base ``theta``, and the frequency scaling of Llama 3.1 or a linear factor."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


def parse_rope(config: dict, max_length: int, where: str) -> Rope:
    """Read ``rope_theta`` and ``rope_scaling``, or the ``rope_parameters`` that newer configs nest them in.

    Where both are given, ``rope_scaling`` counts, as in transformers.

    Args:
      config: the JSON object of a ``config.json``.
      max_length: its ``max_position_embeddings``.
      where: its file, for messages.

    Returns:
      A ``Rope``.

    Raises:
      InputError: a kind of scaling that is not supported, or a value that makes no sense.
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise InputError(f"{where}: rope_scaling is {short(scaling)}; expected an object")
    for name, value in scaling.items():
        if isinstance(value, dict):
            raise InputError(
                f"{where}: rope_parameters differ between layers ({short(name)}), which is not supported"
            )
    partial = scaling.get("partial_rotary_factor")
    if partial is not None and partial != 1:
        raise InputError(f"{where}: partial_rotary_factor is {short(partial)}; expected 1")
    theta = positive(scaling.get("rope_theta", config.get("rope_theta", 10000.0)), "rope_theta", where)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, positive(scaling.get("factor"), "rope_scaling factor", where))
    if kind == "llama3":
        return _parse_llama3(config, scaling, theta, max_length, where)
    raise InputError(f"{where}: rope type {short(kind)} is not supported; expected default, linear or llama3")


def _parse_llama3(config, scaling, theta, max_length, where) -> Rope:
    names = ("factor", "low_freq_factor", "high_freq_factor")
    numbers = {name: positive(scaling.get(name), f"rope_scaling {name}", where) for name in names}
    if numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        raise InputError(f"{where}: rope_scaling low_freq_factor must be below high_freq_factor")
    # A length beside the scaling comes first: transformers overwrites the nested one with it.
    name = "original_max_position_embeddings"
    length = config.get(name, scaling.get(name, max_length))
    return Rope(theta, "llama3", **numbers, original_length=whole(length, name, where))


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Return the rotary frequencies ``[H/2]`` float32, scaled as the config asks.

    Source: Llama 3.1 reference code for ``llama3``: wavelengths beyond ``original / low`` are stretched by
    ``factor``, those below ``original / high`` kept, between the two interpolated.
    """
    frequency = 1.0 / rope.theta ** (np.arange(0, head_dim, 2) / head_dim)
    if rope.kind == "linear":
        frequency = frequency / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_length * frequency / (2 * np.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = np.clip(smooth, 0, 1)
        frequency = (1 - smooth) * frequency / rope.factor + smooth * frequency
    return frequency.astype(np.float32)
