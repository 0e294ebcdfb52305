"""A preset sets what no flag sets, and a record names it only where one was asked for."""

import dataclasses
import json

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.settings import PUBLISHED, RECOMMENDED_LINEAGE, MethodSettings
from nlsr_jax.pipeline import Settings, realign_files
from tests.adapter_files import save_inputs
from tests.e2e.command import error_line, run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_inputs(tmp_path_factory.mktemp("files"))


def method(record):
    names = {field.name for field in dataclasses.fields(MethodSettings)}
    return {name: value for name, value in record["settings"].items() if name in names}


def test_flags_beside_a_preset_change_it_and_a_repetition_names_it(files, tmp_path):
    paths = [f"--{name}={files / name}" for name in ("aligned", "finetuned")]
    given = [*paths, "--preset=recommended", "--sparsity=0.9", "--method=random"]
    run("realign", *given, "--output", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "realignment.json").read_text())
    assert record["preset"] == "recommended"
    assert method(record) == dataclasses.asdict(
        dataclasses.replace(RECOMMENDED_LINEAGE, sparsity=0.9, method="random")
    )
    run("realign", "--from_record", tmp_path / "out", "--output", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "realignment.json").read_text())
    assert again["preset"] == "recommended"
    page = (tmp_path / "out" / "report.html").read_bytes()
    assert (tmp_path / "again" / "report.html").read_bytes() == page


def test_without_a_preset_the_record_names_none(files, tmp_path):
    paths = {name: str(files / name) for name in ("aligned", "finetuned")}
    record = realign_files(Settings(**paths, method="magnitude"), tmp_path / "out")
    assert "preset" not in record
    assert method(record) == dataclasses.asdict(dataclasses.replace(PUBLISHED, method="magnitude"))


@pytest.mark.parametrize("preset", ["best", ["published"], 1])
def test_an_unknown_preset_is_refused(files, tmp_path, preset):
    paths = {name: str(files / name) for name in ("aligned", "finetuned")}
    with pytest.raises(InputError, match=r"^preset is .*; expected one of published, recommended"):
        realign_files(Settings(**paths, method="magnitude"), tmp_path / "out", preset=preset)


@pytest.mark.parametrize("other", ["--automatic", "--from_record=x"])
def test_a_preset_leaves_nothing_to_choose_or_repeat(files, tmp_path, other):
    paths = [f"--{name}={files / name}" for name in ("aligned", "finetuned")]
    result = run("realign", *paths, "--preset=published", other, "--output", tmp_path / "out", check=False)
    assert f"--preset is given together with {other.partition('=')[0]}" in error_line(result)
