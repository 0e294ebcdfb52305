"""Rows of text from every kind of file, and every way in which they can be bad."""

import json

import pytest

from nlsr_jax.data.rows import read_rows
from nlsr_jax.errors import InputError
from nlsr_jax.files.limits import Limits

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


TWO = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]
LINES = '{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}\n'


@pytest.mark.parametrize("suffix", ["json", "jsonl", "JSON"])
@pytest.mark.parametrize(
    "text",
    [
        LINES,
        "\ufeff" + LINES,
        LINES.replace("\n", "\r\n"),
        "\n  \n" + LINES.replace("\n", "\n\n").rstrip(),
        json.dumps(TWO),
        "\ufeff\n" + json.dumps(TWO, indent=1),
    ],
    ids=["lines", "bom", "crlf", "blanks", "list", "indented"],
)
def test_json_is_lines_or_a_list_whatever_the_suffix(tmp_path, suffix, text):
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(text.encode())
    assert read_rows(str(path), COLUMNS) == TWO


def test_a_list_on_one_line_may_be_longer_than_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr("nlsr_jax.data.rows.LIMITS", Limits(row_characters=40))
    (tmp_path / "rows.json").write_text(json.dumps(TWO))
    assert read_rows(str(tmp_path / "rows.json"), COLUMNS) == TWO


def test_a_parquet_column_is_there_once(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table([pyarrow.array([text]) for text in "abc"], names=["prompt", "response", "response"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="has the column 'response' twice; rename or remove one"):
        read_rows(str(tmp_path / "rows.parquet"), COLUMNS)


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
        ("r.jsonl", b"[1]\n", r"row 1 is int"),
        ("r.jsonl", b"3\n", r"line 1 is int"),
        ("r.jsonl", b'{"prompt": "\xff\xfe", "response": "b"}\n', r"not UTF-8"),
        ("r.json", b'{"prompt": "a"}', r"line 1: 'response' is missing; .*; found the column prompt$"),
        ("r.json", b'{\n"prompt": "a"}', r"contains dict; expected a list"),
        ("r.json", b'{\n"data": [{"prompt": "a"}]}', r"its 'data' is a list: save only that"),
        ("r.json", b'{\n"prompt": "a"\n}\n{\n"prompt": "b"\n}', r"has more than one JSON value; .* JSON Lines"),
        ("r.json", b'{"prompt": "a", "response": "b"}\n{"prompt": "a"', r"line 2 is not JSON"),
        (
            "r.json",
            b'{"prompt": "a", "response": "b"},\n',
            r"line 1 ends with a comma, which JSON Lines do not allow",
        ),
        (
            "r.jsonl",
            b'{"prompt": "a", "response": "b"},\n',
            r"line 1 ends with a comma, which JSON Lines do not allow",
        ),
        ("r.jsonl", b'[{"prompt": "a", "response": "b"}]\n[]', r"has more than one JSON value"),
        ("r.jsonl", b'{"messages": []}\n', r"'prompt' is missing; .*; found the column messages$"),
        ("r.jsonl", b"\xff\xfe{\0", r"is UTF-16; save it as UTF-8"),
        ("r.json", b"[1, ", r"not JSON"),
        ("r.json", b"[" * 100_000, r"nests deeper than 100 levels"),
        ("r.csv", b"prompt,response\na\n", r"line 2: 'response' is missing"),
        (
            "r.csv",
            b"question,answer\na,b\n",
            r"'prompt' is missing; .*; found the columns question, answer$",
        ),
        ("r.csv", b"Prompt,Response\na,b\n", r"'prompt' is missing; .*; found the columns Prompt, Response$"),
        ("r.parquet", b"PAR1 and no more", r"cannot be read as Parquet"),
        ("r.txt", b"a", r"unknown file type '.txt'"),
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
    with pytest.raises(InputError, match="cannot be loaded as a hub data set"):
        read_rows("nobody/absent-data-set", COLUMNS)
