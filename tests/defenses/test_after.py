"""Defenses that change a fine-tuned adapter afterwards, against the arithmetic of their papers in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.adapter import delta
from nlsr_jax.defenses.antidote import antidote
from nlsr_jax.defenses.lox import lox
from nlsr_jax.defenses.lssf import entropy_rank, lssf
from nlsr_jax.defenses.mscp import mscp
from nlsr_jax.defenses.resta import resta
from nlsr_jax.defenses.safelora import safelora
from nlsr_jax.defenses.safemerge import safemerge
from nlsr_jax.defenses.splora import ediem, splora
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.statistics import Statistics, cholesky_root
from tests.oracles import activations, mixed, random_adapter

# Float32 products of up to 16 terms after a QR and an SVD.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
ALIGNED = random_adapter(0)
FINETUNED = mixed(ALIGNED, random_adapter(1), 0.7)
WEAK = random_adapter(2)


def updates(adapter):
    return {m: np.asarray(value, np.float64) for m, value in delta(adapter).items()}


def fast_projection(v):
    return v @ np.swapaxes(v, 1, 2) / np.linalg.norm(v, axis=(1, 2), keepdims=True)


def cosines():
    """``cos(C B A, B A)`` by module from full matrices."""
    found = {}
    for module, v in updates(ALIGNED).items():
        w = updates(FINETUNED)[module]
        cw = fast_projection(v) @ w
        found[module] = (cw * w).sum((1, 2)) / np.linalg.norm(cw, axis=(1, 2)) / np.linalg.norm(w, axis=(1, 2))
    return found


def middle():
    return float(np.median(np.concatenate(list(cosines().values())))) + 1e-4


def test_safelora_projects_the_modules_below_the_threshold():
    found = safelora(FINETUNED, ALIGNED, tau=middle())
    changed = np.concatenate(list(found.changed.values()))
    assert 0 < changed.sum() < changed.size
    for module, value in updates(found.adapter).items():
        w, v = updates(FINETUNED)[module], updates(ALIGNED)[module]
        np.testing.assert_allclose(found.cosine[module], cosines()[module], **CLOSE)
        np.testing.assert_array_equal(found.changed[module], cosines()[module] <= middle())
        expected = np.where(np.asarray(found.changed[module])[:, None, None], fast_projection(v) @ w, w)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)  # entries of some hundreds


@pytest.mark.parametrize("number", [0, 4, 9])
def test_safelora_projects_the_given_number_of_least_like(number):
    found = safelora(FINETUNED, ALIGNED, number=number)
    values = np.concatenate([np.asarray(found.cosine[m]) for m in sorted(found.cosine)])
    changed = np.concatenate([np.asarray(found.changed[m]) for m in sorted(found.changed)])
    assert changed.sum() == number
    if 0 < number < 9:
        assert values[changed].max() <= values[~changed].min()


def test_safelora_leaves_other_modules_and_the_other_factor_bit_for_bit():
    found = safelora(FINETUNED, ALIGNED, number=4)
    for module, leaf in found.adapter.factors.items():
        np.testing.assert_array_equal(leaf["a"], FINETUNED.factors[module]["a"])
        kept = ~np.asarray(found.changed[module])
        np.testing.assert_array_equal(leaf["b"][kept], FINETUNED.factors[module]["b"][kept])
    sides = safelora(FINETUNED, ALIGNED, number=4, side="input")
    for module, leaf in sides.adapter.factors.items():
        np.testing.assert_array_equal(leaf["b"], FINETUNED.factors[module]["b"])


def test_safelora_of_the_aligned_adapter_itself_changes_nothing_with_the_exact_projector():
    found = safelora(ALIGNED, ALIGNED, projector="exact", number=9)
    for module in found.cosine:
        np.testing.assert_allclose(found.cosine[module], 1.0, rtol=1e-5)
        np.testing.assert_allclose(found.adapter.factors[module]["b"], ALIGNED.factors[module]["b"], **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"projector": "slow"}, "projector is 'slow'"),
        ({"number": -1}, "number is -1"),
        ({"side": "x"}, "side is 'x'"),
    ],
)
def test_safelora_settings_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        safelora(FINETUNED, ALIGNED, **arguments)


def test_safemerge_blends_the_modules_below_the_threshold():
    found = safemerge(FINETUNED, ALIGNED, tau=middle(), weight=0.8)
    for module, value in updates(found.adapter).items():
        w, v = updates(FINETUNED)[module], updates(ALIGNED)[module]
        blended = np.asarray(found.changed[module])[:, None, None]
        np.testing.assert_array_equal(found.changed[module], cosines()[module] < middle())
        np.testing.assert_allclose(value, np.where(blended, 0.8 * w + 0.2 * v, w), **CLOSE)


def test_safemerge_in_factor_space_keeps_the_rank():
    found = safemerge(FINETUNED, ALIGNED, tau=1.1, weight=0.8, space="factors")
    for module, leaf in found.adapter.factors.items():
        for factor, value in leaf.items():
            one, two = FINETUNED.factors[module][factor], ALIGNED.factors[module][factor]
            np.testing.assert_allclose(value, 0.8**0.5 * one + 0.2**0.5 * two, rtol=1e-5, atol=1e-6)


def test_safemerge_refuses_a_weight_outside_its_range():
    with pytest.raises(InputError, match=r"weight is 1.5; expected 0 to 1"):
        safemerge(FINETUNED, ALIGNED, weight=1.5)


@pytest.mark.parametrize("unaligned", [None, WEAK])
def test_resta_adds_the_safety_vector(unaligned):
    found = updates(resta(FINETUNED, ALIGNED, unaligned, gamma=0.6))
    for module, value in found.items():
        vector = updates(ALIGNED)[module] - (0 if unaligned is None else updates(unaligned)[module])
        np.testing.assert_allclose(value, updates(FINETUNED)[module] + 0.6 * vector, **CLOSE)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_lox_extrapolates_the_top_directions(rank):
    found = lox(ALIGNED, rank=rank, coefficient=1.25)
    for module, value in updates(found).items():
        v = updates(ALIGNED)[module]
        u, s, vt = np.linalg.svd(v, full_matrices=False)
        kept = s * (np.arange(s.shape[1]) < (rank or s.shape[1]))
        np.testing.assert_allclose(value, v + 1.25 * (u * kept[:, None]) @ vt, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found.factors[module]["a"], ALIGNED.factors[module]["a"])


def test_lox_refuses_a_negative_rank():
    with pytest.raises(InputError, match="rank is -1"):
        lox(ALIGNED, rank=-1)


def statistics_of(inputs, adapter):
    """Statistics of explicit activations ``{module: [L, n, k]}``, one sequence."""
    gram, square = {}, {}
    for module, x in inputs.items():
        z = np.einsum("lnk,lrk->lnr", x.astype(np.float64), adapter.factors[module]["a"].astype(np.float64))
        gram[module] = jnp.asarray(np.einsum("lnr,lns->lrs", z, z), jnp.float32)
        square[module] = jnp.asarray((x.astype(np.float64) ** 2).sum(1), jnp.float32)
    count = next(iter(inputs.values())).shape[1]
    roots = {m: jax.vmap(cholesky_root)(g) for m, g in gram.items()}
    return Statistics(gram, square, roots, jnp.float32(count), jnp.float32(1))


def test_lssf_adds_the_alignment_in_its_directions_on_the_anchors():
    inputs = activations(3, ALIGNED, 200, decay=0.3)
    found = lssf(FINETUNED, ALIGNED, statistics_of(inputs, ALIGNED), alpha=1.5, share=0.7)
    for module, value in updates(found.adapter).items():
        v, w = updates(ALIGNED)[module], updates(FINETUNED)[module]
        for layer in range(3):
            u, s, _ = np.linalg.svd(v[layer] @ inputs[module][layer].T.astype(np.float64), full_matrices=False)
            s = s[:8]
            p = s**2 / (s**2).sum()
            sums = np.cumsum(-p * np.log(p))
            rank = int(np.argmax(sums >= 0.7 * sums[-1])) + 1
            assert int(found.ranks[module][layer]) == rank
            top = u[:, :rank]
            expected = w[layer] + 1.5 * top @ (top.T @ v[layer])
            np.testing.assert_allclose(value[layer], expected, rtol=1e-3, atol=1e-3)


def test_entropy_rank_keeps_at_least_one_direction_and_at_most_all():
    s = jnp.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(entropy_rank(s, 1.0), [1, 3, 1])
    np.testing.assert_array_equal(entropy_rank(s, 0.34), [1, 2, 1])


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_lssf_refuses_a_share_outside_its_range(share):
    with pytest.raises(InputError, match="share is"):
        lssf(FINETUNED, ALIGNED, statistics_of(activations(3, ALIGNED, 20), ALIGNED), share=share)


def test_antidote_zeroes_the_top_of_every_row_by_wanda():
    inputs = activations(4, FINETUNED, 50)
    found = antidote(FINETUNED, statistics_of(inputs, FINETUNED), share=0.25)
    for module, leaf in found.factors.items():
        x = inputs[module].astype(np.float64)
        a, b = (FINETUNED.factors[module][f].astype(np.float64) for f in ("a", "b"))
        z = np.einsum("lnk,lrk->lnr", x, a)
        for factor, weight, source in (("a", a, x), ("b", b, z)):
            score = np.abs(weight) * np.sqrt((source**2).sum(1))[:, None]
            count = round(0.25 * weight.shape[-1])
            threshold = np.sort(score, axis=-1)[..., -count][..., None]
            np.testing.assert_array_equal(
                leaf[factor], np.where(score >= threshold, 0, FINETUNED.factors[module][factor])
            )


def test_antidote_without_data_goes_by_magnitude():
    found = antidote(FINETUNED, None, share=0.125)
    for module, leaf in found.factors.items():
        for factor, value in leaf.items():
            whole = np.asarray(FINETUNED.factors[module][factor])
            count = round(0.125 * whole.shape[-1])
            np.testing.assert_array_equal((np.asarray(value) == 0).sum(-1), count)
            removed = np.where(value == 0, np.abs(whole), np.inf).min(-1)
            assert (removed >= np.abs(np.asarray(value)).max(-1)).all()


def test_scaling_and_layers_are_kept():
    tuned = dataclasses.replace(FINETUNED, layers=dict.fromkeys(FINETUNED.factors, (1, 4, 6)))
    strong = dataclasses.replace(ALIGNED, layers=tuned.layers)
    for found in (
        safelora(tuned, strong).adapter,
        safemerge(tuned, strong).adapter,
        resta(tuned, strong),
        lox(strong),
    ):
        assert found.layers == tuned.layers
        assert found.scaling == tuned.scaling


def test_splora_drops_the_modules_that_are_farthest_for_their_name():
    found = splora(FINETUNED, ALIGNED, number=4)
    expected = {}
    for module, v in updates(ALIGNED).items():
        w = updates(FINETUNED)[module]
        d = np.linalg.norm(fast_projection(v) @ w - w, axis=(1, 2))
        expected[module] = (d - d.mean()) / (np.quantile(d, 0.75) - np.quantile(d, 0.25))
        np.testing.assert_allclose(-found.cosine[module], expected[module], rtol=1e-3, atol=1e-3)
    scores = np.concatenate(list(expected.values()))
    changed = np.concatenate([np.asarray(found.changed[m]) for m in expected])
    assert set(np.flatnonzero(changed)) == set(np.argsort(-scores)[:4])
    for module, leaf in found.adapter.factors.items():
        flags = np.asarray(found.changed[module])
        assert not np.asarray(leaf["b"])[flags].any()
        np.testing.assert_array_equal(leaf["b"][~flags], FINETUNED.factors[module]["b"][~flags])
        np.testing.assert_array_equal(leaf["a"], FINETUNED.factors[module]["a"])


def test_ediem_of_equal_distances_is_zero():
    np.testing.assert_array_equal(ediem({"q_proj": jnp.full(5, 3.0)})["q_proj"], 0)


def test_splora_refuses_a_negative_number():
    with pytest.raises(InputError, match="number is -1"):
        splora(FINETUNED, ALIGNED, number=-1)


def test_mscp_projects_the_rows_that_only_harmful_requests_use():
    harmful, benign = activations(5, FINETUNED, 60, decay=0.4), activations(6, FINETUNED, 60, decay=0.4)
    data = statistics_of(harmful, FINETUNED), statistics_of(benign, FINETUNED)
    shares = {"harmful_share": 0.5, "benign_share": 0.25}
    found = mscp(FINETUNED, ALIGNED, *data, **shares, width=0.4, coefficient=0.75)
    touched = 0
    for module, leaf in found.factors.items():
        before = {f: np.asarray(x, np.float64) for f, x in FINETUNED.factors[module].items()}
        v = updates(ALIGNED)[module]
        for layer in range(3):
            d = before["b"].shape[1]
            change = before["b"][layer] @ before["a"][layer]
            active = [np.square(x[module][layer].astype(np.float64) @ change.T).sum(0) for x in (harmful, benign)]
            rows = set(np.argsort(-active[0])[: d // 2]) - set(np.argsort(-active[1])[: d // 4])
            rows = sorted(rows) if layer < 2 else []  # 1/6 and 1/2 are within 0.2 of 1/3, 5/6 is not
            safe = v[layer] @ v[layer].T / d
            expected = change.copy()
            expected[rows] = 0.25 * change[rows] + 0.75 * (safe @ change)[rows]
            result = np.asarray(leaf["b"][layer], np.float64) @ np.asarray(leaf["a"][layer], np.float64)
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-2)  # entries of some thousands
            others = [i for i in range(d) if i not in rows]
            np.testing.assert_array_equal(leaf["b"][layer][np.array(others)], before["b"][layer][others])
            touched += len(rows)
    assert touched


@pytest.mark.parametrize("name", ["harmful_share", "benign_share", "width", "coefficient"])
def test_mscp_settings_are_checked(name):
    data = statistics_of(activations(5, FINETUNED, 20), FINETUNED)
    with pytest.raises(InputError, match=f"{name} is 1.5"):
        mscp(FINETUNED, ALIGNED, data, data, **{name: 1.5})
