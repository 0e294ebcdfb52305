"""The Adapter pytree: LoRA factors of all adapted modules, stacked over decoder layers.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.modules import MODULES, is_module_name, module_order

Factors = dict[str, dict[str, jax.Array]]
PerModule = dict[str, jax.Array]
Scaling = float | Mapping[str, float | tuple[float, ...]]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: module ``m`` of decoder layer ``layers[m][i]`` adds ``scaling · b[i] @ a[i]``.

    Attributes:
      factors: ``{module: {"a": [L, r, k], "b": [L, d, r]}}``, with modules named as in ``MODULES`` (others by
        their path, see ``nlsr_jax.modules``); the leaves of the pytree. The rank may differ between modules.
      scaling: static; ``lora_alpha / r`` (or ``/ sqrt(r)``): one float, or one per module name, each
        a float or a tuple with one float per adapted layer.
      layers: static; for each module name the decoder layers of its leading axis, in increasing order.
        A module that is missing here (and ``None`` altogether) adapts all layers.
    """

    factors: Any
    scaling: Scaling = 1.0
    layers: Mapping[str, tuple[int, ...]] | None = None

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        return ((jax.tree_util.GetAttrKey("factors"), self.factors),), (
            _freeze(self.scaling),
            _freeze(self.layers),
        )

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: Sequence[Any]) -> "Adapter":
        scaling, layers = static
        return cls(children[0], _thaw(scaling), _thaw(layers))


def _freeze(value):
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value


def _thaw(value):
    return dict(value) if isinstance(value, tuple) else value


def module_names(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the module names of a per-module tree in module order."""
    return tuple(sorted(tree, key=module_order))


def layer_indices(adapter: Adapter, module: str) -> tuple[int, ...]:
    """Return the decoder layers of the leading axis of ``module``."""
    if adapter.layers and module in adapter.layers:
        return tuple(adapter.layers[module])
    return tuple(range(adapter.factors[module]["a"].shape[0]))


def layer_scaling(adapter: Adapter, module: str) -> np.ndarray:
    """Return the scaling of ``module`` as float32 ``[L]``, one number per adapted layer."""
    scaling = adapter.scaling[module] if isinstance(adapter.scaling, Mapping) else adapter.scaling
    count = adapter.factors[module]["a"].shape[0]
    return np.broadcast_to(np.asarray(scaling, np.float32), (count,))


def check_adapter(adapter: Adapter, name: str = "adapter") -> None:
    """Check names, shapes and static fields of an adapter.

    Args:
      adapter: the adapter to check; arrays or ``jax.ShapeDtypeStruct`` leaves.
      name: name of the adapter in error messages.

    Raises:
      InputError: if a module is unknown, factors do not match each other, or static fields do not match the
        factors.
    """
    if not adapter.factors:
        raise InputError(f"{name}: no adapted module; expected at least one of {', '.join(MODULES)}")
    for module, factors in adapter.factors.items():
        if not is_module_name(module):
            raise InputError(
                f"{name}: unknown module {module!r}; expected one of {', '.join(MODULES)}, or the path of a linear "
                "layer inside its decoder layer, such as mlp.fc1"
            )
        if set(factors) != {"a", "b"}:
            raise InputError(f"{name}: {module} has leaves {sorted(factors)}; expected 'a' and 'b'")
        a, b = factors["a"].shape, factors["b"].shape
        if len(a) != 3 or len(b) != 3 or a[0] != b[0] or a[1] != b[2] or 0 in a + b:
            raise InputError(
                f"{name}: {module} has a {list(a)} and b {list(b)}; expected [L, r, k] and [L, d, r] "
                "with the same L and r"
            )
        if len(layer_indices(adapter, module)) != a[0]:
            raise InputError(
                f"{name}: layers[{module!r}] names {len(layer_indices(adapter, module))} layers, "
                f"but the factors have {a[0]}"
            )
        scaling = adapter.scaling
        if isinstance(scaling, Mapping):
            if module not in scaling:
                raise InputError(f"{name}: scaling has no entry for {module}")
            if np.size(scaling[module]) not in (1, a[0]):
                raise InputError(
                    f"{name}: scaling[{module!r}] has {np.size(scaling[module])} numbers, "
                    f"but the factors have {a[0]} layers"
                )


def check_same_structure(first: Adapter, second: Adapter, names: tuple[str, str], *, rank: bool = True) -> None:
    """Check that two adapters adapt the same modules of the same layers with the same shapes.

    Args:
      first, second: the adapters.
      names: names of the adapters in error messages.
      rank: also require equal ranks and equal scaling (needed to mix factors entry by entry).

    Raises:
      InputError: describing the first difference.
    """
    check_adapter(first, names[0])
    check_adapter(second, names[1])
    if set(first.factors) != set(second.factors):
        only = sorted(set(first.factors) ^ set(second.factors))
        raise InputError(
            f"{names[0]} and {names[1]} adapt different modules: {', '.join(only)} is in one only; "
            "use adapters trained with the same target_modules"
        )
    for module in module_names(first.factors):
        if layer_indices(first, module) != layer_indices(second, module):
            raise InputError(
                f"{names[0]} and {names[1]} adapt different layers of {module}; one of them belongs to "
                "another base, or was trained with other layers_to_transform"
            )
        for leaf, axes in (("a", (0, 2)), ("b", (0, 1))):
            one, two = first.factors[module][leaf].shape, second.factors[module][leaf].shape
            if tuple(one[i] for i in axes) != tuple(two[i] for i in axes):
                raise InputError(
                    f"{module}.{leaf} is {list(one)} in {names[0]} and {list(two)} in {names[1]}: "
                    "the adapters belong to bases of different shapes"
                )
            if rank and one != two:
                raise InputError(
                    f"{module}.{leaf} is {list(one)} in {names[0]} and {list(two)} in {names[1]}: "
                    "the ranks differ, and entries of factors can only be compared at equal rank"
                )
        if rank and not np.array_equal(layer_scaling(first, module), layer_scaling(second, module)):
            raise InputError(
                f"the scaling of {module} (lora_alpha / r) is {layer_scaling(first, module)[0]:g} in "
                f"{names[0]} and {layer_scaling(second, module)[0]:g} in {names[1]}: expected equal"
            )


def delta(adapter: Adapter) -> PerModule:
    """Return the weight update ``scaling · B A`` of each module.

    Args:
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``.

    Returns:
      ``{module: [L, d, k]}`` float32. Full size: for tests and small models.
    """
    return {
        module: jnp.einsum(
            "ldr,lrk,l->ldk",
            factors["b"].astype(jnp.float32),
            factors["a"].astype(jnp.float32),
            layer_scaling(adapter, module),
            precision=jax.lax.Precision.HIGHEST,
        )
        for module, factors in adapter.factors.items()
    }


def concatenate(first: Adapter, second: Adapter, weights: tuple[float, float] = (1.0, 1.0)) -> Adapter:
    """Return ``w₁ · ΔW₁ + w₂ · ΔW₂`` exactly, as one adapter of rank ``r₁ + r₂``.

    Args:
      first, second: adapters with the same modules, layers and base shapes; ranks and scalings may
        differ (the second's scaling is folded into its ``b``).
      weights: the two weights; they are multiplied into ``b``.

    Returns:
      An adapter with the scaling and dtype of ``first``.

    Raises:
      InputError: if the adapters do not match.
    """
    check_same_structure(first, second, ("first", "second"), rank=False)
    factors = {}
    for module in first.factors:
        one, two = first.factors[module], second.factors[module]
        ratio = layer_scaling(second, module) / layer_scaling(first, module)
        b_one = weights[0] * one["b"].astype(jnp.float32)
        b_two = weights[1] * ratio[:, None, None] * two["b"].astype(jnp.float32)
        dtype = one["a"].dtype
        factors[module] = {
            "a": jnp.concatenate([one["a"], two["a"].astype(dtype)], axis=1),
            "b": jnp.concatenate([b_one, b_two], axis=2).astype(dtype),
        }
    return dataclasses.replace(first, factors=factors)


def truncate_layer(a: jax.Array, b: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Return the best rank-``rank`` factors of ``b @ a`` for one layer, with singular values split evenly."""
    return _truncate_layer(a, b, rank)[:2]


def _truncate_layer(a, b, rank):
    """Do the same and return the relative residual too: the norm of the singular values that are left out."""
    q_b, r_b = jnp.linalg.qr(b)
    q_a, r_a = jnp.linalg.qr(a.T)
    core = jnp.matmul(r_b, r_a.T, precision=jax.lax.Precision.HIGHEST)
    u, s, vt = jnp.linalg.svd(core, full_matrices=False)
    half = jnp.sqrt(s[:rank])
    new_a = jnp.matmul(half[:, None] * vt[:rank], q_a.T, precision=jax.lax.Precision.HIGHEST)
    new_b = jnp.matmul(q_b, u[:, :rank] * half, precision=jax.lax.Precision.HIGHEST)
    norm = jnp.linalg.norm(s)
    return new_a, new_b, jnp.linalg.norm(s[rank:]) / jnp.where(norm > 0, norm, 1.0)


@functools.partial(jax.jit, static_argnames="rank")
def _truncate_layers(a, b, rank):
    def one_layer(pair):
        return _truncate_layer(pair[0].astype(jnp.float32), pair[1].astype(jnp.float32), rank)

    # Layer by layer: on the CPU, batches of factorisations can deadlock; see ``map_layers``.
    new_a, new_b, residual = jax.lax.map(one_layer, (a, b))
    return new_a.astype(a.dtype), new_b.astype(b.dtype), residual


def truncate(adapter: Adapter, rank: int) -> Adapter:
    """Return the best approximation of each ``B A`` by factors of a smaller rank.

    Thin QR of both factors and an SVD of one r × r matrix per module; the d × k product is never
    formed (Eckart–Young). The singular values are split evenly between the factors, so the rank axis
    of the result has a new basis: factor entries can no longer be compared with the input's.

    Args:
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``.
      rank: the new rank, at least 1; modules with a smaller rank keep it.

    Returns:
      The truncated adapter, same dtypes and scaling.

    Raises:
      InputError: if ``rank`` is below 1.
    """
    return truncate_measured(adapter, rank)[0]


def truncate_measured(adapter: Adapter, rank: int) -> tuple[Adapter, PerModule]:
    """Truncate as ``truncate`` does, and measure what is left out.

    Args:
      adapter, rank: see ``truncate``.

    Returns:
      The truncated adapter, and ``{module: [L]}`` float32, ‖B A − B' A'‖_F / ‖B A‖_F; 0 where the rank is kept.

    Raises:
      InputError: if ``rank`` is below 1.
    """
    if rank < 1:
        raise InputError(f"rank is {rank}; expected at least 1")
    factors, residual = {}, {}
    for module, leaf in adapter.factors.items():
        a, b = leaf["a"], leaf["b"]
        left = jnp.zeros(a.shape[0], jnp.float32)
        if a.shape[1] > rank:
            a, b, left = _truncate_layers(a, b, rank)
        factors[module], residual[module] = {"a": a, "b": b}, left
    return dataclasses.replace(adapter, factors=factors), residual
