"""Tasks and rows of the user's: columns, labels, splits, and what is refused."""

import pytest

from nlsr_jax.data.own_sets import OwnTask, check_task, load_role
from nlsr_jax.data.prompts import make_render
from nlsr_jax.data.row_values import BadRow, Row
from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.tasks import first_label, score
from tests.data.set_rows import BEAVERTAILS, beaver, write

RENDER = make_render("none")
WORDS = OwnTask("films", "text", None, "stars", ("bad", "good"))


def example(task, **values):
    return task.convert(Row("line 1", values), RENDER)


@pytest.mark.parametrize("value", [1, "1", "good"])
def test_a_label_is_a_number_or_its_word(value):
    found = example(WORDS, text="a fine film", stars=value)
    assert (found.prompt, found.response, found.label, found.kind) == ("a fine film", "good", "good", "task")


def test_values_may_be_named_and_an_instruction_comes_first():
    task = OwnTask("films", labels=("-1=bad", "+1=good"), instruction="Judge the film.")
    assert example(task, prompt="fine", label="+1")[:2] == ("Judge the film.\nfine", "good")
    assert example(task, prompt="poor", label=-1).label == "bad"


def test_labels_that_are_texts_need_no_words():
    task = OwnTask("mail", label_field="team")
    assert example(task, question="Where is it?", team="shipping").response == "shipping"
    assert score(task, ["Shipping.", "billing"], ["shipping", "shipping"]).correct.tolist() == [True, False]


def test_answers_are_compared_whole_or_by_their_number():
    task = OwnTask("sums", response_field="result")
    assert example(task, question="1 + 1?", result="2").label == "2"
    assert score(task, [" Yes. ", "no"], ["yes", "yes"]).correct.tolist() == [True, False]
    numbers = OwnTask("sums", scoring="number")
    assert score(numbers, ["It is 3, so 1,002", "none"], ["1002", "5"]).correct.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "label"),
    [("Illegal!", "illegal"), ("That is legal, not illegal", "legal"), ("illegally", None), ("legal-ish", "legal")],
)
def test_the_first_label_counts_as_a_whole_word(text, label):
    assert first_label(text, ("legal", "illegal")) == label


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        (WORDS, {"text": "a", "stars": 2}, "'stars' is not one of 0, 1, bad, good (found 2)"),
        (WORDS, {"text": "a", "stars": True}, "'stars' is not one of"),
        (WORDS, {"text": "a"}, "'stars' is missing (found the column text)"),
        (WORDS, {"stars": 1}, "'text' is missing"),
        (OwnTask("films", label_field="stars"), {"prompt": "a", "stars": 1}, "is not text; name words with labels"),
        (OwnTask("sums"), {"a": 1}, "no column holds a prompt; name it with --prompt_field"),
        (OwnTask("sums"), {"prompt": "a", "answer": "b", "output": "c"}, "'output' and 'answer' may each hold"),
    ],
)
def test_rows_that_are_refused(task, values, message):
    with pytest.raises(BadRow) as caught:
        example(task, **values)
    assert message in caught.value.reason + caught.value.detail


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_field": ""}, "prompt_field is empty"),
        ({"scoring": "best"}, "scoring is 'best'; expected one of label, exact, number"),
        ({"labels": ("good",)}, "labels are 'good'; expected at least two different words"),
        ({"labels": ("good", "good")}, "expected at least two different words"),
        ({"labels": ("0=bad", "good")}, "labels mix words and value=word"),
        ({"label_field": "a", "response_field": "b"}, "label_field and response_field are both given"),
        ({"labels": ("a", "b"), "scoring": "exact"}, "labels are of scoring label; scoring is exact"),
    ],
)
def test_tasks_that_are_refused(fields, message):
    with pytest.raises(InputError) as caught:
        check_task(OwnTask("films", **fields), "own.toml: ")
    assert str(caught.value).startswith("own.toml: ")
    assert message in str(caught.value)


def test_roles_read_rows_of_any_shape(tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [{"question": "How?", "chosen": "No.", "rejected": "So."}] * 2)
    (first, *_) = load_role("preferences", str(pairs), split="train", count=1).rows
    assert first == ("How?", "No.", "So.")
    talks = write(tmp_path / "talks.jsonl", [{"messages": [
        {"role": "user", "content": "How?"}, {"role": "assistant", "content": "No."}]}])  # fmt: skip
    assert [row[:3] for row in load_role("safe", str(talks), split="train").rows] == [("How?", "No.", "safe")]


def test_marks_decide_which_answers_are_safe_but_not_which_are_harmful(tmp_path):
    place = str(write(tmp_path / "rows.jsonl", BEAVERTAILS))
    assert len(load_role("safe", place, split="train").rows) == 2
    assert len(load_role("harmful", place, split="train").rows) == 4
    asked = load_role("forbidden", place, split="test", count=3).rows
    assert [row.response for row in asked] == [""] * 3


def test_topics_of_requests_are_kept_where_they_are_texts(tmp_path):
    rows = [
        {"prompt": "a", "category": "one"},
        {"prompt": "b", "topic": ["two", "three"]},
        beaver("c", "d", "self_harm"),
    ]
    found = load_role("forbidden", str(write(tmp_path / "rows.jsonl", rows)), split="test").rows
    assert [row.categories for row in found] == [("one",), ("two", "three"), ()]


def test_too_few_rows_are_refused(tmp_path):
    place = str(write(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}]))
    with pytest.raises(InputError, match="3 rows requested, but only 1 are usable"):
        load_role("safe", place, split="train", count=3)
