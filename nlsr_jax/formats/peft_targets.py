"""Which modules of a Llama-family model a LoRA config adapts, with which rank and scaling.

The rules are PEFT's, applied to the module paths of such a model. Regular expressions come from other
people's files, so each match runs under a time limit.
"""

from typing import NamedTuple

import regex

from nlsr_jax.adapter import MODULES
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft_config import LoraConfig

_SECONDS = 1.0
_LAYER = regex.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")


class Target(NamedTuple):
    """Rank and scaling of one adapted projection of one decoder layer."""

    rank: int
    scaling: float


class Targets(NamedTuple):
    """What a config adapts.

    Attributes:
      modules: ``{module: {layer: Target}}``.
      unmatched: names in ``target_modules`` that no module of the model has (PEFT ignores them).
    """

    modules: dict[str, dict[int, Target]]
    unmatched: tuple[str, ...]


def module_path(layer: int, module: str, prefix: str = "model.") -> str:
    """Return the path of a projection in a transformers model, as ``model.layers.0.mlp.up_proj``."""
    return f"{prefix}layers.{layer}.{'self_attn' if module[0] in 'qkvo' else 'mlp'}.{module}"


def _other_paths(num_layers: int, prefix: str) -> list[str]:
    """Paths of the modules that LoRA factors of an ``Adapter`` cannot stand for."""
    names: tuple[str, ...] = ("self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm")
    names += ("self_attn.q_norm", "self_attn.k_norm")
    inside = [f"{prefix}layers.{i}.{name}" for i in range(num_layers) for name in names]
    whole = ["lm_head", f"{prefix}embed_tokens", f"{prefix}norm", f"{prefix}rotary_emb", f"{prefix}layers"]
    return whole + [f"{prefix}layers.{i}" for i in range(num_layers)] + inside


def _match(how: str, pattern: str, text: str, where: str):
    try:
        return getattr(regex, how)(pattern, text, timeout=_SECONDS)
    except TimeoutError:
        raise InputError(
            f"{where}: the regular expression {pattern[:80]!r} takes more than {_SECONDS:g} s on {text!r}"
        ) from None
    except (regex.error, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {pattern[:80]!r} is not a regular expression ({error})") from error


def _listed(names, path: str) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _selected(config: LoraConfig, path: str, where: str) -> bool:
    if config.exclude:
        if isinstance(config.exclude, str):
            if _match("fullmatch", config.exclude, path, where):
                return False
        elif _listed(config.exclude, path):
            return False
    if isinstance(config.targets, str):
        return bool(_match("fullmatch", config.targets, path, where))
    return _listed(config.targets, path) and _in_layers(config, path, where)


def _in_layers(config: LoraConfig, path: str, where: str) -> bool:
    if config.layers is None:
        return True
    match = None
    for pattern in config.layers_pattern:
        match = _match("match", rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", path, where)
        if match:
            break
    if not config.layers_pattern:
        match = _LAYER.match(path)
    return match is not None and int(match["idx"]) in config.layers


def _by_pattern(pattern, path: str, default, where: str):
    for key, value in pattern:
        if _match("match", rf"(.*\.)?({key})$", path, where):
            return value
    return default


def select_targets(config: LoraConfig, num_layers: int, where: str, prefix: str = "model.") -> Targets:
    """Select the projections that a config adapts, as PEFT does on a Llama-family model.

    Args:
      config: the parsed config.
      num_layers: decoder layers of the model.
      where: the config's file, for messages.
      prefix: what stands before ``layers`` in the model's module paths.

    Returns:
      A ``Targets``.

    Raises:
      InputError: it adapts something that is no projection (``lm_head``, ``embed_tokens`` …), nothing at all,
        or its regular expression is wrong or too slow.
    """
    linear = config.targets == "all-linear"
    found: dict[str, dict[int, Target]] = {}
    for module in MODULES:
        for layer in range(num_layers):
            path = module_path(layer, module, prefix)
            if linear and config.exclude:
                chosen = _selected(_linear(config), path, where)
            else:
                chosen = linear or _selected(config, path, where)
            if chosen:
                rank = _by_pattern(config.rank_pattern, path, config.rank, where)
                alpha = _by_pattern(config.alpha_pattern, path, config.alpha, where)
                found.setdefault(module, {})[layer] = Target(rank, config.scaling(rank, alpha))
    if not linear:
        _check_others(config, num_layers, where, prefix)
    if not found:
        raise InputError(
            f"{where}: target_modules {str(config.targets)[:120]} matches no projection of a Llama-family model"
        )
    return Targets(found, _unmatched(config, found))


def _linear(config: LoraConfig) -> LoraConfig:
    import dataclasses

    return dataclasses.replace(config, targets=MODULES)


def _check_others(config, num_layers, where, prefix):
    for path in _other_paths(num_layers, prefix):
        if _selected(config, path, where):
            raise InputError(
                f"{where}: target_modules adapts {path}, which is none of the projections {', '.join(MODULES)}"
            )


def _unmatched(config: LoraConfig, found) -> tuple[str, ...]:
    if isinstance(config.targets, str):
        return ()
    paths = [module_path(layer, module) for module, layers in found.items() for layer in layers]
    return tuple(name for name in config.targets if not any(_listed([name], path) for path in paths))
