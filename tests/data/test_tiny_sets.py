"""tinyBenchmarks rows: each set's columns become a question, its choices and the right one."""

import pytest

from nlsr_jax.data.sources import DATA_SETS, load
from nlsr_jax.data.tiny_sets import Question, clean_wikihow
from nlsr_jax.errors import InputError
from tests.data.set_rows import write

HELLASWAG = {
    "ind": 1,
    "activity_label": "Brewing zarn",
    "ctx_a": "[header] How to brew zarn [title] Heat it [step] Take a pot.",
    "ctx_b": "then you",
    "endings": ["stir it.", "[substeps] sing.", "sleep.", "fly."],
    "label": "3",
    "input_formatted": "shots and Brewing zarn",
}
MMLU = {"question": "What is zarn?", "subject": "invented", "choices": ["a", "b", "c", "d"], "answer": 2}
TRUTHFUL_QA = {
    "question": "What is zarn?",
    "mc1_targets": {"choices": ["a drink", "a stone"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["a stone", "a drink", "a liquid"], "labels": [0, 1, 1]},
}
WINOGRANDE = {"sentence": "Tom gave Ana zarn as _ asked.", "option1": "Tom", "option2": "Ana", "answer": "2"}
ARC = {
    "id": "1",
    "question": "What is zarn?",
    "choices": {"text": ["a drink", "a stone"], "label": ["A", "B"]},
    "answerKey": "B",
}
ROWS = {
    "tiny_hellaswag": (
        HELLASWAG,
        Question(
            "Brewing zarn: How to brew zarn. Heat it Take a pot. Then you",
            ("stir it.", " sing.", "sleep.", "fly."),
            3,
            (3,),
            formatted="shots and Brewing zarn",
        ),
    ),
    "tiny_mmlu": (MMLU, Question("What is zarn?", ("a", "b", "c", "d"), 2, (2,), subject="invented")),
    "tiny_truthful_qa": (TRUTHFUL_QA, Question("What is zarn?", ("a drink", "a stone"), 0, (0,))),
    "tiny_truthful_qa_mc2": (TRUTHFUL_QA, Question("What is zarn?", ("a stone", "a drink", "a liquid"), 1, (1, 2))),
    "tiny_winogrande": (WINOGRANDE, Question(WINOGRANDE["sentence"], ("Tom", "Ana"), 1, (1,))),
    "tiny_arc": (ARC, Question("What is zarn?", ("a drink", "a stone"), 1, (1,))),
}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
@pytest.mark.parametrize("name", ROWS)
def test_columns_become_questions(tmp_path, name, suffix):
    row, question = ROWS[name]
    assert load(name, str(write(tmp_path / f"t.{suffix}", [row])), strict=True).rows == [question]


def test_every_tiny_set_has_a_case_here():
    assert {name for name in DATA_SETS if name.startswith("tiny_")} == {*ROWS, "tiny_gsm8k"}


def test_tiny_gsm8k_is_read_as_gsm8k(tmp_path):
    row = {"question": "How many zarns?", "answer": "Two.\n#### 2", "input_formatted": "shots"}
    assert load("tiny_gsm8k", str(write(tmp_path / "t.jsonl", [row]))).rows[0].label == "2"


def test_wikihow_marks_go():
    assert clean_wikihow("  a [title] b [step] c") == "a. b c"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("tiny_hellaswag", {"label": ""}, "'label' is not a string of digits"),
        ("tiny_hellaswag", {"label": 3}, "'label' is not a string of digits"),
        ("tiny_hellaswag", {"label": "4"}, "'label' does not match any choice"),
        ("tiny_hellaswag", {"endings": "stir it."}, "'endings' is not a list"),
        ("tiny_mmlu", {"answer": 4}, "'answer' is not in 0 to 3"),
        ("tiny_mmlu", {"choices": ["a", ""]}, "'choices' holds something that is not text"),
        ("tiny_truthful_qa", {"mc1_targets": {"choices": ["a"], "labels": [1, 0]}}, "lists 'choices' and 'labels'"),
        (
            "tiny_truthful_qa",
            {"mc1_targets": {"choices": ["a", "b"], "labels": [0, 0]}},
            "labels other than 0 and 1",
        ),
        ("tiny_truthful_qa", {"mc1_targets": {"choices": ["a", "b"], "labels": [True, 0]}}, "labels other than"),
        ("tiny_winogrande", {"sentence": "no gap"}, "'sentence' does not contain exactly one '_'"),
        ("tiny_winogrande", {"answer": "0"}, "'answer' does not match any choice"),
        ("tiny_winogrande", {"answer": ""}, "'answer' is not a string of digits"),
        ("tiny_arc", {"answerKey": "C"}, "'answerKey' does not match any choice"),
        ("tiny_arc", {"choices": {"text": ["a"]}}, "'choices' does not have lists"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, change, reason):
    path = write(tmp_path / "t.jsonl", [{**ROWS[name][0], **change}])
    with pytest.raises(InputError, match=f"line 1: .*{reason}"):
        load(name, str(path), strict=True)
