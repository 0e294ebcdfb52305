"""Some two thousand nearly valid files, shared among all parsers: a value, or one line that says what is wrong."""

import itertools

import pytest

from nlsr_jax.errors import InputError
from tests.reliability.fuzz import examine, generator, run_target, shares
from tests.reliability.fuzz_targets import TARGETS

CASES = 2000
FAR = 10**9
"""Numbers of cases that the long form does not come to: here are others."""


@pytest.mark.parametrize("name", TARGETS)
def test_every_file_is_read_or_refused_in_one_line(name, tmp_path):
    count = shares(CASES)[name]
    found = run_target(TARGETS[name], 0, range(FAR, FAR + count), tmp_path)
    assert found.failed == 0
    assert found.accepted + found.refused == count
    assert found.refused


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_not_changed_is_accepted(name, tmp_path):
    case = TARGETS[name].prepare(tmp_path)
    outcome = examine(case(Unchanged()))
    assert outcome.verdict == "accepted", outcome.error


class Unchanged:
    """A generator under which every mutation leaves a file as it is, and the first of all choices is taken."""

    def random(self):
        return 0.0

    def integers(self, *_):
        return 0


def test_the_shares_are_all_cases():
    assert sum(shares(CASES).values()) == CASES
    assert sum(shares(100_000).values()) == 100_000


def test_a_case_is_decided_by_its_numbers(tmp_path):
    path = tmp_path / "cells.json"
    case = TARGETS["cells"].prepare(tmp_path)
    found = []
    for number in (5, 5, 6):
        case(generator("cells", 0, number))
        found.append(path.read_bytes())
    assert found[0] == found[1] != found[2]


def two_lines():
    raise ZeroDivisionError("one\ntwo")


def empty():
    raise InputError("")


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (lambda: None, "accepted"),
        (lambda: int("x"), "raised ValueError"),
        (two_lines, "raised ZeroDivisionError"),
        (empty, "refused without one printable line"),
    ],
)
def test_what_is_not_as_promised_is_told(read, verdict):
    outcome = examine(read)
    assert outcome.verdict.startswith(verdict)
    assert outcome.held == (verdict == "accepted")


def test_what_grows_too_much_is_told(monkeypatch):
    peaks = itertools.chain([0], itertools.repeat(2**50))
    monkeypatch.setattr("tests.reliability.fuzz._peak", lambda: next(peaks))
    assert examine(lambda: None).verdict.startswith("grew by ")
    assert examine(lambda: None).held  # nothing beyond what was there before


def test_what_takes_too_long_is_told(monkeypatch):
    monkeypatch.setattr("tests.reliability.fuzz.SECONDS", -1.0)
    assert examine(lambda: None).verdict.startswith("took ")
