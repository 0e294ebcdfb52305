"""Some two thousand nearly valid files, shared among all parsers: a value, or one line that says what is wrong."""

import pytest

from tests.reliability.fuzz import examine, run_target, shares
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
