"""The choice of modules to repair: probability by similarity rank, and the deterministic alternatives.

γ_j True means left alone ("pruned" from the repair), False means repaired.
Source: NLSR, probability-based layer pruning, ``P_j = P_L + δ · r_j / N``.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import PerModule, module_names
from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.settings import RULES


def _order(tree: PerModule) -> np.ndarray:
    """Return positions of the concatenated modules in module order: layer by layer, then by module name."""
    names = module_names(tree)
    layers = np.concatenate([np.arange(tree[name].shape[0]) for name in names])
    modules = np.concatenate([np.full(tree[name].shape[0], i) for i, name in enumerate(names)])
    return np.lexsort((modules, layers))


def flatten_modules(tree: PerModule) -> jax.Array:
    """Return the per-module values as ``[N]`` in module order (layer by layer)."""
    return jnp.concatenate([tree[name] for name in module_names(tree)])[_order(tree)]


def unflatten_modules(values: jax.Array, like: PerModule) -> PerModule:
    """Return ``[N]`` values in module order as ``{module: [L]}``, shaped like ``like``."""
    order = _order(like)
    inverse = np.argsort(order)
    names = module_names(like)
    ends = np.cumsum([like[name].shape[0] for name in names])[:-1]
    return dict(zip(names, jnp.split(values[inverse], ends), strict=True))


def similarity_rank(similarity: PerModule) -> PerModule:
    """Return the rank r_j: from 1 for the least similar module to N, ties by module order, int32."""
    values = flatten_modules(similarity)
    order = jnp.argsort(values, stable=True)
    ranks = jnp.zeros(values.shape, jnp.int32).at[order].set(jnp.arange(1, values.size + 1, dtype=jnp.int32))
    return unflatten_modules(ranks, similarity)


@jax.jit
def unclipped_probability(
    similarity: PerModule, base_probability: float | jax.Array, increment: float | jax.Array
) -> PerModule:
    """Return ``P_L + δ · r_j / N`` before clipping to [0, 1], float32 ``{module: [L]}``."""
    count = sum(value.shape[0] for value in similarity.values())
    return {
        module: jnp.float32(base_probability) + jnp.float32(increment) * rank / count
        for module, rank in similarity_rank(similarity).items()
    }


def pruning_probability(similarity: PerModule, base_probability: float = 0.5, increment: float = 0.4) -> PerModule:
    """Return the probability that a module is left alone: ``P_j = clip(P_L + δ · r_j / N, 0, 1)``.

    r_j ranks the similarity among the N modules, 1 = least similar; ties by module order. With δ < 0
    the more similar modules are repaired more often.

    The published tables use P_L 0.3 and δ 0.4: the paper's P_L 0.5 spread to both sides, as in the authors'
    program; see ``nlsr_jax.PUBLISHED``.

    Args:
      similarity: ``{module: [L]}`` S_j.
      base_probability: P_L of the paper's equation.
      increment: δ.

    Returns:
      ``{module: [L]}`` float32 in [0, 1].

    >>> similarity = {"q_proj": jnp.array([0.9, 0.1])}
    >>> pruning_probability(similarity, 0.5, 0.4)["q_proj"].round(2).tolist()
    [0.8999999761581421, 0.699999988079071]
    """
    raw = unclipped_probability(similarity, base_probability, increment)
    return jax.tree.map(lambda p: jnp.clip(p, 0, 1), raw)


@jax.jit
def draw_pruned(key: jax.Array, probability: PerModule) -> PerModule:
    """Draw ``γ_j ~ Bernoulli(P_j)`` for all N modules at once.

    Args:
      key: PRNG key.
      probability: ``{module: [L]}`` P_j in [0, 1].

    Returns:
      ``{module: [L]}`` bool, True = left alone, False = repaired.
    """
    drawn = jax.random.bernoulli(key, flatten_modules(probability))
    return unflatten_modules(drawn, probability)


def _certain(pruned: PerModule) -> tuple[PerModule, PerModule]:
    """Return the outcome of a deterministic rule, with its probabilities 0 and 1."""
    return pruned, jax.tree.map(lambda p: p.astype(jnp.float32), pruned)


@functools.partial(jax.jit, static_argnames=("rule", "repaired", "layers"))
def choose_pruned(
    key: jax.Array,
    similarity: PerModule,
    settings: Mapping[str, jax.Array],
    *,
    rule: str,
    repaired: int = 0,
    layers: tuple[tuple[str, tuple[bool, ...]], ...] = (),
) -> tuple[PerModule, PerModule]:
    """Apply one rule and return ``(pruned, probability)``, each ``{module: [L]}``.

    Args:
      key: PRNG key, used only by ``probability``.
      similarity: ``{module: [L]}`` S_j.
      settings: ``{"base_probability", "increment", "tau"}`` float scalars.
      rule: one of ``RULES``.
      repaired: number of modules that ``least_similar`` repairs.
      layers: for ``layers``, a tuple of ``(module, (bool, …))``: True if the layer is repaired.
    """
    if rule == "probability":
        raw = unclipped_probability(similarity, settings["base_probability"], settings["increment"])
        probability = jax.tree.map(lambda p: jnp.clip(p, 0, 1), raw)
        return draw_pruned(key, probability), probability
    if rule == "threshold":
        return _certain({m: s >= settings["tau"] for m, s in similarity.items()})
    if rule == "least_similar":
        return _certain({m: r > repaired for m, r in similarity_rank(similarity).items()})
    if rule == "layers":
        return _certain({m: jnp.asarray(~np.asarray(chosen)) for m, chosen in layers})
    return _certain({m: jnp.zeros(s.shape, bool) for m, s in similarity.items()})


def check_rule(
    rule: str, tau: float | None = None, share: float | None = None, layers: Sequence[int] | None = None
) -> None:
    """Raise InputError unless ``rule`` is known and has exactly the setting it needs."""
    if rule not in RULES:
        raise InputError(f"rule is {rule!r}; expected one of {', '.join(RULES)}")
    needs = {"threshold": ("tau", tau), "least_similar": ("share", share), "layers": ("layers", layers)}
    for owner, (name, value) in needs.items():
        if rule == owner and value is None:
            raise InputError(f"{argument('rule')} {rule!r} needs {argument(name)}")
        if rule != owner and value is not None:
            raise InputError(
                f"{argument(name)} is given, but {argument('rule')} {rule!r} does not use it; use "
                f"{argument('rule')}={owner!r}"
            )
    if share is not None and not 0 <= share <= 1:
        raise InputError(f"share is {share}; expected a number from 0 to 1")
