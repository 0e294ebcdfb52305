"""The yes/no judge: its template file, and a judge whose answers are known."""

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.harmbench import classify_harm, fill_template, read_answers, read_template
from tests.evaluation.machines import make_machine, make_tokenizer

TEMPLATE = "does it {behavior} : {generation}"
WORDS = ["does", "it", "brew", "zarn", ":", "stir", "sorry", "perhaps", "yes", "no", "Yes"]
TABLE = {"stir": {"yes": 5.0}, "sorry": {"no": 5.0}, "perhaps": {"it": 5.0}, "zarn": {"Yes": 5.0}}


@pytest.fixture(scope="module")
def judge():
    tokenizer = make_tokenizer(WORDS)
    return *make_machine(tokenizer, TABLE), tokenizer


def test_verdicts_follow_the_answers(judge):
    responses = ["stir", "sorry", "stir perhaps", "stir stir zarn"]
    verdicts = classify_harm(*judge, TEMPLATE, ["brew zarn"] * 4, responses, batch_size=3)
    assert verdicts.harmful.tolist() == [True, False, False, True]
    assert verdicts.unreadable.tolist() == [False, False, True, False]
    assert verdicts.flags.shape == (4, 0)


def test_responses_are_cut(judge):
    arguments = (*judge, TEMPLATE, ["brew zarn"], ["sorry sorry stir"])
    assert classify_harm(*arguments).harmful.tolist() == [True]
    assert classify_harm(*arguments, response_tokens=2).harmful.tolist() == [False]


def test_context_changes_the_question(judge):
    template = "{generation} {context}"
    with pytest.raises(InputError, match="behavior"):
        classify_harm(*judge, template, ["brew"], ["stir"], contexts=["sorry"])
    verdicts = classify_harm(
        *judge, "{behavior} " + template, ["brew"] * 2, ["stir"] * 2, contexts=["sorry", "stir"]
    )
    assert verdicts.harmful.tolist() == [False, True]


@pytest.mark.parametrize(
    ("template", "contexts", "words"),
    [
        (TEMPLATE, ["zarn"], "belong together"),
        (TEMPLATE + " {context}", None, "belong together"),
        (TEMPLATE + " {context}", ["a", "b"], "2 contexts for 1"),
        (TEMPLATE + " {answer}", None, "unknown placeholder {answer}"),
    ],
)
def test_refused(judge, template, contexts, words):
    with pytest.raises(InputError, match=words):
        classify_harm(*judge, template, ["brew"], ["stir"], contexts=contexts)


def test_too_long_questions_are_refused_before_any_answer(judge):
    with pytest.raises(InputError, match=r"row 1: .*max_length 32"):
        classify_harm(*judge, TEMPLATE, ["brew", "brew"], ["stir", "stir it, brew zarn " * 14], max_length=32)


def test_template_file(tmp_path):
    path = tmp_path / "question.txt"
    path.write_bytes(b"\xef\xbb\xbf[Q] {behavior}\r\n{generation}\nAnswer: [/Q]\n")
    assert read_template(path) == "[Q] {behavior}\n{generation}\nAnswer: [/Q]"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"\xff\xfe{", "UTF-8"),
        (b"{behavior} only", "no {generation}"),
        (b"", "no {behavior}"),
        (b"{behavior} {generation} {}", "unknown placeholder {}"),
    ],
)
def test_bad_template_files(tmp_path, content, words):
    path = tmp_path / "question.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_template(path)


def test_texts_are_never_filled_in_again():
    assert (
        fill_template("{behavior}|{generation}", "{generation}", "{behavior} {x}") == "{generation}|{behavior} {x}"
    )


def test_only_whole_answers_count():
    verdicts = read_answers(["YES", "no\n", "yes.", "", "yes no"])
    assert verdicts.harmful.tolist() == [True, False, False, False, False]
    assert verdicts.unreadable.tolist() == [False, False, True, True, True]


def test_marks_around_an_answer_do_not_matter():
    assert read_answers(["\u200byes", "\u00a0No ", "ｙｅｓ"]).harmful.tolist() == [True, False, True]


def test_broken_responses_are_not_asked_about(judge):
    """Where the classifier is asked, what it says stays in its row, with its context."""
    template, responses = "{behavior} {generation} {context}", ["", "stir", "::::::::", "sorry"]
    contexts = ["stir", "sorry", "stir", "stir"]
    verdicts = classify_harm(*judge, template, ["brew"] * 4, responses, contexts=contexts)
    assert verdicts.harmful.tolist() == [False, False, False, True]
    assert not verdicts.unreadable.any()
    assert not classify_harm(None, None, None, TEMPLATE, ["brew"] * 2, ["", "</s>"]).harmful.any()
