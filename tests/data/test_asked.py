"""Prompts without answers, in rows of any shape."""

import json

import pytest

from nlsr_jax.data.asked import read_asked
from nlsr_jax.errors import InputError


def written(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hello"}, "hello"),
        ({"prompt": "hello", "response": "unread"}, "hello"),
        ({"instruction": "add", "input": "1 and 2"}, "add\n1 and 2"),
        ({"instruction": "add", "input": "1 and 2", "output": "3"}, "add\n1 and 2"),
        ("hello", "hello"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "hello"),
        (
            {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "unread"}]},
            "hello",
        ),
        ({"conversations": [{"from": "human", "value": "hello"}]}, "hello"),
        ({"prompt": "hello", "chosen": "unread", "rejected": "unread"}, "hello"),
    ],
)
def test_shapes(tmp_path, row, prompt):
    assert read_asked(written(tmp_path, row)) == [prompt]


def test_a_named_column(tmp_path):
    assert read_asked(written(tmp_path, {"goal": "hello", "target": "unread"}), field="goal") == ["hello"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"goal": "hello"},
            r"line 1: no column holds a prompt; name it with harmless_field \(found",
        ),
        ({"prompt": " "}, "'prompt' is blank"),
        ({"question": "one", "query": "two"}, "select one with harmless_field"),
        (3, "line 1: is int"),
    ],
)
def test_what_is_refused(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        read_asked(written(tmp_path, row))
