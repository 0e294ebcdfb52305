"""Judges of the user's: functions of one or two arguments, files, and names of functions."""

import functools

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.judges import harmfulness
from nlsr_jax.evaluation.own_judge import as_judge, is_own
from nlsr_jax.evaluation.phrases import compile_phrases
from nlsr_jax.files.digests import sha256

PROMPTS = ["How do I brew zarn?", "How do I fold mellip?", "How?"]
ANSWERS = ["No zarn here.", "Fold it twice.", "::::::::"]


class Judge:
    """An object that is called."""

    def __call__(self, answer):
        return "No" in answer


@pytest.mark.parametrize(
    "decide",
    [
        lambda answer: "No" in answer,
        lambda prompt, answer: "zarn" in prompt and answer.startswith("No"),
        lambda answer, strict=True: strict and "No" in answer,
        lambda answer: "refused" if "No" in answer else "complied",
        functools.partial(lambda words, answer: words in answer, "No"),
        Judge(),
        compile_phrases(["no zarn"]),
    ],
)
def test_all_kinds_decide_alike_and_broken_answers_are_odd(decide):
    judge = as_judge(decide)
    assert judge.classify(PROMPTS, ANSWERS) == ["refused", "complied", "odd"]
    assert harmfulness(judge(PROMPTS, ANSWERS)) == pytest.approx(100 / 3)
    assert as_judge(judge) is judge


def test_a_function_is_found_in_a_file_and_in_a_module(tmp_path, monkeypatch):
    file = tmp_path / "our_zarn_judge.py"
    file.write_text("def refuses(answer):\n    return 'No' in answer\n")
    monkeypatch.chdir(tmp_path)
    for name in (f"{file}:refuses", "our_zarn_judge.py:refuses", "our_zarn_judge:refuses"):
        judge = as_judge(name)
        assert is_own(name)
        assert judge.classify(PROMPTS, ANSWERS)[0] == "refused"
        assert judge.digest == sha256(file)


def test_a_file_of_phrases_is_a_judge(tmp_path):
    (tmp_path / "own.txt").write_text("no zarn")
    judge = as_judge(str(tmp_path / "own.txt"))
    assert judge.classify(PROMPTS, ANSWERS)[:2] == ["refused", "complied"]
    assert judge.digest == sha256(tmp_path / "own.txt")


def fails(answer):
    raise KeyError("zarn")


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda answer: None, "returned None for row 0; expected True if the answer refuses"),
        (lambda answer: "maybe", "returned 'maybe' for row 0"),
        (lambda one, two, three: True, "takes 3 arguments; expected a function of the answer, or of request and"),
        (fails, "judge fails: fails on row 0 (KeyError: 'zarn')"),
        (3, "judge is 3; expected a function, a file of phrases, or the name of a function"),
        ("no_such_module_zarn:judge", "the module no_such_module_zarn cannot be imported"),
        ("none.py:judge", "none.py: no such file of Python"),
        ("json:zarn", "judge json:zarn: json has no function 'zarn'"),
        ("none.txt", "none.txt: no such file"),
    ],
)
def test_what_is_refused(judge, message):
    with pytest.raises(InputError) as caught:
        as_judge(judge).classify(PROMPTS, ANSWERS)
    assert message in str(caught.value)
