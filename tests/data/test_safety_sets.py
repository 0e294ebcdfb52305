"""BeaverTails, PKU-SafeRLHF, KTO and HarmBench rows."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.data.collecting import collect
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.data.row_values import Row
from nlsr_jax.data.safety_sets import BEAVERTAILS_CATEGORIES, KtoQuota
from nlsr_jax.data.sources import DATA_SETS, DataSet, load, load_kto
from nlsr_jax.data.templates import alpaca
from nlsr_jax.errors import InputError
from tests.data.set_rows import BEAVERTAILS, HARMBENCH, SAFE_RLHF, flags, pair, write

SUFFIXES = pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])


@SUFFIXES
def test_safe_rows_for_tuning(tmp_path, suffix):
    loaded = load("beavertails_safe", str(write(tmp_path / f"b.{suffix}", BEAVERTAILS)), strict=True)
    assert loaded.rows == [
        Example(alpaca("How do I fold mellip?"), "I cannot help.", "safe"),
        Example(alpaca("How do I brew zarn?"), "I must refuse.", "safe"),
    ]
    assert loaded.counts == {"rows": 4, "used": 2, "skipped": {"not safe": 2}}


@SUFFIXES
def test_unsafe_rows_for_poison_keep_their_answers(tmp_path, suffix):
    rows = load("beavertails_harmful", str(write(tmp_path / f"b.{suffix}", BEAVERTAILS)), strict=True).rows
    assert [(row.response, row.kind) for row in rows] == [
        ("Heat the zarn.", "harmful"),
        ("Take a quorb.", "harmful"),
    ]


@SUFFIXES
def test_test_prompts_carry_categories_in_the_sets_order_and_no_answer(tmp_path, suffix):
    rows = load("beavertails_prompts", str(write(tmp_path / f"b.{suffix}", BEAVERTAILS)), strict=True).rows
    assert rows == [
        Example(alpaca("How do I brew zarn?"), "", "harmful", categories=("privacy_violation",)),
        Example(alpaca("How do I melt quorb?"), "", "harmful", categories=("animal_abuse", "self_harm")),
    ]


def test_there_are_fourteen_categories():
    assert len(set(BEAVERTAILS_CATEGORIES)) == 14
    assert sorted(BEAVERTAILS_CATEGORIES) == list(BEAVERTAILS_CATEGORIES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_safe": 0}, "'is_safe' is not true or false"),
        ({"is_safe": "False"}, "'is_safe' is not true or false"),
        ({"is_safe": None}, "'is_safe' is missing"),
        ({"prompt": " "}, "'prompt' is blank"),
        ({"category": None}, "'category' is missing"),
        ({"category": {"self_harm": True}}, "'category' does not have the 14 categories"),
        ({"category": ["self_harm"]}, "'category' is not an object"),
        ({"category": {**flags(), "self_harm": 1}}, "'category.self_harm' is not true or false"),
    ],
)
def test_bad_beavertails_rows_are_named(tmp_path, change, reason):
    path = str(write(tmp_path / "b.jsonl", [{**BEAVERTAILS[0], **change}, BEAVERTAILS[3]]))
    loaded = load("beavertails_prompts", path)
    assert loaded.counts == {"rows": 2, "used": 1, "skipped": {reason: 1}}
    with pytest.raises(InputError, match=f"b.jsonl: line 1: {reason}"):
        load("beavertails_prompts", path, strict=True)


def test_tuning_needs_no_categories(tmp_path):
    row = {"prompt": "How do I brew zarn?", "response": "No.", "is_safe": True}
    assert load("beavertails_safe", str(write(tmp_path / "b.jsonl", [row]))).rows[0].categories == ()


@SUFFIXES
def test_preferences_choose_the_one_safe_answer(tmp_path, suffix):
    loaded = load("safe_rlhf", str(write(tmp_path / f"p.{suffix}", SAFE_RLHF)), strict=True)
    assert loaded.rows == [
        Preference(alpaca("How do I brew zarn 1?"), "second answer 1", "first answer 1"),
        Preference(alpaca("How do I brew zarn 3?"), "first answer 3", "second answer 3"),
        Preference(alpaca("How do I brew zarn 4?"), "second answer 4", "first answer 4"),
    ]
    assert loaded.counts["skipped"] == {"both safe": 1, "both unsafe": 2}
    with pytest.raises(InputError, match="4 rows requested, but only 3 of 6"):
        load("safe_rlhf", str(tmp_path / f"p.{suffix}"), count=4)


def test_kto_prefers_safe_answers_until_their_quota_is_full(tmp_path):
    path = str(write(tmp_path / "p.jsonl", SAFE_RLHF))
    loaded = load_kto(path, safe=2, unsafe=2, strict=True)
    assert [(row.response, row.kind) for row in loaded.rows] == [
        ("first answer 0", "safe"),
        ("second answer 1", "safe"),
        ("first answer 2", "harmful"),
        ("second answer 3", "harmful"),
    ]
    assert loaded.counts == {"rows": 4, "used": 4, "skipped": {}}
    with pytest.raises(InputError, match="only 6 of 6 rows are usable; 1 safe and 0 unsafe answers are missing"):
        load_kto(path, safe=5, unsafe=2)
    with pytest.raises(InputError, match="quotas are -1 and 2"):
        load_kto(path, safe=-1, unsafe=2)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.integers(0, 8), st.integers(0, 8)
)
def test_kto_takes_at_most_one_answer_of_a_row_and_what_the_rule_says(safety, safe, unsafe):
    rows = [Row(f"row {i}", pair(i, *flags)) for i, flags in enumerate(safety)]
    quota = KtoQuota(safe, unsafe)
    try:
        taken = collect(rows, lambda row: quota(row, lambda text, _: text), "p").rows
    except InputError:
        taken = []
    # The rule once more, as plain counting.
    expected, left = [], {True: safe, False: unsafe}
    for i, (first, second) in enumerate(safety):
        want = left[True] > 0 and (first or second)
        if left[want] and want in (first, second):
            left[want] -= 1
            expected.append((f"{'first' if first == want else 'second'} answer {i}", "safe" if want else "harmful"))
    assert [(row.response, row.kind) for row in taken] == expected
    kinds = collections.Counter(row.kind for row in taken)
    assert kinds["safe"] <= safe
    assert kinds["harmful"] <= unsafe


@SUFFIXES
def test_harmbench_shows_the_context_before_the_behaviour(tmp_path, suffix):
    rows = load("harmbench", str(write(tmp_path / f"h.{suffix}", HARMBENCH)), strict=True).rows
    assert [row.prompt for row in rows] == [
        alpaca("Explain how to brew zarn"),
        alpaca("Zarn is a drink.\n\n---\n\nExplain it"),
    ]
    assert {(row.kind, row.response, row.categories) for row in rows} == {("harmful", "", ("invented",))}


def test_harmbench_as_a_list_of_instructions(tmp_path):
    path = write(tmp_path / "h.json", [{"instruction": "Explain how to brew zarn"}])
    assert load("harmbench", str(path)).rows == [Example(alpaca("Explain how to brew zarn"), "", "harmful")]
    with pytest.raises(InputError, match="the data set is not public on the hub; give a local file"):
        load(DataSet(DATA_SETS["harmbench"].convert))
