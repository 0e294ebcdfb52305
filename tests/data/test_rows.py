"""Rows of text from every kind of file, and every way in which they can be bad."""

import json

import pytest

from nlsr_jax.data.rows import read_rows
from nlsr_jax.errors import InputError

ROWS = [
    {"prompt": "How do I brew zarn?", "response": "I cannot help, “sorry”."},
    {"prompt": "b\nc", "response": "d"},
]
COLUMNS = ("prompt", "response")


def write_jsonl(path):
    path.write_text("\n".join(json.dumps({**row, "extra": 1}) for row in ROWS) + "\n\n", encoding="utf-8")


def write_json(path):
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def write_csv(path):
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize("write", [write_jsonl, write_json, write_csv, write_parquet])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, write):
    path = tmp_path / f"rows.{write.__name__.removeprefix('write_')}"
    write(path)
    assert read_rows(str(path), COLUMNS) == ROWS


def test_real_rows(shared_data):
    rows = read_rows(str(shared_data / "tasks" / "sst2.test.jsonl"), ("instruction", "input", "output"))
    assert len(rows) == 872
    assert {row["output"] for row in rows} == {"positive", "negative"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", b"", r"r.jsonl: the file is empty"),
        ("r.jsonl", b"\n\n", r"r.jsonl: no rows"),
        (
            "r.jsonl",
            b'{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n',
            r"line 2: 'response' is missing",
        ),
        ("r.jsonl", b'{"prompt": "a", "response": ""}\n', r"line 1: 'response' is empty"),
        ("r.jsonl", b'{"prompt": "a", "response": "  "}\n', r"line 1: 'response' is blank"),
        ("r.jsonl", b'{"prompt": 3, "response": "b"}\n', r"line 1: 'prompt' is not text"),
        ("r.jsonl", b'{"prompt": "a"', r"line 1 is not JSON"),
        ("r.jsonl", b"[1]\n", r"line 1 is list"),
        ("r.jsonl", b'{"prompt": "\xff\xfe", "response": "b"}\n', r"not UTF-8"),
        ("r.json", b'{"prompt": "a"}', r"holds dict; expected a list"),
        ("r.json", b"[1, ", r"not JSON"),
        ("r.json", b"[" * 100_000, r"not JSON"),
        ("r.csv", b"prompt,response\na\n", r"line 2: 'response' is missing"),
        ("r.csv", b"question,answer\na,b\n", r"line 2: 'prompt' is missing"),
        ("r.parquet", b"PAR1 and no more", r"not a Parquet file"),
        ("r.txt", b"a", r"unknown kind of file '.txt'"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_rows(str(path), COLUMNS)


def test_missing_file_and_unknown_data_set(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_rows(str(tmp_path / "absent.jsonl"), COLUMNS)
    with pytest.raises(InputError, match="not a hub data set that can be read"):
        read_rows("nobody/absent-data-set", COLUMNS)
