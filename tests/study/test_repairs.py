"""Realignment as one setting: the published one, its draws, masks, references and evidence."""

import dataclasses

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nlsr_jax.adapter import delta
from nlsr_jax.calibration.climbing import Trial
from nlsr_jax.calibration.search import Automatic
from nlsr_jax.data.examples import Example
from nlsr_jax.data.toy_tokenizer import make_tokenizer
from nlsr_jax.data.toy_world import make_world
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.study import repairs
from nlsr_jax.study.repairs import (
    FIXED,
    PUBLISHED,
    Evidence,
    RepairSettings,
    calibration_batches,
    changes,
    chosen_settings,
    describe,
    gather_evidence,
    make_masks,
    make_reference,
    repair,
)
from nlsr_jax.study.stages import Base
from tests.oracles import activations, mixed, random_adapter

KEY, OTHER = jax.random.key(1), jax.random.key(2)
LAYERS = 4
# Few modules of few shapes: each is compiled anew.
SHAPE = {"layers": LAYERS, "rank": 8, "sizes": {"q_proj": (24, 24), "down_proj": (40, 24)}}
WEAK = random_adapter(0, **SHAPE)
ALIGNED = mixed(WEAK, random_adapter(1, **SHAPE), 0.3)
FINETUNED = mixed(ALIGNED, random_adapter(2, **SHAPE), 0.7)
MODULES = 2 * LAYERS


def replaced(**changes):
    return dataclasses.replace(PUBLISHED, **changes)


def values(tree):
    """The numbers of a per-module tree in one row."""
    return np.concatenate([np.asarray(tree[module]).ravel() for module in sorted(tree)])


def same(first, second):
    return all(
        np.array_equal(one, two) for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


@pytest.fixture(scope="module")
def reference():
    return jax.device_get(make_reference(ALIGNED, WEAK, PUBLISHED))


@pytest.fixture(scope="module")
def evidence(reference):
    gram, square, root = {}, {}, {}
    for module, x in activations(3, reference, 200).items():
        z = x @ np.swapaxes(reference.factors[module]["a"], 1, 2)
        gram[module] = np.swapaxes(z, 1, 2) @ z
        square[module] = (x**2).sum(1)
        root[module] = np.swapaxes(np.linalg.cholesky(gram[module]), 1, 2)
    statistics = Statistics(gram, square, root, np.float32(200), np.float32(1))
    return Evidence(statistics, jax.tree.map(np.abs, random_adapter(4, **SHAPE)).factors)


@pytest.fixture(scope="module")
def masks(reference, evidence):
    return jax.device_get(make_masks(KEY, reference, evidence, PUBLISHED))


def test_published_are_the_papers_settings(reference, masks):
    found = dataclasses.asdict(PUBLISHED)
    assert (found["sparsity"], found["beta"], found["draws"]) == (0.8, 0.9, 5)
    assert (found["method"], found["granularity"], found["rule"]) == ("low_rank", "tensor", "probability")
    assert found["base_probability"] + found["increment"] / 2 == pytest.approx(0.5)
    (result, *_) = repair(KEY, FINETUNED, reference, masks, PUBLISHED)
    spread = np.sort(values(result.probability))
    # δ 0.4 over P_L 0.5 ± 0.2, in equal steps: the least similar module at the bottom, the most similar at 0.7.
    assert_allclose(spread, 0.3 + 0.4 * np.arange(1, MODULES + 1) / MODULES, atol=1e-6)
    order = np.argsort(values(result.similarity))
    assert_allclose(values(result.probability)[order], spread)
    assert RepairSettings() == replaced(draws=1)


def test_the_least_similar_share_is_repaired(reference, masks):
    (result,) = repair(KEY, FINETUNED, reference, masks, replaced(rule="least_similar", share=0.5))
    similarity, pruned = values(result.similarity), values(result.pruned)
    assert (~pruned).sum() == MODULES / 2
    assert similarity[~pruned].max() < similarity[pruned].min()


def test_the_fixed_setting_is_one_result_whatever_the_key(reference, masks):
    (result,) = repair(KEY, FINETUNED, reference, masks, FIXED)
    assert same([result], repair(OTHER, FINETUNED, reference, masks, FIXED))
    assert not values(result.pruned).any()


def chosen(beta, share):
    return Automatic(Trial(beta, share, 0.5), True, 0.5, 0.5, 0.1, 0.4, 0.0, (), ())


def test_what_was_chosen_is_the_fixed_setting_with_another_amplification_and_sparsity():
    assert changes(chosen_settings(chosen(40.0, 0.25)), FIXED) == {"beta": 40.0, "sparsity": 0.75}
    assert changes(FIXED, FIXED) == {}


def test_where_nothing_needs_repair_nothing_is_changed(reference, masks):
    (result,) = repair(KEY, FINETUNED, reference, masks, chosen_settings(chosen(0.0, 0.0)))
    assert values(result.pruned).all()
    assert same(result.adapter.factors, FINETUNED.factors)


def test_draws_are_reproducible_and_differ(reference, masks):
    results = repair(KEY, FINETUNED, reference, masks, PUBLISHED)
    assert len(results) == 5
    assert same(results, repair(KEY, FINETUNED, reference, masks, PUBLISHED))
    drawn = [tuple(values(result.pruned)) for result in results]
    assert len(set(drawn)) > 1
    others = repair(OTHER, FINETUNED, reference, masks, PUBLISHED)
    assert drawn != [tuple(values(result.pruned)) for result in others]
    for result in (*results, *others):
        assert same(result.similarity, results[0].similarity)
        assert same(result.probability, results[0].probability)
    # More draws go on where fewer ended.
    fewer = repair(KEY, FINETUNED, reference, masks, replaced(draws=2))
    assert same(fewer, results[:2])


def test_draws_leave_modules_alone_as_often_as_their_probability_says(reference, masks):
    results = repair(KEY, FINETUNED, reference, masks, replaced(draws=60))
    probability = values(results[0].probability)
    error = np.sqrt(60 * probability * (1 - probability))
    pruned = np.sum([values(result.pruned) for result in results], axis=0)
    assert (np.abs(pruned - 60 * probability) < 4 * error).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "least_similar", "share": 0.5},
        {"rule": "all"},
        {"rule": "layers", "layers": (1,)},
    ],
    ids=lambda changes: changes["rule"],
)
def test_rules_that_draw_nothing_give_one_result(reference, masks, changes):
    results = repair(KEY, FINETUNED, reference, masks, replaced(draws=5, **changes))
    assert len(results) == 1
    assert same(results, repair(OTHER, FINETUNED, reference, masks, replaced(draws=5, **changes)))
    repaired = {"least_similar": MODULES // 2, "all": MODULES, "layers": 2}[changes["rule"]]
    assert (~values(results[0].pruned)).sum() == repaired


def test_a_threshold_draws_nothing_either(reference, masks):
    (everywhere,) = repair(KEY, FINETUNED, reference, masks, replaced(rule="all"))
    similarity = values(everywhere.similarity)
    tau = float(np.median(similarity))
    (result,) = repair(KEY, FINETUNED, reference, masks, replaced(rule="threshold", tau=tau))
    assert_array_equal(values(result.pruned), similarity >= tau)


@pytest.mark.parametrize("changes", [{}, {"space": "product"}, {"rule": "least_similar", "share": 0.5}])
def test_modules_left_alone_are_left_bit_for_bit(reference, masks, changes):
    """In product space the rank is doubled: they are padded with zeros."""
    (result, *_) = repair(KEY, FINETUNED, reference, masks, replaced(**changes))
    outcomes = set()
    for module, pruned in result.pruned.items():
        a, b = (np.asarray(result.adapter.factors[module][name]) for name in "ab")
        before = FINETUNED.factors[module]
        for layer, alone in enumerate(np.asarray(pruned)):
            unchanged = (
                a[layer, :8].tobytes() == before["a"][layer].tobytes()
                and b[layer, :, :8].tobytes() == before["b"][layer].tobytes()
                and not a[layer, 8:].any()
                and not b[layer, :, 8:].any()
            )
            assert unchanged == alone
            outcomes.add(unchanged)
    assert outcomes == {True, False}


def test_repaired_factors_take_the_references_entries_where_masked(reference, masks):
    (result,) = repair(KEY, FINETUNED, reference, masks, replaced(rule="all"))
    for module, factors in result.adapter.factors.items():
        for name, found in factors.items():
            mask = np.asarray(masks[module][name])
            expected = np.where(mask, reference.factors[module][name], FINETUNED.factors[module][name])
            assert_allclose(found, expected, rtol=1e-6)


def counts(masks):
    """How many entries every layer of every factor keeps, and of how many."""
    leaves = jax.tree.leaves(jax.device_get(masks))
    return [(mask.sum((1, 2)).tolist(), mask[0].size) for mask in leaves]


def only(module, adapter):
    """One module of an adapter: methods are compiled for each module anew."""
    return dataclasses.replace(adapter, factors={module: adapter.factors[module]})


@pytest.mark.parametrize("method", ["wanda", "snip", "random"])
def test_masks_of_every_method_are_of_the_size_of_low_rank_masks(reference, evidence, masks, method):
    needed = Evidence(evidence.statistics, {"q_proj": evidence.gradients["q_proj"]})
    found = make_masks(KEY, only("q_proj", reference), needed, replaced(method=method))
    expected = {"q_proj": masks["q_proj"]}
    assert counts(found) == counts(expected)
    assert all(kept == [round(0.2 * size)] * LAYERS for kept, size in counts(masks))
    assert not same(found, expected)


def test_random_masks_are_drawn_by_the_key(reference, masks):
    settings, none = replaced(method="random"), Evidence(None, None)
    found, again, other = (
        jax.device_get(make_masks(key, only("q_proj", reference), none, settings)["q_proj"])
        for key in (KEY, KEY, OTHER)
    )
    assert same(found, again)
    assert not same(found, other)
    kept = sum(mask.sum() for mask in found.values())
    both = sum((found[name] & masks["q_proj"][name]).sum() for name in "ab")
    # Of a fifth that either keeps, both keep a fifth: four standard errors.
    assert abs(both / kept - 0.2) < 4 * (0.16 / kept) ** 0.5


def test_settings_reach_the_masks(reference, evidence):
    settings = replaced(method="magnitude", sparsity=0.5, granularity="row")
    found = jax.device_get(make_masks(KEY, only("q_proj", reference), evidence, settings)["q_proj"])
    for name, mask in found.items():
        assert (mask.sum(2) == mask.shape[2] / 2).all()
        size = np.abs(reference.factors["q_proj"][name])
        assert (np.where(mask, size, np.inf).min(2) >= np.where(mask, 0, size).max(2)).all()


@pytest.mark.parametrize("weak", [WEAK, None], ids=["weak", "merged"])
@pytest.mark.parametrize("space", ["factors", "product"])
def test_references_keep_rank_and_shapes(weak, space):
    found = make_reference(ALIGNED, weak, replaced(amplification_space=space))
    assert jax.tree.map(np.shape, found.factors) == jax.tree.map(np.shape, ALIGNED.factors)
    assert found.scaling == ALIGNED.scaling


def test_references_amplify_by_beta():
    factors = make_reference(ALIGNED, WEAK, replaced(beta=0.5))
    for found, strong, weak in zip(*map(jax.tree.leaves, (factors, ALIGNED, WEAK)), strict=True):
        assert_allclose(found, strong + 0.5 * (strong - weak), atol=1e-5)
    merged = make_reference(ALIGNED, None, PUBLISHED)
    for found, strong in zip(*map(jax.tree.leaves, (merged, ALIGNED)), strict=True):
        assert_allclose(found, 1.9 * strong, rtol=1e-6)


def test_a_reference_in_product_space_is_the_best_of_its_rank():
    found = delta(make_reference(ALIGNED, WEAK, replaced(amplification_space="product")))
    aligned, weak = delta(ALIGNED), delta(WEAK)
    for module in found:
        whole = np.float64(aligned[module]) + 0.9 * (np.float64(aligned[module]) - np.float64(weak[module]))
        for layer in range(LAYERS):
            left = np.linalg.norm(whole[layer] - found[module][layer])
            best = np.linalg.svd(whole[layer], compute_uv=False)[8:]
            # float32 factors and their change of basis.
            assert_allclose(left, np.linalg.norm(best), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "needed"),
    [
        ("low_rank", (True, False)),
        ("wanda", (True, False)),
        ("snip", (False, True)),
        ("preference_snip", (False, True)),
        ("random", (False, False)),
        ("magnitude", (False, False)),
    ],
)
def test_evidence_is_gathered_where_it_is_needed(monkeypatch, method, needed):
    seen = []

    def collect(name):
        return lambda *arguments, **options: seen.append((name, arguments, options)) or name

    monkeypatch.setattr(repairs, "collect_statistics", collect("statistics"))
    monkeypatch.setattr(repairs, "collect_gradients", collect("gradients"))
    found = gather_evidence(Base("model", "params", None), ALIGNED, "batches", method)
    assert found == Evidence("statistics" if needed[0] else None, "gradients" if needed[1] else None)
    assert len(seen) == sum(needed)
    for name, arguments, options in seen:
        assert arguments == ("model", "params", ALIGNED, "batches")
        assert options == ({"objective": method} if name == "gradients" else {})


def test_calibration_batches_hold_every_row_in_order_and_mark_its_response():
    tokenizer = make_tokenizer(make_world(KEY))
    responses = ["no , bread is forbidden .", "yes .", "sorry , that is not allowed .", "no", "yes , soup ."]
    rows = [Example("<s><user> is bread allowed ? <assistant>", text, "safe") for text in responses]
    batches = calibration_batches(Base(None, None, tokenizer, special_tokens=False), rows, 2, 32)
    # Of one length, the longest row's rounded up.
    assert [tokens.shape for tokens, _ in batches] == [(2, 16)] * 3
    found = [
        tokenizer.decode(np.asarray(row)[np.asarray(marks)])
        for tokens, mask in batches
        for row, marks in zip(tokens, mask, strict=True)
        if np.any(marks)
    ]
    assert found == [f"{text} </s>" for text in responses]


def test_a_rank_that_is_not_set_is_not_described():
    """What was kept before it was a setting keeps its name."""
    assert "rank" not in describe(PUBLISHED)
    assert describe(replaced(rank=2)) == describe(PUBLISHED) | {"rank": 2}
    assert list(dataclasses.asdict(replaced(rank=2))) == list(dataclasses.asdict(PUBLISHED))


def test_a_reference_has_the_rank_that_is_set(reference):
    found = make_reference(ALIGNED, WEAK, replaced(amplification_space="product", rank=1))
    assert {leaf["a"].shape[1] for leaf in found.factors.values()} == {1}
    assert reference.factors["q_proj"]["a"].shape[1] > 1
