"""Rows, prompts, templates, records and cells made to do harm: refused in one line, in little time."""

import contextlib
import dataclasses
import json
import time

import pytest

from nlsr_jax.data.prompts import parse_alpaca
from nlsr_jax.data.rows import read_rows
from nlsr_jax.data.sources import load
from nlsr_jax.data.templates import alpaca, apply_template
from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json
from nlsr_jax.files.limits import Limits
from nlsr_jax.pipeline.settings import Settings, from_record
from nlsr_jax.sweep.cells import ROWS, cells_from_json
from nlsr_jax.sweep.store import CellStore
from tests.reliability.fuzz import SECONDS
from tests.reliability.fuzz_files import realignment
from tests.reliability.hostile import refusal


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", bytes(range(256)), "not UTF-8"),
        ("r.jsonl", b"\0" * 1000, "line 1 is not JSON"),
        ("r.jsonl", b'{"prompt": "a", "prompt": "b", "response": "c"}', "line 1 repeats the key 'prompt'"),
        ("r.jsonl", b'{"prompt": "\\ud800", "response": "c"}', "line 1: 'prompt' is not valid Unicode"),
        ("r.jsonl", b'{"prompt": "a", "response": "c", "n": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
        ("r.json", b'[{"prompt": "a", "response": "c", "n": ' + b"9" * 5000 + b"}]", "not usable JSON"),
        ("r.csv", b'prompt,response\n"a\0b', "is not CSV"),
        ("r.csv", bytes(range(128, 256)), "not UTF-8"),
        ("r.parquet", b"PAR1" + bytes(1000) + b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_rows(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(lambda: read_rows(str(tmp_path / name), ("prompt", "response")))


def test_texts_without_end_and_in_all(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"prompt": "x" * 60, "response": "y"}) + "\n" for _ in range(5)))
    monkeypatch.setattr("nlsr_jax.data.rows.LIMITS", Limits(row_characters=200, rows_characters=300))
    assert "more than 300 characters of text" in refusal(lambda: read_rows(str(path), ("prompt", "response")))
    monkeypatch.setattr("nlsr_jax.data.rows.LIMITS", Limits(row_characters=80))
    message = refusal(lambda: read_rows(str(path), ("prompt", "response")))
    assert "the row at line 1 is too long" in message
    assert "NLSR_MAX_ROW_CHARACTERS" in message


def test_parquet_rows_may_share_a_text(tmp_path):
    """A few rows at a time become text, and all of them come out as they went in."""
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": f"p{i % 3}", "response": f"r{i}", "tags": ["a", "b"], "n": i} for i in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    found = read_rows(str(tmp_path / "r.parquet"), ("prompt", "response"))
    assert found == [{"prompt": row["prompt"], "response": row["response"]} for row in rows]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": alpaca("x", "y")[:60] + "\n\n### Instruction:\n" * 30_000 + "\n\n### Input:\n" * 30_000},
        {"instruction": alpaca("x") + "\n\n### Response:" * 50_000},
    ],
    ids=["marks", "ends"],
)
def test_prompts_that_take_an_expression_for_ever(row, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({**row, "input": "", "output": "z"}) + "\n")
    start = time.process_time()
    with contextlib.suppress(InputError):
        load("alpaca", str(path))
    assert time.process_time() - start < SECONDS


def test_numbers_that_take_an_expression_for_ever(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "#### " + "1" * 10**6 + "x"}) + "\n")
    start = time.process_time()
    assert "has no number after" in refusal(lambda: load("gsm8k", str(path)))
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    ("instruction", "context"), [("a", ""), ("a\n\n### Input:\nb", ""), ("a", "b"), ("a", "\n\n### Response:")]
)
def test_rendered_prompts_are_read_as_before(instruction, context):
    assert parse_alpaca(alpaca(instruction, context)) == (instruction, context)


class Broken:
    chat_template = "x"

    def apply_chat_template(self, *_, **__):
        raise ZeroDivisionError("<script>\n\x1b[0m")


def test_chat_templates_that_fail():
    assert "chat template fails (<script>" in refusal(lambda: apply_template("chat", "x", Broken()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("layers", 5), ("layers", ["x"]), ("layers", [1.5]), ("rank", "8"), ("rank", True), ("tau", [1])),
        *(("base", 3), ("calibration", {}), ("seed", None), ("seed", 1.5), ("beta", "1"), ("beta", 10**400)),
        *(("allow_unrelated", 1), ("method", ["gain"]), ("share", "x")),
    ],
)
def test_settings_of_records(name, value):
    settings = {**realignment()["settings"], name: value}
    assert f"setting {name!r} is " in refusal(lambda: from_record(settings, "realignment.json"))


@pytest.mark.parametrize("changes", [{}, {"rule": "layers", "layers": ()}, {"rule": "layers", "layers": (1, 2)}])
def test_settings_come_back_out_of_a_record(changes):
    settings = Settings(**changes)
    stored = json.loads(json.dumps(dataclasses.asdict(settings)))
    assert from_record(stored, "realignment.json") == settings


def test_numbers_too_large_for_a_cell(tmp_path):
    path = tmp_path / "cells.json"
    path.write_text(json.dumps([{"method": "nlsr", "poison_ratio": 10**400}]))
    assert "poison_ratio" in refusal(lambda: cells_from_json(read_json(path, "list of cells"), path))


@pytest.mark.parametrize("line", [b"[1]", b"3", b'{"cells": "a"}', b'{"cell": ["a"]}', b"null"])
def test_rows_of_a_sweep(tmp_path, line):
    store = CellStore(tmp_path, {})
    store.add({"cell": "a", "hs": 1.0})
    with (tmp_path / ROWS).open("ab") as file:
        file.write(b"\xff\xfe half a line\n\0\0\0\n" + line + b"\n")
    assert "line 4 is not a row of a sweep" in refusal(store.rows)
