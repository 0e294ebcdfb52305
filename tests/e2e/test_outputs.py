"""Commands that are told to write where they read: refused before any work, and nothing is lost."""

import json
import shutil

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from tests.adapter_files import save_family
from tests.e2e.command import contents, error_line, python, run
from tests.e2e.toy_base import save_toy_base


@pytest.fixture
def work(tmp_path):
    """A folder of adapters with a thesis in it."""
    save_family(tmp_path / "work")
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    return tmp_path / "work"


def settings(work, **changes):
    given = {"aligned": str(work / "aligned"), "finetuned": str(work / "finetuned"), "method": "magnitude"}
    return Settings(**{**given, **changes})


@pytest.mark.parametrize("write", [realign_files, identify_files])
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "holds the input --aligned"),
        ("aligned", "is the input --aligned"),
        ("finetuned", "is the input --finetuned"),
        ("aligned/new", "lies in the input --aligned"),
        ("../to_work/./aligned/", "is the input --aligned"),
        ("../mine", "replaces only what nlsr_jax has written, and this folder holds thesis.txt and no"),
        ("weak", "replaces only what nlsr_jax has written, and this folder holds adapter_config.json"),
        ("thesis.txt", "exists and is not a folder"),
    ],
)
def test_folders_of_the_user_are_kept(work, write, output, message):
    (work.parent / "to_work").symlink_to(work)
    (work.parent / "mine").mkdir()
    (work.parent / "mine" / "thesis.txt").write_text("mine")
    before = contents(work.parent)
    with pytest.raises(InputError, match=message):
        write(settings(work), work / output, overwrite=True)
    assert contents(work.parent) == before


def test_an_output_is_replaced_until_something_is_put_into_it(work):
    for write in (realign_files, identify_files, realign_files):
        write(settings(work), work / "out", overwrite=True)
    (work / "out" / "thesis.txt").write_text("mine")
    before = contents(work)
    with pytest.raises(InputError, match=r"the run of realignment.json has not written thesis.txt"):
        realign_files(settings(work), work / "out", overwrite=True)
    assert contents(work) == before


def test_masks_that_lie_in_the_output_are_an_input(work):
    identify_files(settings(work), work / "out")
    for masks in (work / "out", work / "out" / "masks.safetensors"):
        with pytest.raises(InputError, match="the input --masks"):
            realign_files(settings(work, masks=str(masks)), work / "out", overwrite=True)


def test_what_a_user_puts_into_the_output_while_it_is_made_is_kept(work):
    realign_files(settings(work), work / "out")

    def draw(record):
        (work / "out" / "thesis.txt").write_text("mine")
        return {}

    with pytest.raises(InputError, match=r"has not written thesis.txt"):
        realign_files(settings(work), work / "out", overwrite=True, draw=draw)
    assert (work / "out" / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in work.iterdir()) == ["aligned", "finetuned", "out", "thesis.txt", "weak"]


def test_a_tilde_is_the_home_folder_in_library_calls(work, monkeypatch):
    monkeypatch.setenv("HOME", str(work))
    adapters = {"aligned": "~/aligned", "finetuned": "~/finetuned", "weak": "~/weak"}
    record = realign_files(settings(work, **adapters), "~/out")
    assert record["inputs"]["weak"]["path"] == str(work / "weak")
    assert (work / "out" / "realignment.json").exists()
    with pytest.raises(InputError, match="is the input --weak"):
        realign_files(settings(work, **adapters), work / "weak", overwrite=True)


REFUSED = {
    "realign": {
        "--from_record {w}/out/realignment.json --output {w}/out": "{w}/out: holds the input --from_record",
        "--from_record {w}/out --output {w}/out": "{w}/out: is the input --from_record",
        "--from_record ~/out --output ~/finetuned": "{w}/finetuned: is the input --finetuned ({w}/finetuned); name",
        "--aligned ~/aligned --finetuned={w}/finetuned --method=magnitude --output=~": "{w}: holds the input",
        "--aligned {w}/aligned --finetuned {w}/finetuned --method magnitude --output {w}/weak": (
            "{w}/weak: {only} this folder holds adapter_config.json"
        ),
    },
    "identify": {
        "--aligned {w}/aligned --method magnitude --output {w}/../own": (
            "{w}/../own: {only} this folder holds thesis.txt and no"
        ),
        "--aligned {w}/aligned --method magnitude --output {w}/aligned/x": "{w}/aligned/x: lies in the input --al",
    },
    "pretrain": {
        "--texts sst2 --data sst2=~/rows.jsonl --output ~": "{w}: holds the input --data sst2 ({w}/rows.jsonl)",
        "--texts sst2 --data sst2={w}/x.training --output {w}/x": "{w}/x.training: is the input --data sst2",
    },
    "finetune": {
        "--base {w}/base --start {w}/aligned --output {w}/aligned": "{w}/aligned: is the input --start",
        "--base {w}/base --start {w}/x.training --output {w}/x": "{w}/x.training: is the input --start",
        "--base {w}/base --output {w}/base/tuned": "{w}/base/tuned: lies in the input --base",
        "--start {w}/aligned --output {shipped}/base": "{shipped}/base: is the input base of --config tiny",
        "--base {w}/base --output {w}/y": "{w}/y.training: contains thesis.txt and is not the folder of a",
        "--base {w}/base --output {w}/z": "{w}/z.training: contains thesis.txt, which is not part of the",
    },
    "quickstart": {
        "--output {shipped}": "{shipped}: holds the input base of the tiny study",
        "--output {shipped}/dpo/new": "{shipped}/dpo/new: lies in the input shipped adapter dpo",
        "--output {w}/out": "{w}/out: {only} this folder holds",
        "--output {w}": "{w}: is the current folder, the home folder or one above them",
    },
    "evaluate": {
        "--adapter {w}/aligned --output {w}/aligned/scores.json": "{w}/aligned/scores.json: lies in the input",
        "--base {w}/base --output {w}/rows.jsonl": "{w}/rows.jsonl: {only}",
        "--output {w}/a.json --responses {w}/rows.jsonl": "{w}/rows.jsonl: {only}",
        "--output {w}/a.json --responses ~/./a.json": "--output ({w}/a.json) and --responses ({w}/a.json) are one",
        "--output {w}/a.json --responses {w}/a.json/b": "--output ({w}/a.json) and --responses ({w}/a.json/b) are",
        "--config llama3_8b --data sst2={w}/rows.jsonl --output {w}/rows.jsonl": "{w}/rows.jsonl: is the input",
        "--config llama3_8b --judge guard --judge_model {w}/weak --output {w}/weak": "{w}/weak: is the input",
        "--output {w}/base/config.json": "{w}/base/config.json: {only}",
    },
}


ATTEMPTS = """
import json, pathlib, sys
from nlsr_jax.configs import tiny
from tests.e2e.attempts import attempt

name, tiny.SHIPPED = sys.argv[1], pathlib.Path(sys.argv[2])
json.dump([attempt(name, case) for case in json.load(sys.stdin)], sys.stdout)
"""
"""With a copy of the shipped study in its place."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder with all that a user would miss."""
    from nlsr_jax.configs.tiny import SHIPPED

    folder = tmp_path_factory.mktemp("top") / "home"
    save_family(folder)
    save_toy_base(folder / "base")
    (folder / "rows.jsonl").write_text(json.dumps({"sentence": "good", "label": 1}) + "\n")
    realign_files(settings(folder), folder / "out")
    shutil.copytree(SHIPPED, folder.parent / "shipped")
    for name in ("own", "home/x.training", "home/y.training", "home/z.training"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "thesis.txt").write_text("mine")
    for name, identity in (("y", {"version": 1}), ("z", {"settings": {}, "rows": "x"})):
        for file in ("finished.json", "run.json"):
            (folder / f"{name}.training" / file).write_text(json.dumps(identity))
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_commands_that_would_write_where_a_user_keeps_something_are_refused(home, name):
    """All refused calls of a program in one process, each with --overwrite."""
    only = "--overwrite replaces only what nlsr_jax has written, and"
    places = {"w": home, "shipped": home.parent / "shipped", "only": only}
    calls = [f"{case.format(**places)} --overwrite".split() for case in REFUSED[name]]
    before = contents(home.parent)
    result = python("-c", ATTEMPTS, name, places["shipped"], text=json.dumps(calls), env={"HOME": str(home)})
    for line, (case, message) in zip(json.loads(result.stdout), REFUSED[name].items(), strict=True):
        assert line.startswith("error: " + message.format(**places)), f"{case}: {line}"
    assert contents(home.parent) == before


def test_the_case_as_it_was_told(work):
    """Both adapters and a thesis in the folder that the output is to be."""
    before = contents(work)
    arguments = ["--aligned", work / "aligned", "--finetuned", work / "finetuned", "--method", "magnitude"]
    result = run("realign", *arguments, "--output", work, "--overwrite", check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"error: {work}: holds the input --aligned ({work / 'aligned'}); name another output"
    ]
    assert contents(work) == before


@pytest.mark.parametrize("output", ["/", "."])
def test_everything_refuses_a_place_without_a_name_of_its_own(output):
    line = error_line(run("reproduce", "--everything", "--quick", "--overwrite", "--output", output, check=False))
    assert line.endswith("name another output")
