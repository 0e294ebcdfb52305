"""Typed values of rows: what each accepts, and the reason given for the rest."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.data.row_values import BadRow, Row

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def reason(call, *args):
    with pytest.raises(BadRow) as caught:
        call(*args)
    return caught.value.reason + caught.value.detail


@given(JSON_VALUES)
def test_only_booleans_are_flags(value):
    row = Row("r", {"x": value})
    if isinstance(value, bool):
        assert row.flag("x") is value
    else:
        assert "'x' is" in reason(row.flag, "x")


@given(st.text(max_size=5) | st.sampled_from(["True", "False", "0", "1", "true", "FALSE", "yes", " 1", "1.0"]))
def test_four_words_are_flags_in_csv(cell):
    row = Row("r", {"x": cell}, cells=True)
    expected = {"True": True, "1": True, "False": False, "0": False}
    if cell in expected:
        assert row.flag("x") is expected[cell]
    else:
        assert "is not True, False, 0 or 1" in reason(row.flag, "x")


@given(JSON_VALUES)
def test_only_integers_are_integers(value):
    row = Row("r", {"x": value})
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 4:
        assert row.integer("x", range(4)) == value
    else:
        assert "'x' is" in reason(row.integer, "x", range(4))


@pytest.mark.parametrize(("cell", "found"), [("3", 3), ("0", 0), ("-1", -1)])
def test_digits_are_integers_in_csv(cell, found):
    assert Row("r", {"x": cell}, cells=True).integer("x", range(-1, 4)) == found


@pytest.mark.parametrize("cell", ["", "1.0", "²", "٣", " 1", "1_0", "+1", "--1", "9" * 5000])
def test_other_cells_are_not_integers(cell):
    assert "'x' is not a string of digits" in reason(Row("r", {"x": cell}, cells=True).integer, "x", range(4))


def test_texts_keep_their_spaces_and_must_say_something():
    assert Row("r", {"x": " a \n"}).text("x") == " a \n"
    assert Row("r", {"x": " "}).text("x", blank=True) == " "
    assert reason(Row("r", {"x": " "}).text, "x") == "'x' is blank"
    assert reason(Row("r", {}).text, "x") == "'x' is missing"
    assert reason(Row("r", {"x": None}).text, "x") == "'x' is missing"
    assert reason(Row("r", {"x": 3}).text, "x") == "'x' is not text (found int)"


def test_half_a_surrogate_pair_is_refused():
    row = Row("r", json.loads('{"x": "a\\ud800"}'))
    assert reason(row.text, "x") == "'x' is not valid Unicode"


def test_lists_of_texts():
    assert Row("r", {"x": ["a", "b"]}).texts("x") == ("a", "b")
    assert Row("r", {"x": '["a", "b"]'}, cells=True).texts("x") == ("a", "b")
    assert "fewer than 2" in reason(Row("r", {"x": ["a"]}).texts, "x")
    assert "not text" in reason(Row("r", {"x": ["a", 1]}).texts, "x")
    assert reason(Row("r", {"x": "ab"}).texts, "x") == "'x' is not a list (found str)"
    assert reason(Row("r", {"x": "['a', 'b']"}, cells=True).texts, "x") == "'x' is not JSON"


def test_a_refusal_never_repeats_a_long_value():
    assert "word" not in reason(Row("r", {"x": "word " * 10}).flag, "x")
