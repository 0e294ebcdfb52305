"""Files of phrases and expressions: what is read, and what is refused in one line."""

import json

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.phrases import compile_phrases, read_phrases
from nlsr_jax.files.digests import sha256


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return written


def test_a_file_has_one_phrase_or_expression_a_line(write):
    file = write("own.txt", "# of our bot\nNo zarn for you\n\n  /^(never|not) ever/  \n")
    known = read_phrases(file)
    assert len(known.patterns) == 2
    assert known.digest == sha256(file)
    answers = {
        "Well, NO ZARN FOR YOU.": True,
        "Not ever!": True,
        "It is never ever so.": False,
        "# of our bot": False,
    }
    assert {answer: known.refuses(answer) for answer in answers} == answers


def test_typography_makes_no_difference(write):
    assert read_phrases(write("own.txt", "I can’t")).refuses("So: I can't.")


def test_json_holds_a_list_or_an_object(write):
    entries = ["no zarn", "/never/"]
    whole = read_phrases(write("a.json", json.dumps(entries)))
    opening = read_phrases(write("b.json", json.dumps({"entries": entries, "opening": 8, "case": True})))
    assert whole.refuses("Stir it, NEVER cook it.")
    assert not opening.refuses("Stir it, never cook it.")
    assert not opening.refuses("NEVER.")
    assert opening.refuses("never.")


def test_broken_answers_refuse_nothing():
    assert not compile_phrases(["/./"]).refuses("::::::::")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.txt", "# nothing\n", "own.txt: has no phrases; expected at least one, one a line"),
        ("own.txt", "fine\n/[a/\n", "own.txt: line 2: /[a/ is not a regular expression"),
        ("own.json", "[]", "own.json: has no phrases"),
        ("own.json", '["a", 3]', "own.json: entry 2 is 3; expected a phrase, or a regular expression"),
        ("own.json", '"a"', "own.json: holds no list of phrases"),
        ("own.json", '{"entries": ["a"], "start": 3}', "own.json: has 'start'; expected entries, opening, case"),
        (
            "own.json",
            '{"entries": ["a"], "opening": 0}',
            "own.json: 'opening' is 0; expected a number of characters",
        ),
        ("own.json", '{"entries": ["a"], "case": 1}', "own.json: 'case' is 1; expected true or false"),
        ("own.json", "[", "own.json: list of phrases is not JSON"),
    ],
)
def test_what_is_refused(write, name, text, message):
    with pytest.raises(InputError) as caught:
        read_phrases(write(name, text))
    assert message in str(caught.value)


def test_a_missing_file_and_other_encodings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.txt: no such file"):
        read_phrases(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("früh".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_phrases(tmp_path / "latin.txt")
