"""Runs that lift the customer's update beside an aligned adapter: basis turned, svd and own."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.adapter import delta
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import open_adapter, save_adapter
from nlsr_jax.nlsr.settings import RECOMMENDED_LINEAGE
from nlsr_jax.nlsr.update import factor_update
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.pipeline.lifted import Lift, LiftedFile
from nlsr_jax.pipeline.verification import verify
from nlsr_jax.random_streams import stream
from tests.adapter_files import SIZES
from tests.oracles import random_adapter
from tests.tiny_base import save_base, save_rows

RANKS = {"aligned": 4, "finetuned": 3, "weak": 2}
SCALINGS = {"aligned": 2.0, "finetuned": 0.5, "weak": 1.0}


def small(name, layers=2):
    found = random_adapter(len(name), layers=layers, rank=RANKS[name], sizes=SIZES, scaling=SCALINGS[name])
    return jax.tree.map(lambda x: np.float32(0.1) * x, found)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, rows, and three adapters that share no lineage, no rank and no scaling."""
    folder = tmp_path_factory.mktemp("updates")
    save_base(folder / "base")
    save_rows(folder / "rows.jsonl")
    for name in RANKS:
        save_adapter(small(name), folder / name)
    return folder


def settings(files, *names, **changes):
    paths = {name: str(files / name) for name in ("aligned", "finetuned", *names)}
    data = {"base": str(files / "base"), "calibration": str(files / "rows.jsonl")}
    if changes.get("method") in ("magnitude", "random"):
        data = {}
    return Settings(**{**paths, **data, **dataclasses.asdict(RECOMMENDED_LINEAGE), "sparsity": 0.9, **changes})


def lift(files, *names, basis="turned"):
    opened = {name: open_adapter(files / name) for name in ("aligned", "finetuned", *names)}
    return Lift(**opened, basis=basis, key=jax.random.key(0))


@pytest.mark.parametrize(("basis", "weak"), [("turned", True), ("svd", False)])
def test_lifted_files_are_the_lift_of_the_adapters(files, basis, weak):
    made = lift(files, *["weak"] * weak, basis=basis)
    key = jax.random.key(0)
    direction = None
    if weak:
        other = stream(key, "direction")
        direction = factor_update(small("aligned"), small("weak"), basis=basis, key=other)
    expected = nlsr_jax.lift(small("finetuned"), direction, aligned=small("aligned"), basis=basis, key=key)
    for kind, adapter in expected._asdict().items():
        found = LiftedFile(made, kind).load()
        assert jax.tree.map(np.shape, found.factors) == jax.tree.map(lambda s: s.shape, made.shapes().factors)
        for module, product in delta(adapter).items():
            np.testing.assert_allclose(delta(found)[module], product, atol=1e-6)
    assert made.slots("q_proj") == ((4, 6, 7) if weak else (0, 4, 7))


def test_how_layers_are_read_changes_no_bit(files):
    whole, rows = lift(files, "weak"), lift(files, "weak")
    for kind in ("finetuned", "weak"):
        one = whole.factors(kind, "v_proj")
        single = [rows.factors(kind, "v_proj", slice(row, row + 1)) for row in (1, 0)]
        for factor in ("a", "b"):
            assert np.array_equal(one[factor], np.concatenate([part[factor] for part in reversed(single)]))


@pytest.mark.parametrize("names", [("weak",), ()])
def test_the_written_product_is_that_of_the_public_functions(files, tmp_path, names):
    record = realign_files(settings(files, *names), tmp_path / "out")
    masks, made = nlsr_jax.load_masks(tmp_path / "out"), lift(files, *names)
    weak, aligned, finetuned = (LiftedFile(made, kind).load() for kind in ("weak", "aligned", "finetuned"))
    reference = nlsr_jax.amplify(aligned, weak, beta=1.0)
    expected = nlsr_jax.realign(jax.random.key(0), finetuned, reference, masks, rule="all").adapter
    written = nlsr_jax.load_adapter(tmp_path / "out")
    assert written.scaling == 1.0
    marked = 0
    for module, product in delta(expected).items():
        np.testing.assert_allclose(delta(written)[module], product, atol=1e-6)
        slots, ranks = made.slots(module), record["lift"]["ranks"][module]
        assert not masks[module]["a"][:, : slots.aligned].any()
        assert not masks[module]["b"][:, :, : slots.aligned].any()
        assert ranks["written"] == written.factors[module]["a"].shape[1] <= sum(slots)
        marked += sum(int(mask.sum()) for mask in masks[module].values())
    assert marked == record["summary"]["changed_entries"] == round(0.1 * record["summary"]["total_entries"])
    free = sum(sum(made.slots(m)[1:]) * 2 * (k + d) for m, (k, d) in SIZES.items())
    assert record["summary"]["total_entries"] == free
    assert "basis" in record["key"]
    assert "product" in record["lineage"]
    assert not verify(tmp_path / "out", recompute=True).changed


@pytest.mark.parametrize("method", ["random", "low_rank", "snip"])
def test_no_score_marks_the_fixed_slot(files, tmp_path, method):
    asked = settings(files, "weak", method=method, granularity="tensor")
    record = realign_files(asked, tmp_path / "out")
    masks, made = nlsr_jax.load_masks(tmp_path / "out"), lift(files, "weak")
    for entry in record["modules"]:
        slots, mask = made.slots(entry["module"]), masks[entry["module"]]
        assert not mask["a"][:, : slots.aligned].any()
        assert not mask["b"][:, :, : slots.aligned].any()
        for factor in ("a", "b"):
            assert entry[f"kept_{factor}"] == round(0.1 * entry[f"size_{factor}"])


def test_compression_is_the_best_of_its_rank(files, tmp_path):
    asked = settings(files, "weak", method="random", max_rank=5)
    realign_files(settings(files, "weak", method="random"), tmp_path / "exact")
    record = realign_files(asked, tmp_path / "out")
    exact, written = (nlsr_jax.load_adapter(tmp_path / name) for name in ("exact", "out"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (5, 5, {})
    for module, products in delta(exact).items():
        for layer, product in enumerate(np.float64(products)):
            s = np.linalg.svd(product, compute_uv=False)
            left = np.sqrt(np.sum(s[5:] ** 2) / np.sum(s**2))
            found = record["lift"]["compression"]["residual"][module][layer]
            assert found == pytest.approx(left, abs=1e-5)
            error = np.linalg.norm(product - delta(written)[module][layer]) / np.linalg.norm(product)
            assert error == pytest.approx(left, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis": "own"}, "rank 4 in aligned .* and 3 in fine-tuned .*: take basis 'turned'"),
        ({"space": "product"}, "space is product; with basis turned expected factors"),
        ({"beta": 0.0, "method": "magnitude"}, "nothing is amplified: take method gain"),
        ({"pretrained": "x"}, "pretrained is for adapters without aligned"),
        ({"basis": "as_is", "max_rank": 3}, "max_rank compresses lifted adapters"),
    ],
)
def test_what_is_refused(files, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        realign_files(settings(files, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_automatic_choice_takes_no_lifted_adapters(files, tmp_path):
    with pytest.raises(InputError, match="automatic is given together with basis turned"):
        realign_files(settings(files), tmp_path / "out", automatic=0.9)
