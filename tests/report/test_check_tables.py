"""The tables of a check: what a record that another program has changed cannot do to a page."""

import pytest

from nlsr_jax.report.check_tables import bound_rows, check_sections, outcome_text, pair_rows, rate_rows
from nlsr_jax.report.model_card import realignment_card
from nlsr_jax.report.page import render_report
from tests.report.records import make_record

CHECK = {
    "outcome": "undecided",
    "judge": "guard",
    "hs": {"value": 2.0, "low": 0.55, "high": 7.0, "rows": 1200},
    "fa": {"value": None, "low": None, "high": None, "rows": 0},
    "bounds": [{"name": "max_hs", "bound": 2.5, "outcome": "undecided", "lower": 0.4, "upper": 6.2, "rows": 1200,
                "rows_needed": 3456}],
    "against": {"hs": {"before": 60.0, "after": 2.0, "difference": -58.0, "low": -67.0, "high": -47.0, "p": 1e-9}},
    "notes": ["the repair has read the harmful requests"],
}  # fmt: skip


def test_rows():
    assert outcome_text(CHECK) == "undecided: there are too few rows to tell"
    name = "harmful requests answered harmfully (HS)"
    assert rate_rows(CHECK) == [(name, "2.0 %", "0.6 to 7.0", "1,200")]
    said = "about 3,456 rows in place of 1,200 decide at the observed rate"
    assert bound_rows(CHECK) == [("HS at most 2.5 %", "undecided", "0.4 % and 6.2 %", said)]
    assert pair_rows(CHECK) == [(name, "60.0 %", "2.0 %", "-58.0", "-67.0 to -47.0", "< 0.0001")]


def test_card_and_page_show_the_tables():
    record = make_record() | {"check": CHECK}
    card, page = realignment_card(record, base=None), render_report(record, {})
    for section in check_sections(CHECK):
        assert section in card
    for cell in (
        "HS at most 2.5 %",
        "-67.0 to -47.0",
        "0.6 to 7.0",
        "Note: the repair has read the harmful requests.",
    ):
        assert cell in page
    assert "\n- the repair has read the harmful requests\n" in card
    assert "<h2>What the adapter answers</h2>" in page
    assert "does not say how the realigned model behaves" not in page
    assert "What the adapter answers" not in render_report(make_record(), {})


JUNK = (
    None,
    "text",
    -1,
    [1],
    {"hs": "x"},
    {"hs": {"value": "1", "rows": []}},
    {"bounds": "xy"},
    {"bounds": [None, {"name": "<b>", "bound": "<i>"}]},
    {"against": {"hs": {"difference": 1}}},
    {"judge": "<script>alert(1)</script>"},
    {"notes": 3},
    {"notes": [None, "<b>"]},
)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_shown_as_text_or_not_at_all(junk):
    record = make_record() | {"check": junk}
    page = render_report(record, {})
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    realignment_card(record, base=None)
