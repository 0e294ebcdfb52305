"""No figure of a page, and nothing that is shipped, can be altered without a test that fails."""

import inspect
import re

import pytest

from tests.paper import test_quoted, test_real_model, test_sentences, test_shipped, test_worlds
from tests.paper.digests import kept, shipped
from tests.paper.shipped import ALTERED, README, RESULTS, STARTED, page, read
from tests.paper.test_quoted import BENCHMARKS, HOLDINGS

UNCHECKED = (
    r"```.*?```|`[^`\n]*`|\]\([^)]*\)|SHA-256|bfloat16|float(32|64)|Llama-3-8B|Phi-3|OLMo 2|Apache-2\.0|"
    r"[Tt]ables? \d+( to \d+)?|[Ff]igure \d+|^\| \d \||^ *\d\. "
)
"""Code, links, names, and the numbers of tables, figures and lists, which are no results."""
SINGLE = {
    README: [test_shipped.test_the_readme_quotes_the_tiny_study, test_quoted.test_the_readme],
    STARTED: [test_shipped.test_getting_started_shows_one_case_of_the_tiny_study, test_quoted.test_the_first_steps],
    HOLDINGS: [test_quoted.test_the_page_of_holdings],
    BENCHMARKS: [test_quoted.test_the_page_of_benchmarks],
    test_real_model.PAGE: [test_real_model.test_the_page_of_the_real_model],
    test_worlds.PAGE: [test_worlds.test_the_page_of_the_worlds],
}

PAGES = [README, RESULTS, STARTED, HOLDINGS, BENCHMARKS, test_real_model.PAGE, test_worlds.PAGE]


def checks_of_results():
    """All checks of docs/results.md, each as a call without arguments."""
    for name, check in (*vars(test_shipped).items(), *vars(test_sentences).items()):
        if not name.startswith("test_") or check in SINGLE[README] + SINGLE[STARTED]:
            continue
        marks = [mark for mark in getattr(check, "pytestmark", []) if mark.name == "parametrize"]
        if marks and "lines" in marks[0].args[0]:
            yield from (lambda case=case, check=check: check(*case) for case in marks[0].args[1])
        elif not marks:
            given = {"rows": read(1)} if "rows" in inspect.signature(check).parameters else {}
            yield lambda check=check, given=given: check(**given)


def fails(check):
    """Whether a check fails."""
    try:
        check()
    except (AssertionError, ValueError, KeyError):
        return True
    return False


def alterations(text):
    """Yield the line of every figure, and the text with the figure's last digit altered."""
    spared = [range(*found.span()) for found in re.finditer(UNCHECKED, text, re.DOTALL | re.MULTILINE)]
    for found in re.finditer(r"\d", text):
        place = found.start()
        if re.match(r"[\d.]*\d", text[place + 1 :]) or any(place in span for span in spared):
            continue  # inside a number, whose last digit is altered
        line = text[text.rfind("\n", 0, place) + 1 : text.find("\n", place)]
        yield line, text[:place] + str((int(found[0]) + 5) % 10) + text[place + 1 :]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_figure_that_is_altered_is_noticed(path):
    checks = SINGLE.get(path) or [*checks_of_results()]
    unnoticed, count = [], 0
    assert not any(map(fails, checks))
    for line, text in alterations(page(path)):
        ALTERED[path] = text
        try:
            count += 1
            if not any(map(fails, checks)):
                unnoticed.append(line)
        finally:
            del ALTERED[path]
    assert not unnoticed, "\n".join(unnoticed)
    assert count > 8


def test_what_is_shipped_is_what_its_digests_say():
    expected, found = kept(), shipped()
    altered = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
    assert altered == [], "after a change that is meant, run python -m tests.paper.digests"
