"""Which modules a LoRA config adapts, with which rank and scaling.

The rules are PEFT's, applied to module paths: those of a model, or those that a file holds factors of.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft_config import LoraConfig
from nlsr_jax.formats.peft_keys import WRAPPER, Stack
from nlsr_jax.formats.peft_matching import Matcher, endings
from nlsr_jax.modules import MODULES, module_order, path_in_layer, slice_of

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
    """

    modules: dict[str, dict[int, Target]]
    unmatched: tuple[str, ...]


class InFile(NamedTuple):
    """What a config says about the modules of which a file holds factors.

    Attributes:
      modules: ``{module: {layer: Target}}`` of those that it adapts.
      unselected: ``(module, layer)`` of the first that it does not adapt; None where it adapts all.
      absent: ``{module: layers}`` of projections that it adapts and the file has no factors of.
      unmatched: names in ``target_modules`` that no module of the file has.
      carried: ``{path: Target}`` of other modules that it adapts and the file has factors of.
    """

    modules: dict[str, dict[int, Target]]
    unselected: tuple[str, int] | None
    absent: dict[str, tuple[int, ...]]
    unmatched: tuple[str, ...]
    carried: Mapping[str, Target] = types.MappingProxyType({})


class Others(NamedTuple):
    """Modules other than the linear layers of the decoder layers, by their paths.

    Attributes:
      factored: those that a file holds factors of.
      following: those of them that are adapted with another module, whatever the config says.
    """

    factored: tuple[str, ...] = ()
    following: tuple[str, ...] = ()


_MODEL = Stack("model.", "layers")
_NO_OTHERS = Others()


def module_path(layer: int, module: str, stack: Stack = _MODEL) -> str:
    """Return the path of a module in a transformers model, such as ``model.layers.0.mlp.up_proj``."""
    return f"{stack.prefix}{stack.name}.{layer}.{path_in_layer(module)}"


def _other_paths(num_layers: int, stack: Stack) -> list[str]:
    """Return the paths of modules whose LoRA factors an ``Adapter`` cannot hold."""
    prefix = stack.prefix
    layers = f"{prefix}{stack.name}"
    names = ("self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm")
    inside = [f"{layers}.{i}.{name}" for i in range(num_layers) for name in names]
    whole = ["lm_head", f"{prefix}embed_tokens", f"{prefix}norm", f"{prefix}rotary_emb", layers]
    outside = [prefix.removesuffix(".")] if prefix else []
    return whole + outside + [f"{layers}.{i}" for i in range(num_layers)] + inside


def _check_others(
    selector: "_Selector", num_layers: int, stack: Stack, where: str, factored: Iterable[str]
) -> None:
    known = {*factored, *(_nesting(stack) + path for path in factored)}
    for path in _other_paths(num_layers, stack):
        if path not in known and selector.selects(path):
            raise InputError(
                f"{where}: target_modules adapts {path}, which is not a linear layer of a decoder layer; take it "
                "out of target_modules if the file has no factors of it"
            )


def _nesting(stack: Stack) -> str:
    """PEFT's wrappers before the paths of a nested model."""
    count = 0
    while stack.prefix.startswith(WRAPPER * (count + 1)):
        count += 1
    return WRAPPER * count


def _select_others(selector: "_Selector", others: Others, stack: Stack, linear: bool) -> dict[str, Target]:
    """Return what a config says about modules outside the decoder layers, by paths nested as the stack is."""
    nested = _nesting(stack)
    return {
        path: selector.target(nested + path)
        for path in others.factored
        if path in others.following
        or selector.selects(nested + path)
        or (linear and path.rpartition(".")[2] != "lm_head")
    }


def select_in_file(
    config: LoraConfig, found: Mapping[str, Iterable[int]], stack: Stack, where: str, others: Others = _NO_OTHERS
) -> InFile:
    """Apply a config to the modules of which a file holds factors; the tensors say which there are.

    Args:
      config: the parsed config.
      found: ``{module: layers}`` of the file.
      stack: the list of layers that they are of.
      where: the config's file, for messages.
      others: further modules that the file holds factors of.

    Returns:
      An ``InFile``.

    Raises:
      InputError: the config adapts something that is no linear layer, or its regular expressions are wrong or slow.
    """
    paths = {(m, i): module_path(i, m, stack) for m, layers in found.items() for i in layers}
    everything = config.all_linear
    if everything:
        # Every linear layer but the output head: what the file has, in whichever layers.
        config = dataclasses.replace(config, targets=tuple(path_in_layer(module) for module in found))
    selector = _Selector(config, where)
    modules: dict[str, dict[int, Target]] = {}
    unselected = None
    for (module, layer), path in paths.items():
        if selector.selects(path):
            modules.setdefault(module, {})[layer] = selector.target(path)
        else:
            unselected = unselected or (module, layer)
    count = 1 + max(layer for _, layer in paths)
    carried = _select_others(selector, others, stack, everything)
    _check_others(selector, count, stack, where, others.factored)
    absent = {}
    for module in sorted({*MODULES, *found}, key=module_order):
        missing = [i for i in range(count) if (module, i) not in paths]
        layers = [i for i in missing if selector.selects(module_path(i, module, stack))]
        if layers:
            absent[module] = tuple(layers)
    unmatched = () if everything else _unmatched(config, [*paths.values(), *carried])
    return InFile(modules, unselected, absent, unmatched, carried)


def select_targets(
    config: LoraConfig,
    num_layers: int,
    where: str,
    prefix: str = "model.",
    others: Others = _NO_OTHERS,
    modules: Sequence[str] = MODULES,
) -> Targets:
    """Select the projections that a config adapts, as PEFT does on a model that has these in every layer.

    Args:
      config: the parsed config.
      num_layers: decoder layers of the model.
      where: the config's file, for messages.
      prefix: what stands before ``layers`` in the model's module paths.
      others: further modules that there are factors of.
      modules: the projections of a decoder layer.

    Returns:
      A ``Targets``.

    Raises:
      InputError: it adapts something that is neither a projection nor among ``others``, nothing at all, or its
        regular expressions are wrong or too slow.
    """
    if config.all_linear:
        # Every linear layer but the output head, which leaves the projections.
        config = dataclasses.replace(config, targets=tuple(name for name in modules if not slice_of(name)))
    selector, stack = _Selector(config, where), Stack(prefix, "layers")
    found: dict[str, dict[int, Target]] = {}
    for module in modules:
        for layer in range(num_layers):
            path = module_path(layer, module, stack)
            if selector.selects(path):
                found.setdefault(module, {})[layer] = selector.target(path)
    _check_others(selector, num_layers, stack, where, others.factored)
    if not found:
        raise InputError(
            f"{where}: target_modules {str(config.targets)[:120]} matches no projection of a model of {num_layers} "
            f"layers that have {', '.join(modules)}"
        )
    paths = [module_path(layer, module, stack) for module, layers in found.items() for layer in layers]
    paths += others.factored
    return Targets(found, () if config.all_linear else _unmatched(config, paths))


def rank_rule(config: LoraConfig, where: str) -> Callable[[str], int]:
    """Return the function from a module's path to its rank.

    Args:
      config: the parsed config.
      where: the config's file, for messages.
    """
    selector = _Selector(config, where)
    return lambda path: selector.target(path).rank


class _Selector:
    """The rules of one config: names are looked up, expressions go through the matcher."""

    def __init__(self, config: LoraConfig, where: str):
        self._config, self._where, self._matcher = config, where, Matcher(where)
        self._targets, self._parameters = _as_set(config.targets), frozenset(config.parameters)
        self._exclude = _as_set(config.exclude)

    def selects(self, path: str) -> bool:
        """Say whether PEFT adapts the module at ``path``, or a parameter of which it is a slice or the weight."""
        if self._names_parameter(path):
            return True
        return not slice_of(path) and self._selects_module(path)

    def _names_parameter(self, path: str) -> bool:
        return bool(self._parameters) and not self._parameters.isdisjoint(endings(_parameter(path)))

    def _selects_module(self, path: str) -> bool:
        if self._config.exclude and self._named(self._exclude, path):
            return False
        if not self._named(self._targets, path):
            return False
        # PEFT does not look at the layer of a module that is named by its whole path.
        whole = isinstance(self._targets, frozenset) and path in self._targets
        return whole or self._config.layers is None or self._in_layers(path)

    def target(self, path: str) -> Target:
        """Return rank and scaling of the module at ``path``: of the first pattern that matches, or the default."""
        if self._names_parameter(path):
            path = _parameter(path)
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


def _parameter(path: str) -> str:
    """Return the path of the parameter that a module's factors are of: all experts' of a slice, else its weight."""
    found = slice_of(path)
    return found.parameter if found else f"{path}.weight"


def _as_set(names: tuple[str, ...] | str) -> frozenset[str] | str:
    return names if isinstance(names, str) else frozenset(names)


def _unmatched(config: LoraConfig, paths: Iterable[str]) -> tuple[str, ...]:
    if isinstance(config.targets, str):
        return ()
    matched = {name for path in paths for name in endings(path)}
    return tuple(name for name in config.targets if name not in matched)
