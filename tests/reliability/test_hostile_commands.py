"""Hostile files given to commands: one line of error, nothing left behind, and markup that stays text."""

import html.parser
import json
import shutil

import pytest

from tests.adapter_files import flags, save_inputs
from tests.e2e.command import error_line, run
from tests.reliability.fuzz_files import realignment
from tests.reliability.hostile import safetensors

MARKUP = '<script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_inputs(tmp_path_factory.mktemp("files"))


def spoil_weights(folder):
    path = folder / "finetuned" / "adapter_model.safetensors"
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    first = sorted(header)[0]
    header["\x1b[31mx"] = header[first]
    path.write_bytes(safetensors(header, path.read_bytes()[8 + size :]))
    return []


def spoil_rows(folder):
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "x" * 10**7, "response": "y"}) + "\n")
    return []


def spoil_record(folder):
    record = realignment()
    record["settings"] |= {name: str(folder / name) for name in ("aligned", "finetuned")}
    record["settings"] |= {"base": "\0", "calibration": None, "method": "magnitude", "layers": {"a": 1}}
    (folder / "record.json").write_text(json.dumps(record))
    return ["--from_record", folder / "record.json"]


@pytest.mark.parametrize(
    ("spoil", "env", "message"),
    [
        (spoil_weights, {}, "not a whole safetensors file"),
        (spoil_rows, {}, "the row at line 1 is too long"),
        (spoil_record, {}, "setting 'layers' is {'a': 1}"),
        (lambda folder: [], {"NLSR_MAX_RANK": "2"}, "r is 4; expected a whole number from 1 to 2"),
        (lambda folder: [], {"NLSR_MAX_RANK": "many"}, "NLSR_MAX_RANK is 'many'; expected a positive whole number"),
    ],
    ids=["weights", "rows", "record", "limit", "no limit"],
)
def test_commands_end_in_one_line_and_leave_nothing(files, tmp_path, spoil, env, message):
    inputs = tmp_path / "inputs"
    shutil.copytree(files, inputs)
    given = spoil(inputs) or [
        *flags(inputs, "base", "aligned", "finetuned"),
        *("--calibration", inputs / "rows.jsonl"),
    ]
    place = tmp_path / "outputs"
    place.mkdir()
    line = error_line(run("realign", *given, "--output", place / "out", env=env, check=False))
    assert message in line
    assert list(place.iterdir()) == []


def test_cells_of_a_sweep_end_in_one_line(tmp_path):
    (tmp_path / "cells.json").write_bytes(b"[" * 100_000)
    result = run("sweep", "--cells", tmp_path / "cells.json", "--output", tmp_path / "out", check=False)
    assert "nests deeper than 100" in error_line(result)
    assert not (tmp_path / "out").exists()


class Tags(html.parser.HTMLParser):
    """Counts the tags of a page, and the handlers in them."""

    def __init__(self):
        super().__init__()
        self.tags, self.handlers = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


def test_markup_in_rows_and_names_stays_text(files, tmp_path):
    rows = tmp_path / f"{MARKUP.replace('/', '')}.jsonl"
    lines = (files / "rows.jsonl").read_text().splitlines()
    changed = [{**json.loads(line), "prompt": f"{MARKUP} brew\x07\x1b zarn"} for line in lines]
    rows.write_text("".join(json.dumps(row) + "\n" for row in changed))
    given = flags(files, "base", "aligned", "finetuned")
    run("realign", *given, "--calibration", rows, "--method", "wanda", "--output", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    found = Tags()
    found.feed(page)
    assert found.handlers == []
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert "&lt;img src=x onerror" in page
    assert "<img" not in page
