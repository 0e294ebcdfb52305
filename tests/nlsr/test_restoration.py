"""Similarity, the choice of modules, correction and realign."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nlsr_jax import hardware
from nlsr_jax.adapter import Adapter, delta
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.correction import correct
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.lineage import lineage, unrelated_modules
from nlsr_jax.nlsr.pruning import draw_pruned, pruning_probability, similarity_rank
from nlsr_jax.nlsr.realign import realign
from nlsr_jax.nlsr.similarity import product_cosine, similarity
from tests.oracles import cosine, mixed, random_adapter

ALIGNED = random_adapter(0)
REFERENCE = jax.tree.map(lambda x: 1.9 * x, ALIGNED)
FINETUNED = mixed(ALIGNED, random_adapter(1), 0.7)
MASKS = identify(REFERENCE, method="magnitude", sparsity=0.6)
KEY = jax.random.key(0)
ALL = jax.tree.map(lambda x: np.ones(x.shape, bool), REFERENCE.factors)
NONE = jax.tree.map(lambda x: np.zeros(x.shape, bool), REFERENCE.factors)


def per_module(value):
    return {m: np.full(3, value) for m in ALIGNED.factors}


def test_similarity_is_the_cosine_of_the_masked_products():
    found = similarity(REFERENCE, FINETUNED, MASKS)
    for module, values in found.items():
        mask = jax.tree.map(np.asarray, MASKS[module])
        for layer in range(3):
            e, t = ({f: x.factors[module][f][layer] * mask[f][layer] for f in "ab"} for x in (REFERENCE, FINETUNED))
            # r × r float32 sums of at most 40 terms.
            assert_allclose(values[layer], cosine(e["b"], e["a"], t["b"], t["a"]), atol=1e-6)


def test_similarity_with_itself_is_one_at_any_scale():
    for scale in (1e-25, 1.0, 1e25):
        other = jax.tree.map(lambda x, s=scale: (s * x).astype(np.float32), FINETUNED)
        for values in similarity(FINETUNED, other, MASKS).values():
            assert_allclose(values, 1.0, atol=1e-6)


def test_one_layer_out_of_range_leaves_the_others_as_they_are():
    ordinary = similarity(REFERENCE, FINETUNED, MASKS)
    scale = np.array([1.0, 1e-25, 1.0], np.float32)[:, None, None]
    other = jax.tree.map(lambda x: scale * x, FINETUNED)
    for module, values in similarity(REFERENCE, other, MASKS).items():
        assert_allclose(values, ordinary[module], atol=1e-6)


@pytest.fixture
def short_pieces(monkeypatch):
    """Similarities by pieces of 8 rows or columns, of shapes that no other test has compiled in one piece."""
    monkeypatch.setattr(hardware, "_PIECE", 8)


@pytest.mark.parametrize(
    ("size", "layers", "rank", "dtype"),
    [
        *((15, 3, 6, "float32"), (16, 1, 6, "bfloat16"), (17, 3, 6, "bfloat16"), (40, 1, 1, "float32")),
    ],
)
def test_similarity_by_pieces_is_the_cosine(short_pieces, size, layers, rank, dtype):
    """Sizes around two pieces, each with several ranks, types and numbers of layers."""
    sizes = {"q_proj": (size, size + 3), "v_proj": (size + 25, 4)}
    first, other = (random_adapter(seed, layers=layers, rank=rank, sizes=sizes) for seed in (0, 1))
    second = jax.tree.map(lambda x: jnp.asarray(x, dtype), mixed(first, other, 0.7))
    masks = jax.tree.map(lambda x: x > -0.3, other.factors)
    found, wider = similarity(first, second, masks), random_adapter(2, layers=layers, rank=rank + 2, sizes=sizes)
    products = product_cosine(first, wider)
    for module in sizes:
        e, t, m, w = (x[module] for x in (first.factors, second.factors, masks, wider.factors))
        for layer in range(layers):
            masked = [x[f][layer] * m[f][layer] for x in (e, t) for f in "ba"]
            whole = [x[f][layer] for x in (e, w) for f in "ba"]
            # r × r float32 sums of at most 65 terms.
            assert_allclose(found[module][layer], cosine(*masked), atol=1e-6)
            assert_allclose(products[module][layer], cosine(*whole), atol=1e-6)


def test_zero_norm_gives_zero_and_says_so():
    zero = jax.tree.map(np.copy, FINETUNED)
    zero.factors["v_proj"]["b"][1] = 0
    result = realign(KEY, zero, REFERENCE, MASKS)
    assert result.similarity["v_proj"][1] == 0
    assert result.zero_norm["v_proj"].tolist() == [False, True, False]
    assert not result.zero_norm["q_proj"].any()
    empty = realign(KEY, FINETUNED, REFERENCE, NONE)
    assert all(z.all() for z in empty.zero_norm.values())


def test_probability_follows_the_ranks_over_all_modules():
    values = np.random.default_rng(0).permutation(9).reshape(3, 3).astype(np.float32)
    tree = {m: jnp.asarray(values[i]) for i, m in enumerate(ALIGNED.factors)}
    found = pruning_probability(tree, 0.5, 0.4)
    for i, module in enumerate(ALIGNED.factors):
        assert_allclose(found[module], 0.5 + 0.4 * (values[i] + 1) / 9, atol=1e-6)


def test_ties_are_broken_by_module_order():
    ranks = similarity_rank({"down_proj": jnp.zeros(2), "q_proj": jnp.zeros(2), "v_proj": jnp.zeros(2)})
    assert ranks["q_proj"].tolist() == [1, 4]
    assert ranks["v_proj"].tolist() == [2, 5]
    assert ranks["down_proj"].tolist() == [3, 6]


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2), st.floats(-3, 3), st.integers(0, 1000))
def test_probability_is_clipped_and_monotone(base, increment, seed):
    values = np.random.default_rng(seed).normal(size=7).astype(np.float32)
    found = np.asarray(pruning_probability({"q_proj": jnp.asarray(values)}, base, increment)["q_proj"])
    assert ((found >= 0) & (found <= 1)).all()
    steps = np.diff(found[np.argsort(values)])
    assert (steps >= 0).all() if increment >= 0 else (steps <= 0).all()


def test_draw_has_the_frequency_of_the_probability():
    probability = {"q_proj": jnp.full(20_000, 0.3)}
    share = float(draw_pruned(KEY, probability)["q_proj"].mean())
    # Four standard deviations of a binomial share at 20,000 draws.
    assert abs(share - 0.3) < 4 * (0.21 / 20_000) ** 0.5
    assert draw_pruned(KEY, per_module(1.0))["q_proj"].all()
    assert not draw_pruned(KEY, per_module(0.0))["q_proj"].any()


@pytest.mark.parametrize("space", ["factors", "product"])
def test_modules_left_alone_are_the_input(space):
    result = correct(FINETUNED, REFERENCE, MASKS, per_module(True), space=space)
    for module, leaf in result.factors.items():
        assert_array_equal(leaf["a"][:, :8], FINETUNED.factors[module]["a"])
        assert_array_equal(leaf["b"][:, :, :8], FINETUNED.factors[module]["b"])
        assert not np.asarray(leaf["a"][:, 8:]).any()


def test_empty_masks_are_the_identity_and_full_masks_the_reference():
    same = correct(FINETUNED, REFERENCE, NONE, per_module(False))
    jax.tree.map(assert_array_equal, same, FINETUNED)
    replaced = correct(FINETUNED, REFERENCE, ALL, per_module(False))
    jax.tree.map(assert_array_equal, replaced, REFERENCE)


def test_factor_correction_mixes_entry_by_entry():
    result = correct(FINETUNED, REFERENCE, MASKS, per_module(False))
    for module, leaf in result.factors.items():
        for f in "ab":
            expected = np.where(MASKS[module][f], REFERENCE.factors[module][f], FINETUNED.factors[module][f])
            assert_array_equal(leaf[f], expected)


@pytest.mark.parametrize("space", ["factors", "product"])
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_strength_moves_transplanted_entries_short_of_the_reference_or_beyond_it(space, strength):
    """A stronger repair is a plain one from another reference, and no other entry changes."""
    further = jax.tree.map(lambda t, e: t + np.float32(strength) * (e - t), FINETUNED, REFERENCE)
    result = correct(FINETUNED, REFERENCE, MASKS, per_module(False), space=space, strength=strength)
    expected = correct(FINETUNED, further, MASKS, per_module(False), space=space)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-6), result, expected)
    if space == "factors":
        for module, leaf in result.factors.items():
            for f in "ab":
                left = ~MASKS[module][f]
                assert_array_equal(leaf[f][left], FINETUNED.factors[module][f][left])


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan")])
def test_strength_is_a_finite_number_above_0(strength):
    with pytest.raises(InputError, match=r"strength is .*; expected a finite number above 0"):
        correct(FINETUNED, REFERENCE, MASKS, per_module(False), strength=strength)


def test_product_correction_is_the_papers_equation():
    pruned = per_module(False)
    pruned["q_proj"] = np.array([True, False, True])
    result = delta(correct(FINETUNED, REFERENCE, MASKS, pruned, space="product"))
    for module, value in result.items():
        mask = {f: np.asarray(MASKS[module][f]) for f in "ab"}
        e = {f: np.float64(REFERENCE.factors[module][f]) for f in "ab"}
        t = {f: np.float64(FINETUNED.factors[module][f]) for f in "ab"}
        repaired = (mask["b"] * e["b"]) @ (mask["a"] * e["a"]) + (~mask["b"] * t["b"]) @ (~mask["a"] * t["a"])
        expected = np.where(pruned[module][:, None, None], t["b"] @ t["a"], repaired)
        assert_allclose(value, 2.0 * expected, atol=1e-4)


def test_rules():
    base = realign(KEY, FINETUNED, REFERENCE, MASKS)
    values = {m: np.asarray(s) for m, s in base.similarity.items()}
    assert {m: p.tolist() for m, p in base.pruned.items()} == {
        m: p.tolist() for m, p in draw_pruned(KEY, base.probability).items()
    }
    for tau in (0.5, float(values["q_proj"][1])):  # a module exactly as similar as the threshold is left alone
        cut = realign(KEY, FINETUNED, REFERENCE, MASKS, rule="threshold", tau=tau)
        for module, pruned in cut.pruned.items():
            assert_array_equal(pruned, values[module] >= tau)
    third = realign(KEY, FINETUNED, REFERENCE, MASKS, rule="least_similar", share=1 / 3)
    repaired = sorted(v for m in values for v, p in zip(values[m], third.pruned[m], strict=True) if not p)
    assert repaired == sorted(np.concatenate(list(values.values())))[:3]
    everything = realign(KEY, FINETUNED, REFERENCE, MASKS, rule="all")
    assert not any(p.any() for p in everything.pruned.values())
    layers = realign(KEY, FINETUNED, REFERENCE, MASKS, rule="layers", layers=(0, 2))
    assert all(p.tolist() == [False, True, False] for p in layers.pruned.values())
    assert layers.probability["q_proj"].tolist() == [0.0, 1.0, 0.0]


def test_layer_rule_goes_by_decoder_layers():
    adapter = Adapter(FINETUNED.factors, 2.0, dict.fromkeys(FINETUNED.factors, (4, 7, 9)))
    reference = Adapter(REFERENCE.factors, 2.0, adapter.layers)
    result = realign(KEY, adapter, reference, MASKS, rule="layers", layers=(7,))
    assert result.pruned["q_proj"].tolist() == [True, False, True]
    with pytest.raises(InputError, match=r"layers \[5\] are not adapted"):
        realign(KEY, adapter, reference, MASKS, rule="layers", layers=(5, 7))


def test_dtype_of_the_finetuned_adapter_is_kept_and_untouched_modules_are_bit_equal():
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), FINETUNED)
    result = realign(KEY, half, REFERENCE, MASKS, rule="layers", layers=(1,))
    for module, leaf in result.adapter.factors.items():
        for f in "ab":
            assert leaf[f].dtype == jnp.bfloat16
            assert_array_equal(leaf[f][0].view(jnp.uint16), half.factors[module][f][0].view(jnp.uint16))


def test_same_key_same_bytes_and_one_trace_for_all_probabilities():
    from nlsr_jax.nlsr import pruning

    first = realign(KEY, FINETUNED, REFERENCE, MASKS, base_probability=0.3)
    before = pruning.choose_pruned._cache_size()
    again = realign(KEY, FINETUNED, REFERENCE, MASKS, base_probability=0.3)
    realign(KEY, FINETUNED, REFERENCE, MASKS, base_probability=0.1, increment=0.9)
    assert pruning.choose_pruned._cache_size() == before
    jax.tree.map(assert_array_equal, first, again)


def test_large_stacks_are_mapped_layer_by_layer_with_the_same_result(monkeypatch):
    from nlsr_jax.nlsr import layerwise

    expected = realign(KEY, FINETUNED, REFERENCE, MASKS)
    jax.clear_caches()
    whole = layerwise.map_layers
    monkeypatch.setattr("nlsr_jax.nlsr.layerwise.map_layers", functools.partial(whole, chunk_bytes=1))
    found = realign(KEY, FINETUNED, REFERENCE, MASKS)
    jax.clear_caches()
    jax.tree.map(assert_array_equal, found.adapter, expected.adapter)


def test_lineage_tells_descendants_from_strangers_and_rotations():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 8, 8)))[0].astype(np.float32)
    rotated = {m: {"a": turn @ f["a"], "b": f["b"] @ turn.transpose(0, 2, 1)} for m, f in FINETUNED.factors.items()}
    assert unrelated_modules(FINETUNED, lineage(ALIGNED, FINETUNED)) == []
    assert len(unrelated_modules(FINETUNED, lineage(ALIGNED, random_adapter(5)))) == 9
    one = jax.tree.map(np.copy, FINETUNED)
    one.factors["down_proj"]["a"][2] = rotated["down_proj"]["a"][2]
    one.factors["down_proj"]["b"][2] = rotated["down_proj"]["b"][2]
    cosines = lineage(ALIGNED, one)
    expected = np.sum(np.float64(ALIGNED.factors["down_proj"]["a"][2]) * one.factors["down_proj"]["a"][2])
    expected /= np.linalg.norm(ALIGNED.factors["down_proj"]["a"][2]) * np.linalg.norm(
        one.factors["down_proj"]["a"][2]
    )
    assert_allclose(cosines["down_proj"]["a"][2], expected, atol=1e-5)
    assert unrelated_modules(one, cosines) == ["layer 2 down_proj"]


def test_lineage_is_the_cosine_of_the_factors_at_any_scale():
    scales = np.array([1.0, 1e-25, 1e25], np.float32)[:, None, None]
    other = jax.tree.map(lambda x: scales * x, FINETUNED)
    other.factors["v_proj"]["b"][0] = 0
    for module, pair in lineage(ALIGNED, other).items():
        for factor in "ab":
            values = pair[factor]
            for layer in range(3):
                x, y = (np.float64(t.factors[module][factor][layer]).ravel() for t in (ALIGNED, other))
                norm = np.linalg.norm(x) * np.linalg.norm(y)
                # Float32 sums of at most 320 terms.
                assert_allclose(values[layer], x @ y / norm if norm else 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "coin"}, "rule is 'coin'"),
        ({"rule": "threshold"}, "needs tau"),
        ({"tau": 0.5}, "tau is given, but rule 'probability'"),
        ({"rule": "least_similar", "share": 1.5}, "share is 1.5"),
        ({"space": "both"}, "space is 'both'"),
        ({"masks": {}}, "no mask for q_proj.a"),
        ({"masks": jax.tree.map(lambda x: np.ones((1, 1, 1), bool), ALL)}, "q_proj.a is bool"),
        ({"masks": {**ALL, "k_proj": ALL["q_proj"]}}, "k_proj is not adapted"),
        ({"reference": random_adapter(0, rank=4)}, "ranks differ"),
        ({"finetuned": random_adapter(0, scaling=1.0)}, "scaling of q_proj"),
        ({"finetuned": random_adapter(0, sizes={"w_proj": (2, 2)})}, "unknown module 'w_proj'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"finetuned": FINETUNED, "reference": REFERENCE, "masks": MASKS, **change}
    with pytest.raises(InputError, match=message):
        realign(KEY, **arguments)
