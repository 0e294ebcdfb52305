"""Every score against a NumPy oracle, and the properties of the masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.identify import METHODS, identify
from nlsr_jax.nlsr.low_rank import kept_rank
from nlsr_jax.nlsr.statistics import statistics_from_activations
from tests.compilations import compilations
from tests.oracles import activations, mask, mixed, project, random_adapter, top_mask

REFERENCE = random_adapter(3)
INPUTS = activations(1, REFERENCE, 500, 0.05)
STATISTICS = statistics_from_activations(REFERENCE, INPUTS)
GRADIENTS = jax.tree.map(np.abs, random_adapter(9)).factors
SIGNED = random_adapter(9).factors
FINETUNED = mixed(REFERENCE, random_adapter(8), 0.5)
KEY = jax.random.key(0)


def oracle_scores(method, name, layer, sparsity):
    a = np.float64(REFERENCE.factors[name]["a"][layer])
    b = np.float64(REFERENCE.factors[name]["b"][layer])
    x = np.float64(INPUTS[name][layer])
    z = x @ a.T
    kept = kept_rank(a.shape[0], sparsity)
    return {
        "low_rank": lambda: (np.abs(project(a, x, kept)), np.abs(project(b, z, kept))),
        "wanda": lambda: (np.abs(a) * np.linalg.norm(x, axis=0), np.abs(b) * np.linalg.norm(z, axis=0)),
        "snip": lambda: (
            np.abs(a * GRADIENTS[name]["a"][layer]),
            np.abs(b * GRADIENTS[name]["b"][layer]),
        ),
        "magnitude": lambda: (np.abs(a), np.abs(b)),
        "gain": lambda: tuple(
            np.maximum(0, -SIGNED[name][f][layer] * (w - np.float64(FINETUNED.factors[name][f][layer])))
            for f, w in (("a", a), ("b", b))
        ),
    }[method]()


@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("method", ["low_rank", "wanda", "snip", "magnitude", "gain"])
def test_masks_agree_with_the_oracle(method, granularity):
    beside = {"gradients": SIGNED, "finetuned": FINETUNED} if method == "gain" else {"gradients": GRADIENTS}
    masks = identify(REFERENCE, STATISTICS, method=method, granularity=granularity, **beside)
    agree = total = 0
    for name in REFERENCE.factors:
        for layer in range(3):
            expected = oracle_scores(method, name, layer, 0.8)
            for factor, scores in zip("ab", expected, strict=True):
                found = np.asarray(masks[name][factor][layer])
                reference = mask(np.float32(scores), 0.8, granularity) & (method != "gain" or scores > 0)
                assert found.sum() == reference.sum()
                agree += (found == reference).sum()
                total += found.size
    # The acceptance bound; float32 can only swap entries at the threshold.
    assert agree / total > 0.999


@pytest.mark.parametrize("method", [name for name in METHODS if name != "gain"])
def test_counts_are_exact_for_every_method(method):
    masks = identify(
        REFERENCE,
        STATISTICS,
        method=method,
        sparsity=0.7,
        key=KEY,
        gradients=GRADIENTS,
        granularity="tensor",
    )
    for name, leaf in REFERENCE.factors.items():
        for factor, value in leaf.items():
            expected = round(0.3 * value[0].size)
            assert np.asarray(masks[name][factor]).sum((1, 2)).tolist() == [expected] * 3


def test_one_threshold_for_the_whole_adapter():
    masks = identify(REFERENCE, method="snip", sparsity=0.9, granularity="adapter", gradients=GRADIENTS)
    scores = [oracle_scores("snip", name, layer, 0.9) for name in sorted(REFERENCE.factors) for layer in range(3)]
    flat = np.concatenate([score.ravel() for pair in scores for score in pair])
    kept = np.float32(flat)[top_mask(np.float32(flat), round(0.1 * flat.size))].min()
    assert sum(int(np.asarray(leaf).sum()) for leaf in jax.tree.leaves(masks)) == round(0.1 * flat.size)
    for name in REFERENCE.factors:
        for layer in range(3):
            for factor, score in zip("ab", oracle_scores("snip", name, layer, 0.9), strict=True):
                np.testing.assert_array_equal(masks[name][factor][layer], np.float32(score) >= kept)
    shares = [np.asarray(masks[name][factor]).mean() for name in masks for factor in "ab"]
    assert max(shares) > 1.2 * min(shares)


@pytest.mark.parametrize("granularity", ["tensor", "row", "adapter"])
def test_entries_without_a_gain_are_never_kept(granularity):
    beside = {"gradients": SIGNED, "finetuned": FINETUNED}
    masks = identify(REFERENCE, method="gain", sparsity=0.1, granularity=granularity, **beside)
    for name, pair in masks.items():
        for factor, kept in pair.items():
            change = REFERENCE.factors[name][factor] - FINETUNED.factors[name][factor]
            gain = -SIGNED[name][factor] * change
            assert not (np.asarray(kept) & (gain <= 0)).any()
            np.testing.assert_array_equal(kept, gain > 0)  # fewer than nine tenths have one
    same = identify(REFERENCE, method="gain", granularity=granularity, gradients=SIGNED, finetuned=REFERENCE)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(same))


def test_random_masks_follow_the_key():
    draw = lambda key: identify(REFERENCE, method="random", key=key)  # noqa: E731
    first, again, other = draw(KEY), draw(KEY), draw(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kept = np.asarray(first["q_proj"]["a"])
    assert not np.array_equal(kept, other["q_proj"]["a"])
    assert not np.array_equal(kept[0], kept[1])
    # About a fifth of the kept entries of one draw is kept in another: chance, at 1152 entries.
    both = sum(int((np.asarray(x) & np.asarray(y)).sum()) for x, y in _pairs(first, other))
    assert 0.1 < both / sum(int(np.asarray(x).sum()) for x, _ in _pairs(first, other)) < 0.3


def _pairs(first, second):
    return zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)


def test_random_masks_of_a_module_do_not_depend_on_the_others():
    alone = type(REFERENCE)({"v_proj": REFERENCE.factors["v_proj"]}, REFERENCE.scaling)
    both = identify(REFERENCE, method="random", key=KEY)
    jax.tree.map(np.testing.assert_array_equal, identify(alone, method="random", key=KEY)["v_proj"], both["v_proj"])


def test_batched_equals_looped():
    together = identify(REFERENCE, STATISTICS)
    for layer in range(3):
        pick = lambda tree, i=layer: jax.tree.map(lambda x: x[i : i + 1] if jnp.ndim(x) else x, tree)  # noqa: E731
        alone = identify(pick(REFERENCE), pick(STATISTICS))
        jax.tree.map(lambda x, y, i=layer: np.testing.assert_array_equal(x[0], y[i]), alone, together)


@pytest.mark.parametrize("traced", [False, True])
def test_second_call_does_not_compile(traced):
    """On the host module after module, and in one program inside another."""
    way = jax.jit(lambda reference, statistics: identify(reference, statistics)) if traced else identify
    other = jax.tree.map(lambda x: x + 1, STATISTICS)
    jax.clear_caches()
    with compilations() as compiled:
        way(REFERENCE, STATISTICS)
        assert compiled, "nothing that could be compiled again"
        compiled.clear()
        way(REFERENCE, other)
    assert not compiled


def test_scaling_the_reference_does_not_change_the_mask():
    double = jax.tree.map(lambda x: 2 * x, REFERENCE)
    jax.tree.map(
        np.testing.assert_array_equal,
        identify(REFERENCE, method="magnitude"),
        identify(double, method="magnitude"),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 0.0}, "sparsity is 0.0"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"method": "taylor"}, "method is 'taylor'"),
        ({"granularity": "column"}, "granularity is 'column'"),
        ({"method": "random"}, "give key="),
        ({"method": "snip"}, "needs gradients"),
        ({"method": "gain", "gradients": SIGNED}, "method 'gain' compares with the fine-tuned adapter"),
        ({"method": "gain", "gradients": SIGNED, "finetuned": random_adapter(0, rank=4)}, "the ranks differ"),
        ({"method": "wanda", "statistics": None}, "needs statistics"),
        ({"reference": random_adapter(0, rank=4)}, "statistics of q_proj"),
        ({"method": "snip", "gradients": random_adapter(0, rank=4).factors}, "gradients do not have"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    arguments = {"reference": REFERENCE, "statistics": STATISTICS, **arguments}
    with pytest.raises(InputError, match=message):
        identify(**arguments)
