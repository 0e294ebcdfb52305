"""Checking an output against its record: one flipped bit anywhere is found, and named."""

import json
import shutil

import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.formats import record as records
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import save_inputs
from tests.e2e.command import error_line, run
from tests.reliability.flips import flip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return save_inputs(tmp_path_factory.mktemp("inputs"))


def settings(folder, **changes):
    names = ("base", "aligned", "finetuned", "weak")
    return Settings(
        **{name: str(folder / name) for name in names}, calibration=str(folder / "rows.jsonl"), **changes
    )


@pytest.fixture(scope="module")
def written(inputs):
    realign_files(settings(inputs, base_probability=0.3), inputs / "out")
    return inputs / "out"


@pytest.fixture
def output(written, tmp_path):
    return shutil.copytree(written, tmp_path / "out")


def test_an_untouched_output_is_as_recorded(output):
    found = verify(output)
    assert (found.changed, found.missing) == ((), ())
    record = json.loads((output / "realignment.json").read_text())
    inputs = sum(len(entry["files"]) for entry in record["inputs"].values() if entry)
    assert found.compared == len(record["outputs"]) + inputs
    assert record["commit"] is None or len(record["commit"]) == 40


def test_one_flipped_bit_anywhere_is_found(output):
    """Every file of the output in turn, the record too, at random places."""
    random = np.random.default_rng(0)
    names = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    for name in names:
        before = (output / name).read_bytes()
        places = random.integers(0, 8 * len(before), 12 if name == "realignment.json" else 2) if before else []
        for place in places:
            flip(output / name, int(place))
            try:
                changed = verify(output).changed
            except InputError as error:  # a record that is no JSON any more
                changed = (str(error),)
                assert name == "realignment.json"
            (output / name).write_bytes(before)
            assert [line for line in changed if name in line], (name, place)
    assert not verify(output).changed


def test_files_that_came_or_went_are_named(output):
    (output / "more.txt").write_text("more")
    (output / "masks.safetensors").unlink()
    assert verify(output).changed == ("masks.safetensors: is missing", "more.txt: is not in the record")


def test_changed_and_missing_inputs_are_named(inputs, output, tmp_path):
    finetuned = shutil.copytree(inputs / "finetuned", tmp_path / "finetuned")
    flip(finetuned / "adapter_model.safetensors", 9999)
    moved = {"finetuned": str(finetuned), "calibration": str(tmp_path / "gone.jsonl")}
    found = verify(output, moved=moved)
    assert found.changed == (f"finetuned: {finetuned / 'adapter_model.safetensors'} has changed since",)
    assert found.missing == (f"calibration: {tmp_path / 'gone.jsonl'} is not at hand",)


def test_another_run_makes_the_same(output):
    assert not verify(output, recompute=True).changed


def test_a_record_that_was_rewritten_is_found_by_another_run(output):
    """Whoever changes settings and seals them anew is found out by what the settings make."""
    record = json.loads((output / "realignment.json").read_text())
    del record["seal"]
    record["settings"]["beta"] = 0.8
    record["seal"] = records.seal(record)
    (output / "realignment.json").write_text(records.dump(record))
    assert not verify(output).changed
    assert "adapter_model.safetensors: another run makes another one" in verify(output, recompute=True).changed


def test_a_record_without_its_seal_is_named(output):
    record = json.loads((output / "realignment.json").read_text())
    del record["seal"]
    (output / "realignment.json").write_text(records.dump(record))
    assert verify(output).changed == ("realignment.json: has no seal; it was removed, or never written",)


def test_masks_alone_are_checked_too(inputs, tmp_path):
    identify_files(settings(inputs), tmp_path / "masks")
    assert not verify(tmp_path / "masks", recompute=True).changed
    flip(tmp_path / "masks" / "masks.safetensors", 9999)
    assert verify(tmp_path / "masks").changed == ("masks.safetensors: has changed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no realignment.json and no identification.json; expected the output of a run"),
        ("{", "is not JSON"),
        ('{"format": "other"}', "not a record of a run (format is 'other')"),
        ('{"format": "nlsr_jax.realignment", "settings": {}, "inputs": 3, "outputs": {}}', "not a record of a run"),
        (
            '{"format": "nlsr_jax.realignment", "settings": {}, "inputs": {"base": {"files": 3}}, "outputs": {}}',
            "not a record of a run",
        ),
    ],
)
def test_what_is_no_output_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "realignment.json").write_text(content)
    with pytest.raises(InputError) as error:
        verify(tmp_path)
    assert message in str(error.value)


def test_command(output):
    assert "files are as recorded" in run("verify", output).stdout
    flip(output / "adapter_model.safetensors", 9999)
    found = run("verify", output, check=False)
    assert found.stdout == "changed: adapter_model.safetensors: has changed\n"
    assert error_line(found).endswith("1 things are not as recorded")
    assert "name the folder to check" in error_line(run("verify", check=False))


def test_records_without_an_end_token_in_calibration_are_repeated_so(inputs, tmp_path):
    """Records made before the calibration's answers ended as in training hold no such setting."""
    old = realign_files(settings(inputs, end_token=False), tmp_path / "out")
    new = realign_files(settings(inputs), tmp_path / "new")
    assert old["outputs"]["masks.safetensors"] != new["outputs"]["masks.safetensors"]
    file = tmp_path / "out" / "realignment.json"
    record = json.loads(file.read_text())
    del record["settings"]["end_token"], record["seal"]
    record["seal"] = records.seal(record)
    file.write_text(records.dump(record))
    assert verify(tmp_path / "out", recompute=True).changed == ()
