"""Which modules of a Llama-family model a LoRA config adapts, with which rank and scaling.

The rules are PEFT's, applied to the module paths of such a model.
"""

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft_config import LoraConfig
from nlsr_jax.formats.peft_matching import Matcher, endings
from nlsr_jax.modules import MODULES

_ANY_LAYER = r".*?\.[^.]*\.(?P<idx>\d+)\."


class Target(NamedTuple):
    """Rank and scaling of one adapted projection of one decoder layer."""

    rank: int
    scaling: float


class Targets(NamedTuple):
    """What a config adapts.

    Attributes:
      modules: ``{module: {layer: Target}}``.
      unmatched: names in ``target_modules`` that no module of the model has (PEFT ignores them).
      carried: ``{path: Target}`` of other modules that have factors.
    """

    modules: dict[str, dict[int, Target]]
    unmatched: tuple[str, ...]
    carried: Mapping[str, Target] = types.MappingProxyType({})


def module_path(layer: int, module: str, prefix: str = "model.") -> str:
    """Return the path of a projection in a transformers model, as ``model.layers.0.mlp.up_proj``."""
    return f"{prefix}layers.{layer}.{'self_attn' if module[0] in 'qkvo' else 'mlp'}.{module}"


def _other_paths(num_layers: int, prefix: str) -> list[str]:
    """Paths of the modules that LoRA factors of an ``Adapter`` cannot stand for."""
    names = ("self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm")
    inside = [f"{prefix}layers.{i}.{name}" for i in range(num_layers) for name in names]
    whole = ["lm_head", f"{prefix}embed_tokens", f"{prefix}norm", f"{prefix}rotary_emb", f"{prefix}layers"]
    outside = [prefix.removesuffix(".")] if prefix else []
    return whole + outside + [f"{prefix}layers.{i}" for i in range(num_layers)] + inside


def select_targets(
    config: LoraConfig,
    num_layers: int,
    where: str,
    prefix: str = "model.",
    others: Iterable[str] = (),
    following: Iterable[str] = (),
) -> Targets:
    """Select the projections that a config adapts, as PEFT does on a Llama-family model.

    Args:
      config: the parsed config.
      num_layers: decoder layers of the model.
      where: the config's file, for messages.
      prefix: what stands before ``layers`` in the model's module paths.
      others: paths of modules that are no projections of the decoder and that there are factors of.
      following: paths among these that are adapted with another module, whatever the config says of them.

    Returns:
      A ``Targets``.

    Raises:
      InputError: it adapts something that is neither a projection nor among ``others``, nothing at all, or its
        regular expressions are wrong or too slow.
    """
    linear = config.all_linear
    if config.all_linear:
        # Every linear layer but the output head, which leaves the projections.
        config = dataclasses.replace(config, targets=MODULES)
    selector = _Selector(config, where)
    found: dict[str, dict[int, Target]] = {}
    for module in MODULES:
        for layer in range(num_layers):
            path = module_path(layer, module, prefix)
            if selector.selects(path):
                found.setdefault(module, {})[layer] = selector.target(path)
    carried = {
        path: selector.target(path)
        for path in others
        if path in following or selector.selects(path) or (linear and not path.endswith("lm_head"))
    }
    for path in _other_paths(num_layers, prefix):
        if path not in carried and selector.selects(path):
            raise InputError(
                f"{where}: target_modules adapts {path}, which is none of the projections {', '.join(MODULES)}, "
                "and of which there are no factors; the config belongs to another adapter"
            )
    if not found:
        raise InputError(
            f"{where}: target_modules {str(config.targets)[:120]} matches no projection of a Llama-family model "
            f"of {num_layers} layers"
        )
    return Targets(found, () if linear else _unmatched(config, found, prefix, carried), carried)


class _Selector:
    """One config's rules: names are looked up, expressions go through the matcher."""

    def __init__(self, config: LoraConfig, where: str):
        self._config, self._where, self._matcher = config, where, Matcher(where)
        self._targets = _as_set(config.targets)
        self._exclude = _as_set(config.exclude)

    def selects(self, path: str) -> bool:
        """Whether PEFT adapts the module at ``path``."""
        if self._config.exclude and self._named(self._exclude, path):
            return False
        if not self._named(self._targets, path):
            return False
        # PEFT does not look at the layer of a module that is named by its whole path.
        whole = isinstance(self._targets, frozenset) and path in self._targets
        return whole or self._config.layers is None or self._in_layers(path)

    def target(self, path: str) -> Target:
        """Rank and scaling of the module at ``path``: the first pattern that matches, or the default."""
        rank = self._by_pattern(self._config.rank_pattern, path, self._config.rank)
        alpha = self._by_pattern(self._config.alpha_pattern, path, self._config.alpha)
        return Target(rank, alpha / math.sqrt(rank) if self._config.rslora else alpha / rank)

    def _named(self, names: frozenset[str] | str, path: str) -> bool:
        if isinstance(names, str):
            return bool(self._matcher.fullmatch(names, path))
        return not names.isdisjoint(endings(path))

    def _in_layers(self, path: str) -> bool:
        patterns = [rf"(?:^|.*?\.){name}\.(?P<idx>\d+)\." for name in self._config.layers_pattern]
        for pattern in patterns or [_ANY_LAYER]:
            match = self._matcher.match(pattern, path)
            if match:
                return self._layer(match, path) in (self._config.layers or ())
        return False

    def _layer(self, match, path: str) -> int:
        try:
            return int(match["idx"])
        except (IndexError, TypeError, ValueError):  # a part of the expression that hides the number
            raise InputError(f"{self._where}: layers_pattern finds no layer number in {path}") from None

    def _by_pattern(self, pattern: tuple[tuple[str, Any], ...], path: str, default):
        for key, value in pattern:
            if self._matcher.match(rf"(.*\.)?({key})$", path):
                return value
        return default


def _as_set(names: tuple[str, ...] | str) -> frozenset[str] | str:
    return names if isinstance(names, str) else frozenset(names)


def _unmatched(config: LoraConfig, found, prefix: str, carried: Iterable[str]) -> tuple[str, ...]:
    if isinstance(config.targets, str):
        return ()
    paths = [module_path(layer, module, prefix) for module, layers in found.items() for layer in layers]
    paths += carried
    matched = {name for path in paths for name in endings(path)}
    return tuple(name for name in config.targets if name not in matched)
