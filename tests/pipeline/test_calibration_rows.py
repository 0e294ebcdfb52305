"""Calibration rows of any shape in a run: the same masks, and a record that repeats it."""

import dataclasses
import json

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from nlsr_jax.pipeline.checks import check_realignment
from nlsr_jax.pipeline.settings import from_record
from tests.adapter_files import save_inputs

NAMED = {"prompt_field": "Question", "response_field": "Good", "rejected_field": "Bad"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = save_inputs(tmp_path_factory.mktemp("inputs"))
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    shapes = {
        "named": [
            {"Question": r["prompt"], "Good": r["response"], "Bad": r["rejected"], "prompt": "x"} for r in rows
        ],
        "chosen": [{"prompt": r["prompt"], "chosen": r["response"], "rejected": r["rejected"]} for r in rows],
    }
    for name, shaped in shapes.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in shaped))
    return folder


def settings(folder, rows, **changes):
    adapters = {name: str(folder / name) for name in ("base", "aligned", "finetuned")}
    return Settings(**adapters, calibration=str(folder / rows), method="preference_snip", **changes)


def test_masks_do_not_depend_on_the_shape_of_the_rows(inputs):
    runs = {"rows.jsonl": {}, "named.json": NAMED, "chosen.json": {}}
    for name, fields in runs.items():
        identify_files(settings(inputs, name, **fields), inputs / "masks" / name)
    first, *others = [(inputs / "masks" / name / "masks.safetensors").read_bytes() for name in runs]
    assert others == [first, first]


def test_a_record_holds_the_names_of_the_columns(inputs):
    record = realign_files(settings(inputs, "named.json", **NAMED), inputs / "out")
    assert {name: record["settings"][name] for name in NAMED} == NAMED
    again = from_record(record["settings"], "realignment.json")
    assert (again.prompt_field, again.response_field, again.rejected_field) == ("Question", "Good", "Bad")
    realign_files(again, inputs / "again", recorded=record["inputs"])
    one, two = (inputs / name / "adapter_model.safetensors" for name in ("out", "again"))
    assert one.read_bytes() == two.read_bytes()
    before = {name: value for name, value in record["settings"].items() if name not in NAMED}
    assert from_record(before, "realignment.json") == dataclasses.replace(again, **dict.fromkeys(NAMED))


@pytest.mark.parametrize("name", NAMED)
def test_names_of_columns_are_not_empty(inputs, name):
    with pytest.raises(InputError, match=f"^{name} is empty; give the name of a column"):
        check_realignment(settings(inputs, "rows.jsonl", **{name: ""}))
