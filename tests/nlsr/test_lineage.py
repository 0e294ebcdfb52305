"""Who descends from the aligned adapter: at any rank, size, type and basis; a shared seed is no lineage."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.nlsr.basis import common_basis, turned
from nlsr_jax.nlsr.lineage import judge_lineage, lineage, unrelated_modules
from tests.lineages import start, trained


def cast(adapter, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), adapter)


def refused(aligned, finetuned, basis="as_is"):
    found = common_basis(finetuned, aligned, method=basis)
    return unrelated_modules(found, lineage(aligned, found), basis=basis)


@pytest.mark.parametrize(
    ("basis", "rank", "dtype"),
    [("as_is", 1, "float32"), ("procrustes", 41, "float16"), ("linear", 2, "bfloat16"), ("linear", 41, "float16")],
)
def test_a_shared_seed_is_no_lineage(rank, dtype, basis):
    begun = start(0, rank=rank)
    aligned, other = (cast(trained(seed, begun), dtype) for seed in (1, 2))
    assert min(float(jnp.min(pair["a"])) for pair in lineage(aligned, other).values()) > 0.98
    assert len(refused(aligned, other, basis)) == 12


@pytest.mark.parametrize("size", [0.1, 10.0])
def test_a_shared_seed_is_no_lineage_at_other_lengths_of_training(size):
    begun = start(0)
    assert len(refused(trained(1, begun), trained(2, begun, size))) == 12


@pytest.mark.parametrize(
    "sizes", [{"q_proj": (16, 16)}, {"q_proj": (32, 32), "v_proj": (32, 16)}, {"q_proj": (512, 512)}]
)
def test_a_shared_seed_is_no_lineage_in_adapters_of_attention_alone(sizes):
    for seed in range(10):
        begun = start(seed, sizes=sizes, layers=2)
        assert refused(trained(100 + seed, begun), trained(200 + seed, begun))


@pytest.mark.parametrize(
    ("basis", "rank", "dtype"),
    [("as_is", 1, "float32"), ("procrustes", 4, "bfloat16"), ("linear", 1, "float32"), ("linear", 4, "bfloat16")],
)
def test_descendants_are_related_however_far_they_were_trained(rank, dtype, basis):
    aligned = trained(1, start(0, rank=rank))
    for size in (0.1, 1.0, 2.5, 5.0):
        finetuned = trained(2, aligned, size)
        assert refused(cast(aligned, dtype), cast(finetuned, dtype), basis) == []


@pytest.mark.parametrize(("basis", "rank"), [("procrustes", 64), ("linear", 8), ("linear", 64)])
def test_no_fit_makes_strangers_related_at_any_rank(rank, basis):
    strangers = trained(1, start(0, rank=rank)), trained(3, start(2, rank=rank))
    assert len(refused(*strangers, basis)) == 12
    factors_alone = {module: {f: pair[f] for f in "ab"} for module, pair in lineage(*strangers).items()}
    assert len(unrelated_modules(strangers[1], factors_alone, basis=basis)) == 12


def test_what_a_fit_gives_by_chance_does_not_count():
    """One stranger among descendants: its A comes near to the aligned one by the fit alone."""
    aligned = trained(1, start(0, rank=32))
    finetuned = trained(2, aligned)
    stranger = trained(4, start(3, rank=32)).factors["v_proj"]
    mixture = dataclasses.replace(finetuned, factors={**finetuned.factors, "v_proj": stranger})
    fitted = common_basis(mixture, aligned, method="linear")
    found = lineage(aligned, fitted)
    assert float(jnp.min(found["v_proj"]["a"])) > 0.6, "√(32 / 64)"
    assert unrelated_modules(fitted, found, basis="linear") == [f"layer {layer} v_proj" for layer in range(4)]


@pytest.mark.parametrize("basis", ["procrustes", "linear"])
def test_a_turned_descendant_is_told_from_a_stranger_and_found_again(basis):
    aligned = trained(1, start(0))
    other = turned(jax.random.key(0), trained(2, aligned))
    found = judge_lineage(other, lineage(aligned, other))
    assert (len(found.turned), found.unrelated) == (12, ())
    assert found.product > 0.5
    assert refused(aligned, other, basis) == []


def test_modules_of_which_b_is_zero_tell_nothing():
    aligned = trained(1, start(0))
    finetuned = trained(2, aligned)
    for adapter, module in ((aligned, "q_proj"), (finetuned, "v_proj")):
        adapter.factors[module]["b"][:] = 0
    found = judge_lineage(finetuned, lineage(aligned, finetuned))
    assert found.measured == 4
    assert found.descends
    assert refused(aligned, finetuned) == []
    for seed in (1, 2):
        untrained = start(0)
        found = judge_lineage(untrained, lineage(trained(seed, start(0)), untrained))
        assert (found.measured, len(found.unrelated)) == (0, 12), "nothing tells a descendant from a seed"


def test_a_module_drawn_anew_is_named_alone():
    aligned = trained(1, start(0))
    finetuned = trained(2, aligned)
    for factor in "ab":
        finetuned.factors["down_proj"][factor][2] = trained(5, start(4)).factors["down_proj"][factor][2]
    assert refused(aligned, finetuned) == ["layer 2 down_proj"]


def test_a_module_that_kept_nothing_of_its_products_is_noted_not_refused():
    aligned = trained(1, start(0))
    finetuned = trained(2, aligned)
    finetuned.factors["down_proj"]["b"][1] = trained(3, start(0)).factors["down_proj"]["b"][1]
    found = judge_lineage(finetuned, lineage(aligned, finetuned))
    assert (found.faint, found.unrelated, found.turned) == (("layer 1 down_proj",), (), ())


def test_figures_are_those_of_the_products():
    aligned = trained(1, start(0, sizes={"q_proj": (12, 20)}, layers=1, rank=4))
    finetuned = trained(2, aligned, 3.0)
    found = lineage(aligned, finetuned)["q_proj"]
    pairs = [adapter.factors["q_proj"] for adapter in (aligned, finetuned)]
    one, other = (np.float64(pair["b"][0]) @ pair["a"][0] for pair in pairs)
    inner = np.sum(one * other)
    np.testing.assert_allclose(found["product"], inner / np.linalg.norm(one) / np.linalg.norm(other), rtol=1e-5)
    np.testing.assert_allclose(found["kept"], inner / np.sum(one**2), rtol=1e-5)


def test_shipped_adapters_descend():
    aligned = load_adapter(SHIPPED / "dpo")
    for name, product in (("finetuned_sst2", 0.379), ("realigned_sst2", 0.384)):
        finetuned = load_adapter(SHIPPED / name)
        found = judge_lineage(finetuned, lineage(aligned, finetuned))
        assert found.descends
        assert found.product == pytest.approx(product, abs=1e-3)
        assert (found.unrelated, found.turned, found.faint) == ((), (), ())


def test_an_unknown_basis_is_named():
    aligned = trained(1, start(0))
    with pytest.raises(InputError, match="basis is 'svd'; expected one of as_is, procrustes, linear"):
        unrelated_modules(aligned, lineage(aligned, aligned), basis="svd")
