"""Realignment of files whose setting is chosen, and in a common basis."""

import dataclasses
import html
import json

import jax
import numpy as np
import pytest

from nlsr_jax.adapter import delta
from nlsr_jax.calibration import search
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.nlsr.basis import turned
from nlsr_jax.pipeline import Settings, realign_files
from tests.adapter_files import save_inputs
from tests.e2e.command import attempts, contents, run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = save_inputs(tmp_path_factory.mktemp("files"))
    other = turned(jax.random.key(0), load_adapter(folder / "finetuned"))
    save_adapter(other, folder / "turned")
    return folder


def settings(files, **changes):
    named = {name: str(files / name) for name in ("base", "aligned", "finetuned", "weak")}
    return Settings(**{**named, "calibration": str(files / "rows.jsonl"), **changes})


def assert_doubted_first(record, path):
    """Every doubt heads the warnings of the record, and stands on the page before anything else."""
    doubts = record["automatic"]["doubts"]
    assert record["warnings"][: len(doubts)] == doubts
    page = html.unescape(path.read_text())
    for doubt in doubts:
        assert page.count(doubt) == 1
        assert page.index(doubt) < page.index("<header>")


def test_rows_that_do_not_tell_the_adapters_apart_are_said_first(files, tmp_path):
    """The adapter has lost nothing, and is returned unchanged."""
    record = realign_files(settings(files, finetuned=str(files / "aligned")), tmp_path / "one", automatic=0.001)
    assert "do not tell the aligned from the fine-tuned model" in record["warnings"][0]
    assert_doubted_first(record, tmp_path / "one" / "report.html")
    assert record["summary"]["repaired"] == 0
    assert any("nothing is repaired" in warning for warning in record["warnings"])
    before, after = load_adapter(files / "aligned"), load_adapter(tmp_path / "one")
    for module, leaf in before.factors.items():
        for factor, value in leaf.items():
            np.testing.assert_array_equal(value, after.factors[module][factor])


@dataclasses.dataclass(frozen=True)
class Strict(search.SearchSettings):
    """A search that every change of a request disturbs."""

    disturbed: float = 1e-9


def test_a_choice_that_disturbs_is_said_first(files, tmp_path, monkeypatch):
    swapped = {"aligned": str(files / "finetuned"), "finetuned": str(files / "aligned")}
    monkeypatch.setattr(search, "SearchSettings", Strict)
    asked = {"aim": 0.9, "headroom": 1.01}
    record = realign_files(settings(files, **swapped), tmp_path / "one", automatic=asked)
    assert "over the limit of 1e-09" in record["warnings"][0]
    assert_doubted_first(record, tmp_path / "one" / "report.html")


def test_what_is_chosen_stands_in_the_record_and_is_repeated(chosen, tmp_path):
    output, _ = chosen
    record = json.loads((output / "realignment.json").read_text())
    used = record["settings"]
    assert (used["method"], used["granularity"]) == ("gain", "adapter")
    found = record["automatic"]
    assert record["summary"]["repaired"] == 6
    assert found["target"] > found["finetuned"]
    assert found["chosen"] in found["trials"]
    assert found["chosen"] in [{k: v for k, v in one.items() if k != "divergence"} for one in found["candidates"]]
    assert (found["chosen"]["beta"], 1 - found["chosen"]["share"]) == (used["beta"], used["sparsity"])
    run("realign", "--from_record", output / "realignment.json", "--output", tmp_path / "two")
    first, second = contents(output), contents(tmp_path / "two")
    for name in ("adapter_model.safetensors", "adapter_config.json", "masks.safetensors", "report.html"):
        assert first[name] == second[name]
    assert json.loads(second["realignment.json"])["automatic"] == found


WRONG = {
    "--automatic --beta=0.5": "--beta is given together with --automatic, which chooses it",
    "--automatic --method=wanda": "--method is given together with --automatic",
    "--automatic --from_record=x.json": "--from_record is given together with --automatic",
    "--aim=0.9": "--aim needs --automatic",
    "--headroom=1.1": "--headroom needs --automatic",
    "--automatic_share=0.1": "--automatic_share needs --automatic",
}


def test_flags_that_do_not_go_together_are_named(tmp_path):
    calls = [[*flags.split(), "--output", tmp_path / "out"] for flags in WRONG]
    for line, message in zip(attempts("realign", calls), WRONG.values(), strict=True):
        assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def chosen(files, tmp_path_factory):
    """The output of a command that chooses, and what it printed.

    To the random base the answers are less likely with the aligned adapter: here it is the one that was damaged.
    """
    output = tmp_path_factory.mktemp("chosen") / "out"
    inputs = [
        f"--{name}={files / place}"
        for name, place in {"base": "base", "aligned": "finetuned", "finetuned": "aligned", "weak": "weak"}.items()
    ]
    asked = ["--automatic", "--aim=0.95", "--headroom=1.01", "--automatic_share=0.3"]
    result = run("realign", *inputs, "--calibration", files / "rows.jsonl", *asked, "--output", output)
    return output, result.stdout


def test_one_share_can_be_asked_for(chosen):
    output, printed = chosen
    record = json.loads((output / "realignment.json").read_text())
    found = record["automatic"]
    assert (found["aim"], found["headroom"], found["share"]) == (0.95, 1.01, 0.3)
    assert {trial["share"] for trial in found["trials"]} == {0.0, 0.3}
    assert record["settings"]["sparsity"] == 1 - 0.3
    doubts = found["doubts"]
    assert doubts, "a random base reads requests otherwise at once"
    assert printed.splitlines()[: len(doubts)] == [f"warning: {doubt}" for doubt in doubts]
    assert_doubted_first(record, output / "report.html")


def test_an_unknown_wish_is_named(files, tmp_path):
    with pytest.raises(InputError, match="automatic has 'goal'; expected some of aim"):
        realign_files(settings(files), tmp_path / "out", automatic={"goal": 0.9})


def test_given_masks_leave_nothing_to_choose(files, tmp_path):
    with pytest.raises(InputError, match="masks are given together with automatic"):
        realign_files(settings(files, masks="masks"), tmp_path / "out", automatic=0.9)


@pytest.mark.parametrize(
    ("method", "basis"), [("magnitude", "procrustes"), ("gain", "procrustes"), ("gain", "linear")]
)
def test_a_common_basis_finds_the_lineage_and_repairs_as_if_it_was_never_lost(files, tmp_path, method, basis):
    changes = {"method": method, "rule": "all", "sparsity": 0.5}
    with pytest.raises(InputError, match="do not descend from the aligned adapter"):
        realign_files(settings(files, finetuned=str(files / "turned"), **changes), tmp_path / "refused")
    outputs = {}
    for name in ("finetuned", "turned"):
        given = settings(files, finetuned=str(files / name), basis=basis, **changes)
        record = realign_files(given, tmp_path / name)
        assert min(module["lineage"] for module in record["modules"]) > 0.3
        outputs[name] = delta(load_adapter(tmp_path / name))
    for module, value in outputs["turned"].items():
        expected = np.asarray(outputs["finetuned"][module])
        # Entries near a threshold may fall to either side: float32 turns of entries of another basis.
        assert np.linalg.norm(value - expected) < 0.02 * np.linalg.norm(expected)


def test_modules_left_alone_keep_their_own_basis(files, tmp_path):
    changes = {"method": "magnitude", "rule": "layers", "layers": (0,), "basis": "procrustes"}
    realign_files(settings(files, finetuned=str(files / "turned"), **changes), tmp_path / "out")
    before, after = load_adapter(files / "turned"), load_adapter(tmp_path / "out")
    for module, leaf in before.factors.items():
        for factor, value in leaf.items():
            np.testing.assert_array_equal(value[1:], after.factors[module][factor][1:])
            assert not np.array_equal(value[0], after.factors[module][factor][0])


def test_unknown_bases_are_named(files, tmp_path):
    with pytest.raises(InputError, match=r"^basis is 'other'; expected one of as_is, procrustes, linear"):
        realign_files(settings(files, basis="other"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
