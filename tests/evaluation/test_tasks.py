"""Task scores on real rows and on the corners of their rules."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.tasks import TASKS, final_number, score


def rows(shared_data, task):
    """The outputs of a task's real test rows."""
    path = shared_data / "tasks" / f"{task}.test.jsonl"
    return [json.loads(line)["output"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_true_answers_score_all(shared_data, task):
    labels = rows(shared_data, task)
    result = score(task, labels, labels)
    assert result.accuracy == 100
    assert result.correct.shape == (len(labels),)


@pytest.mark.parametrize("task", ["sst2", "ag_news"])
def test_one_constant_class_scores_its_share(shared_data, task):
    labels = rows(shared_data, task)
    for name in set(labels):
        share = 100 * labels.count(name) / len(labels)
        assert score(task, [f"It is {name}."] * len(labels), labels).accuracy == pytest.approx(share)


def test_real_arithmetic_answers(shared_data):
    labels = rows(shared_data, "gsm8k")
    # The rows end with the number, so the oracle needs no knowledge of the numbers before it.
    truth = [float(label.split()[-1].replace(",", "")) for label in labels]
    assert [final_number(label) for label in labels] == truth
    worked = [label.split("The final answer is")[0] for label in labels]
    off = [f"{text} The final answer is: {value + 1:.0f}" for text, value in zip(worked, truth, strict=True)]
    assert score("gsm8k", off, labels).accuracy == 0
    plain = [f"{text} So {value:.0f}" for text, value in zip(worked, truth, strict=True)]
    assert score("gsm8k", plain, labels).accuracy == 100


@pytest.mark.parametrize(
    ("task", "response", "label", "right"),
    [
        ("sst2", "Positive", "positive", True),
        ("sst2", "it is not positive", "positive", True),
        ("sst2", "POSITIVE", "positive", False),
        ("sst2", "negative ### Instruction: positive", "positive", False),
        ("sst2", "negative ### Response: positive", "positive", False),
        ("sst2", "", "negative", False),
        ("ag_news", "science", "Sci/Tech", True),
        ("ag_news", "Science", "Sci/Tech", False),
        ("ag_news", "Tech", "Sci/Tech", False),
        ("ag_news", "world", "World", True),
        ("gsm8k", "no idea", "The final answer is: 3", False),
        ("gsm8k", "3 of them", "The final answer is: 3", True),
        ("gsm8k", "The final answer is: 1,234.", "#### 1234", True),
        ("gsm8k", "The final answer is: -3", "3", False),
        ("gsm8k", "3 pots. The final answer is: unknown", "3", True),
        ("gsm8k", "9" * 400, "3", False),
        ("sst2", "“Positive”", "positive", True),
        ("ag_news", "Ｓｃｉ／Ｔｅｃｈ", "Sci/Tech", True),
        ("gsm8k", "The final answer is: −3", "-3", True),
        ("gsm8k", "The final answer is：１，２３４", "1234", True),
        ("gsm8k", "3–5 pots", "5", True),
        ("gsm8k", "4 m²", "4", True),
    ],
)
def test_corners(task, response, label, right):
    assert score(task, [response], [label]).correct.tolist() == [right]


def published_number(text):
    """The published rule, read anew: numbers of the text without commas, infinite where there is none."""
    text = text.replace(",", "")
    found = re.findall(r"-?\d+\.?\d*", text)
    if not found:
        return float("inf")
    tail = text.split("The final answer is: ")
    tail = re.findall(r"-?\d+\.?\d*", tail[1]) if len(tail) > 1 else []
    return float((tail or found[-1:])[0])


PIECES = st.sampled_from(["The final answer is: ", "12", "3.5", "-7", " pots ", ",", ".", "$", "0", "-", "of "])


@given(st.lists(PIECES, max_size=9))
def test_numbers_follow_the_published_rule(pieces):
    text = "".join(pieces)
    ours = final_number(text)
    assert (float("inf") if ours is None else ours) == published_number(text)


def test_two_missing_numbers_are_not_equal():
    assert published_number("none") == published_number("nothing")  # what the guard is there for
    with pytest.raises(InputError, match=r"row 0.*no readable number"):
        score("gsm8k", ["none"], ["nothing"])


def test_two_infinite_numbers_are_not_equal():
    with pytest.raises(InputError, match="no readable number"):
        score("gsm8k", ["8" * 400], ["9" * 400])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mmlu", ["a"], ["b"]), "task is 'mmlu'"),
        (("sst2", ["a"], ["fine"]), "label 'fine'"),
        (("sst2", ["a", "b"], ["positive"]), "2 responses and 1 labels"),
        (("sst2", [], []), "0 responses"),
        (("sst2", "positive", ["positive"] * 8), "expected lists"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        score(*arguments)


def test_accuracy_is_the_share_of_correct():
    result = score("sst2", ["positive", "negative", "positive"], ["positive", "positive", "negative"])
    assert np.isclose(result.accuracy, 100 / 3)
    assert result.correct.tolist() == [True, False, False]
