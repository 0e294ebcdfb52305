"""Runs on adapters that do not descend from the aligned one: refused with the figures and with what to do."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from nlsr_jax.errors import InputError, argument
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.formats.record import read_record
from nlsr_jax.nlsr.basis import turned
from nlsr_jax.pipeline import Settings, Stages, identify_files, realign_files
from nlsr_jax.pipeline.advice import FRESH_ADVICE
from nlsr_jax.pipeline.run import Notes
from nlsr_jax.pipeline.settings import from_record
from nlsr_jax.pipeline.verification import verify
from nlsr_jax.report import write_report
from tests.lineages import start, trained

SIZES = {"q_proj": (32, 32), "v_proj": (32, 16)}

ADVICE = str(InputError(FRESH_ADVICE))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two adapters of one seed and different bases, as transformers' default seed makes them, and a descendant."""
    folder = tmp_path_factory.mktemp("files")
    begun = start(42, sizes=SIZES, layers=2)
    aligned = trained(1, begun)
    save_adapter(aligned, folder / "aligned", base_model_name_or_path="example/aligned-base")
    save_adapter(trained(2, begun), folder / "same_seed", base_model_name_or_path="example/finetuned-base")
    save_adapter(trained(3, aligned), folder / "finetuned", base_model_name_or_path="else/aligned-base-bnb-4bit")
    save_adapter(turned(jax.random.key(0), trained(3, aligned)), folder / "turned")
    save_adapter(trained(5, start(7, sizes=SIZES, layers=2)), folder / "fresh")
    return folder


def settings(files, finetuned, **changes):
    given = {"aligned": str(files / "aligned"), "finetuned": str(files / finetuned), "method": "magnitude"}
    return Settings(**{**given, "rule": "all", **changes})


class Said(Stages):
    """Keeps what a run prints."""

    def __init__(self):
        super().__init__(show=False)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.mark.parametrize("basis", ["as_is", "procrustes", "linear"])
@pytest.mark.parametrize("finetuned", ["same_seed", "fresh"])
def test_adapters_that_do_not_descend_are_refused_with_what_to_do(files, tmp_path, finetuned, basis):
    said = Said()
    with pytest.raises(InputError) as error:
        realign_files(settings(files, finetuned, basis=basis), tmp_path / "out", stages=said)
    message = str(error.value)
    assert "4 of 4 modules do not descend from the aligned adapter: layer 0 q_proj" in message
    assert "of the products B A" in message
    assert ADVICE in message
    assert ("an equal A alone comes of an equal seed and is no lineage" in message) == (
        (finetuned, basis) == ("same_seed", "as_is")
    )
    assert any(line.startswith("lineage: mean cosine with the aligned adapter") for line in said.lines)
    differ = any("the base models differ by name: aligned example/aligned-base" in line for line in said.lines)
    assert differ == (finetuned == "same_seed")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [("rank", "the ranks differ"), ("modules", "adapt different modules"), ("scaling", "the scaling of q_proj")],
)
def test_a_fresh_adapter_of_another_structure_has_the_advice_too(files, tmp_path, kind, message):
    sizes = {"q_proj": (32, 32)} if kind == "modules" else SIZES
    begun = start(7, sizes=sizes, layers=2, rank=3) if kind == "rank" else start(7, sizes=sizes, layers=2)
    fresh = trained(5, begun)
    save_adapter(dataclasses.replace(fresh, scaling=7.0) if kind == "scaling" else fresh, tmp_path / "fresh")
    with pytest.raises(InputError, match=message) as error:
        realign_files(settings(tmp_path, "fresh", aligned=str(files / "aligned")), tmp_path / "out")
    assert ADVICE in str(error.value)


def test_given_masks_are_no_way_around(files, tmp_path):
    realign_files(settings(files, "finetuned"), tmp_path / "masks")
    with pytest.raises(InputError, match="do not descend from the aligned adapter"):
        realign_files(settings(files, "same_seed", masks=str(tmp_path / "masks")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_descendant_has_its_figures_in_the_record_and_the_report(files, tmp_path):
    said = Said()
    record = realign_files(settings(files, "finetuned"), tmp_path / "out", stages=said)
    found = record["lineage"]
    assert found["descends"]
    assert (found["measured"], found["unrelated"], found["turned"], found["faint"]) == (4, 0, 0, 0)
    assert min(found["product"], found["b"]) > 0.5
    for module in record["modules"]:
        assert module["lineage"] == module["lineage_product"]
        assert {"lineage_a", "lineage_b", "lineage_kept"} < set(module)
    assert found["product"] == pytest.approx(np.mean([module["lineage"] for module in record["modules"]]))
    assert record["warnings"] == [], "a quantised sibling is the same base"
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"a mean of {found['product']:.3f}" in page
    assert f"the mean is {found['b']:.3f} for <code>B</code>" in page
    assert any(f"{found['product']:.3f} of the products B A, {found['b']:.3f} of B" in line for line in said.lines)


def test_what_is_allowed_is_noted(files, tmp_path):
    record = realign_files(settings(files, "same_seed", allow_unrelated=True), tmp_path / "out")
    first, second = record["warnings"]
    assert "the base models differ by name" in first
    assert "4 of 4 modules do not descend from the aligned adapter" in second
    assert not record["lineage"]["descends"]
    assert "the base models differ by name" in (tmp_path / "out" / "report.html").read_text()


def test_a_turned_descendant_is_told_of_the_basis(files, tmp_path):
    with pytest.raises(InputError, match=r"factor for factor: .*products are related .* give basis procrustes"):
        realign_files(settings(files, "turned"), tmp_path / "out")
    record = realign_files(settings(files, "turned", basis="procrustes"), tmp_path / "out")
    assert record["lineage"]["descends"]


def test_a_record_that_would_be_refused_today_is_repeated_and_verified(files, tmp_path):
    before = realign_files(settings(files, "same_seed", allow_unrelated=True), tmp_path / "one")
    file = tmp_path / "one" / "realignment.json"
    old = json.loads(file.read_text())
    old["settings"]["allow_unrelated"] = False  # as when the equal A passed for a lineage
    for module in old["modules"]:
        module["lineage"] = max(module["lineage_a"], module["lineage_b"])
        del module["lineage_product"], module["lineage_kept"]
    del old["lineage"], old["seal"]
    file.write_text(json.dumps(old))
    record = read_record(file)
    again = realign_files(from_record(record["settings"], "record"), tmp_path / "two", recorded=record["inputs"])
    assert again["outputs"]["adapter_model.safetensors"] == before["outputs"]["adapter_model.safetensors"]
    assert any("do not descend" in warning for warning in again["warnings"])
    assert verify(tmp_path / "one", recompute=True).changed == (
        "realignment.json: has no seal; it was removed, or never written",
    )
    write_report(record, tmp_path / "page.html")
    assert "of A or of B, whichever is higher" in (tmp_path / "page.html").read_text()


def test_a_weak_adapter_of_another_rank_axis_is_refused(files, tmp_path):
    given = settings(files, "finetuned", weak=str(files / "fresh"))
    with pytest.raises(InputError, match=r"fresh: 4 modules do not share the aligned adapter's .* rank 8"):
        realign_files(given, tmp_path / "out")
    with pytest.raises(InputError, match="do not share the aligned adapter's rank axis"):
        identify_files(given, tmp_path / "out")
    record = realign_files(dataclasses.replace(given, allow_unrelated=True), tmp_path / "out")
    assert any(warning.startswith("weak: 4 modules") for warning in record["warnings"])
    product = dataclasses.replace(given, amplification_space="product", rank=8)
    assert realign_files(product, tmp_path / "product")["warnings"] == []


def test_a_weak_adapter_of_the_same_start_and_one_of_zeros_are_taken(files, tmp_path):
    zero = jax.tree.map(np.zeros_like, load_adapter(files / "aligned"))
    save_adapter(zero, tmp_path / "zero")
    for name, weak in (("one", files / "same_seed"), ("two", tmp_path / "zero")):
        record = realign_files(settings(files, "finetuned", weak=str(weak)), tmp_path / name)
        assert not any(warning.startswith("weak") for warning in record["warnings"])


def test_a_missing_aligned_adapter_has_advice(files, tmp_path):
    with pytest.raises(InputError) as error:
        realign_files(Settings(finetuned=str(files / "fresh"), method="magnitude"), tmp_path / "out")
    assert ADVICE in str(error.value)


def test_notes_name_flags():
    notes = Notes(Stages(False))
    notes.add([f"leave {argument('aligned')} out"])
    assert notes.kept == ["leave --aligned out"]
