"""Counting, naming and refusing rows."""

import pytest

from nlsr_jax.data.collecting import NAMED, collect
from nlsr_jax.data.row_values import Row, UnwantedRow
from nlsr_jax.errors import InputError


def rows(*values):
    return (Row(f"f.jsonl: line {i}", value) for i, value in enumerate(values, 1))


def convert(row):
    text = row.text("x")
    if text == "other":
        raise UnwantedRow("of the other kind")
    return text


MIXED = ({"x": "a"}, {"x": ""}, {"x": "other"}, {"x": 3}, [1], {"x": "b"}, {}, {"x": "c"})


def test_counts_add_up_and_bad_rows_are_named():
    loaded = collect(rows(*MIXED), convert, "f.jsonl")
    assert loaded.rows == ["a", "b", "c"]
    assert loaded.counts == {
        "rows": 8,
        "used": 3,
        "skipped": {
            "'x' is blank": 1,
            "of the other kind": 1,
            "'x' is not text": 1,
            "is list; expected an object": 1,
            "'x' is missing": 1,
        },
    }
    assert loaded.named == (
        "f.jsonl: line 2: 'x' is blank",
        "f.jsonl: line 4: 'x' is not text (found int)",
        "f.jsonl: line 5: is list; expected an object",
        "f.jsonl: line 7: 'x' is missing",
    )


def test_reading_stops_at_the_count():
    source = rows(*MIXED)
    assert collect(source, convert, "f.jsonl", count=2).counts["rows"] == 6
    assert next(source).where == "f.jsonl: line 7"


def test_strict_stops_at_the_first_bad_row_but_not_at_unwanted_ones():
    with pytest.raises(InputError, match="line 2: 'x' is blank; fix the row"):
        collect(rows(*MIXED), convert, "f.jsonl", strict=True)
    loaded = collect(rows({"x": "other"}, {"x": "a"}), convert, "f.jsonl", strict=True)
    assert loaded.counts["skipped"] == {"of the other kind": 1}


def test_too_few_rows_say_how_many_there_are():
    with pytest.raises(InputError) as caught:
        collect(rows(*MIXED), convert, "f.jsonl", count=4)
    message = str(caught.value)
    assert message.startswith("f.jsonl: 4 rows requested, but only 3 of 8 rows are usable (skipped: 1 'x' is blank")
    assert message.endswith("; the first bad one is f.jsonl: line 2: 'x' is blank); request at most 3")
    with pytest.raises(InputError, match=r"f.jsonl: 0 of 1 rows are usable .*is this the right data set"):
        collect(rows({}), convert, "f.jsonl")
    with pytest.raises(InputError, match="0 of 0 rows"):
        collect(rows(), convert, "f.jsonl")


@pytest.mark.parametrize("count", [0, -1, True, 2.0])
def test_counts_are_positive_integers(count):
    with pytest.raises(InputError, match="expected a positive integer"):
        collect(rows(*MIXED), convert, "f.jsonl", count=count)


def test_only_the_first_bad_rows_are_named():
    loaded = collect(rows(*([{}] * 20), {"x": "a"}), convert, "f.jsonl")
    assert len(loaded.named) == NAMED
    assert loaded.counts["skipped"] == {"'x' is missing": 20}
