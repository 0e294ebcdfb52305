"""Attention windows: which layers attend to the latest positions only, as a ``config.json`` says."""

from nlsr_jax.architecture.family import WindowRule
from nlsr_jax.architecture.fields import flag, short, whole
from nlsr_jax.errors import InputError

_KINDS = ("full_attention", "sliding_attention")


def parse_window(
    config: dict, rule: WindowRule | None, layers: int, where: str
) -> tuple[int | None, tuple[bool, ...]]:
    """Return the attention window and the layers that use it; None and no layers where none does.

    Args:
      config: the JSON object of a ``config.json``.
      rule: of the family; None where it reads no window.
      layers: how many decoder layers there are.
      where: the file, for messages.

    Raises:
      InputError: a field that makes no sense.
    """
    if rule is None:
        return None, ()
    size = config.get("sliding_window", rule.default)
    if rule.flagged and not flag(config, "use_sliding_window", where):
        size = None
    if size is not None:
        size = whole(size, "sliding_window", where)
    if rule.layers == "all":
        windowed = (size is not None,) * layers
    else:
        listed = _listed(config, layers, where)
        windowed = _by_rule(config, rule, size, layers, where) if listed is None else listed
    if size is None and any(windowed):
        raise InputError(f"{where}: layer_types has sliding_attention, but no sliding_window is in use")
    return (size, windowed) if any(windowed) else (None, ())


def _listed(config, layers, where) -> tuple[bool, ...] | None:
    """Return which layers ``layer_types`` gives a window; None where it is absent."""
    types = config.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != layers or any(kind not in _KINDS for kind in types):
        raise InputError(f"{where}: layer_types is {short(types)}; expected {layers} of {' or '.join(_KINDS)}")
    return tuple(kind == _KINDS[1] for kind in types)


def _by_rule(config, rule: WindowRule, size, layers, where) -> tuple[bool, ...]:
    if rule.layers == "periodic":
        period = rule.period
        if rule.period_field is not None:
            period = whole(config.get(rule.period_field, period), rule.period_field, where)
        return tuple((i + 1) % period != 0 for i in range(layers))
    first = config.get("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        raise InputError(f"{where}: max_window_layers is {short(first)}; expected a whole number")
    return tuple(size is not None and i >= first for i in range(layers))
