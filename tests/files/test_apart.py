"""Outputs that are, hold or lie in an input are refused, by whatever name they are called."""

import os
import pathlib

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.files.apart import check_alone, check_apart, check_outputs, check_within
from nlsr_jax.files.output import check_free, check_free_file, whole_directory, whole_file
from nlsr_jax.files.ownership import nothing_foreign
from nlsr_jax.files.paths import expand


@pytest.fixture
def place(tmp_path, monkeypatch):
    """``work/ft/weights`` and ``work/rows.jsonl``, beside links to them; the current folder is ``work/here``."""
    work = tmp_path / "desk"
    (work / "ft").mkdir(parents=True)
    (work / "ft" / "weights").write_text("mine")
    (work / "rows.jsonl").write_text("mine")
    (work / "here").mkdir()
    (tmp_path / "link").symlink_to(work)
    (tmp_path / "to_ft").symlink_to(work / "ft")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "weights").symlink_to(work / "ft" / "weights")
    (tmp_path / "linked" / "rows").symlink_to("../link/rows.jsonl")
    (tmp_path / "home").symlink_to(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(work / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "read", "how"),
    [
        ("{place}/desk/ft", "{place}/desk/ft", "is"),
        ("../ft/.", "{place}/desk/ft", "is"),
        ("{place}/link/here/../ft/", "~/ft", "is"),
        ("{place}/to_ft", "{place}/desk/ft", "is"),
        ("~/rows.jsonl", "{place}/desk/rows.jsonl", "is"),
        ("{place}/desk", "{place}/desk/ft", "holds"),
        ("..", "../rows.jsonl", "holds"),
        ("{place}", "{place}/link/ft/weights", "holds"),
        ("{place}/desk", "{place}/to_ft", "holds"),
        ("{place}/desk/ft", "{place}/linked", "holds"),
        ("{place}/link", "{place}/linked", "holds"),
        ("{place}/linked", "{place}/linked/weights", "holds"),
        ("{place}/desk/ft/new", "{place}/desk/ft", "lies in"),
        ("../ft/a/b/new", "~/ft", "lies in"),
        ("{place}/to_ft/new", "{place}/desk/ft", "lies in"),
        ("{place}/desk/ft/new", "{place}/link", "lies in"),
    ],
)
def test_an_output_that_touches_an_input_is_refused_and_both_are_named(place, output, read, how):
    output, read = pathlib.Path(output.format(place=place)), read.format(place=place)
    with pytest.raises(InputError, match=f"{how} the input --finetuned \\(") as error:
        check_apart(expand(output), {"--base": "some/hub-id", "--weak": None, "--finetuned": read})
    assert f"({read}); name another output" in str(error.value)


@pytest.mark.parametrize(
    ("output", "read"),
    [
        ("{place}/out", "{place}/desk/ft"),
        ("{place}/desk/ft2", "{place}/desk/ft"),
        ("{place}/desk/out", "{place}/desk/rows.jsonl"),
        ("{place}/desk/ft", "{place}/desk/rows.jsonl"),
        ("{place}/desk/ft", "no/such-model"),
        ("{place}/out", "a\0b"),
        ("{place}/out", "x" * 5000),
    ],
)
def test_neighbours_are_no_inputs(place, output, read):
    check_apart(pathlib.Path(output.format(place=place)), {"--base": read.format(place=place)})


def test_a_hard_link_is_the_same_file(place):
    os.link(place / "desk" / "rows.jsonl", place / "scores.json")
    with pytest.raises(InputError, match="is the input --calibration"):
        check_free_file(place / "scores.json", True, inputs={"--calibration": place / "desk" / "rows.jsonl"})


def test_an_input_mounted_in_an_output_is_found(place, monkeypatch):
    """A mount of the same folder has its device and number, and no name of the output above it."""
    output = place / "out"
    (output / "finetuned").mkdir(parents=True)
    real, mounted = pathlib.Path.stat, place / "desk" / "ft"
    there = real(output / "finetuned")
    monkeypatch.setattr(pathlib.Path, "stat", lambda path, **o: there if path == mounted else real(path, **o))
    check_apart(output, {"--finetuned": mounted})
    with pytest.raises(InputError, match="holds the input --finetuned"):
        check_within(output, {"--finetuned": mounted})
    with pytest.raises(InputError, match="holds the input --finetuned"):
        check_free(output, True, inputs={"--finetuned": mounted}, foreign=nothing_foreign)


@pytest.mark.parametrize("name", ["{place}/desk/here", ".", "..", "/", "~", "{place}", "{place}/link", "ft/.."])
def test_folders_that_more_hangs_on_are_no_outputs(place, name):
    with pytest.raises(InputError, match="is the current folder, the home folder or one above them"):
        check_alone(expand(name.format(place=place)))


def test_an_empty_current_folder_is_no_output_either(place):
    assert not any((place / "desk" / "here").iterdir())
    with pytest.raises(InputError, match="name a folder of the output's own"), whole_directory("."):
        pytest.fail("it was begun")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{place}/a.json", "{place}/a.json"),
        ("{place}/a.json", "{place}/desk/../a.json"),
        ("{place}/desk/a.json", "{place}/link/a.json"),
        ("{place}/a.json", "{place}/A.JSON"),
        ("{place}/a", "{place}/a/b"),
        ("{place}/link/a/b", "~/a"),
    ],
)
def test_two_outputs_in_one_place_are_refused(place, one, other):
    outputs = {"--output": one.format(place=place), "--responses": other.format(place=place)}
    with pytest.raises(InputError, match=r"--output .* and --responses .* are one place, or one lies in the other"):
        check_outputs(outputs)
    check_outputs({"--output": outputs["--output"], "--responses": None, "--more": place / "ab.json"})


def test_two_outputs_that_are_hard_links_of_one_file_are_refused(place):
    os.link(place / "desk" / "rows.jsonl", place / "other.jsonl")
    with pytest.raises(InputError, match="are one place"):
        check_outputs({"--output": place / "desk" / "rows.jsonl", "--responses": place / "other.jsonl"})


def test_an_input_that_comes_into_the_place_meanwhile_is_kept(place):
    output, read = place / "out", {"--finetuned": place / "desk" / "ft2"}

    def meanwhile():
        with whole_directory(output, overwrite=True, inputs=read, foreign=nothing_foreign) as folder:
            (folder / "new").write_text("new")
            output.mkdir()
            (output / "weights").write_text("mine")
            (place / "desk" / "ft2").symlink_to(output)

    with pytest.raises(InputError, match="is the input --finetuned"):
        meanwhile()
    assert [file.name for file in output.iterdir()] == ["weights"]


def test_a_file_that_becomes_an_input_meanwhile_is_kept(place):
    output, read = place / "scores.json", {"--calibration": place / "rows.jsonl"}
    output.write_text("{}")

    def meanwhile():
        with whole_file(output, overwrite=True, inputs=read, foreign=nothing_foreign):
            (place / "rows.jsonl").symlink_to(output)

    with pytest.raises(InputError, match="is the input --calibration"):
        meanwhile()
    assert output.read_text() == "{}"


def test_the_home_folder_is_meant_by_a_tilde(place):
    with whole_directory("~/out") as folder:
        (folder / "file").write_text("x")
    assert (place / "desk" / "out" / "file").read_text() == "x"
    assert expand("~nobody-of-this-name/x") == pathlib.Path("~nobody-of-this-name/x")
    assert expand("~\ud800/x") == pathlib.Path("~\ud800/x")
    assert expand("~\0/x") == pathlib.Path("~\0/x")
    assert expand(expand("./~/x")) == pathlib.Path.cwd() / "~" / "x"
