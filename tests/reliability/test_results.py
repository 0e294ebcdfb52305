"""The page of results."""

import json

from tests.reliability.results import PAGE, RESULTS, page


def test_the_page_is_made_from_the_results():
    kept = json.loads(RESULTS.read_text())
    assert PAGE.read_text() == page(kept)


def test_every_result_held_in_all_cases():
    for command, one in json.loads(RESULTS.read_text()).items():
        assert one["cases"] == one["held"] > 0, command
        assert command.startswith(("python -m tests.reliability.", "python -m pytest tests/", "make "))
