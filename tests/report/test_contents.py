"""What the page holds: the record's numbers, nothing it has to load, and no markup from the record."""

import html.parser
import re

import pytest

from nlsr_jax.adapter import MODULES
from nlsr_jax.errors import InputError
from nlsr_jax.report import render_report
from tests.report.records import make_record

VOID = {"meta", "br", "hr", "img", "link", "input", "col"}
HOSTILE = '<script>alert("x")</script>\'"&\x07é' + "x" * 500


class Balanced(html.parser.HTMLParser):
    """Collect tags and check that they close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.loaded = [], 0, []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                self.loaded.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.mark.parametrize(("layers", "names"), [(32, MODULES), (16, ("q_proj", "v_proj")), (1, ("up_proj",))])
def test_numbers_are_those_of_the_record(layers, names):
    record = make_record(layers, names)
    page = render_report(record)
    parse(page)
    repaired = sum(not module["pruned"] for module in record["modules"])
    assert f"{repaired} of {layers * len(names)}" in re.sub(r"<[^>]*>|\s+", " ", page).replace("  ", " ")
    for name in names:
        assert name in page


def test_nothing_is_loaded_and_the_page_stays_small():
    page = render_report(make_record(80))
    parser = parse(page)
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in parser.loaded)
    assert len(page.encode()) < 2_000_000


def test_same_record_same_page():
    assert render_report(make_record(4)) == render_report(make_record(4))


def test_text_of_the_record_is_data():
    scripts = parse(render_report(make_record(2))).scripts
    record = make_record(2)
    record["warnings"] = [HOSTILE]
    record["settings"]["base"] = HOSTILE
    record["inputs"] = {"aligned": {"path": HOSTILE, "files": {HOSTILE: HOSTILE}}}
    record["outputs"] = {HOSTILE: HOSTILE}
    record["versions"] = {HOSTILE: HOSTILE}
    page = render_report(record)
    assert parse(page).scripts == scripts
    assert "<script>alert" not in page


def test_settings_and_modules_are_enough():
    record = make_record(2)
    page = render_report({"settings": record["settings"], "modules": record["modules"]})
    parse(page)


@pytest.mark.parametrize("missing", ["settings", "modules"])
def test_what_is_needed_is_named(missing):
    record = make_record(2)
    del record[missing]
    with pytest.raises(InputError, match=missing):
        render_report(record)
