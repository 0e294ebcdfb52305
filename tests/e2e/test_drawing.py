"""Figures drawn by another process are those that this one draws."""

import pytest

from experiments import drawing
from nlsr_jax.report import draw_figures
from tests.report.records import make_record


@pytest.fixture
def record():
    return make_record(layers=3)


def test_another_process_draws_the_same(record, monkeypatch):
    expected = draw_figures(record)
    monkeypatch.setattr(drawing, "draw_figures", None)
    found = drawing.draw_apart(record)
    assert found == expected
    assert [type(svg) for _, svg in found.values()] == [type(svg) for _, svg in expected.values()]


@pytest.mark.parametrize("python", ["", "/nothing/python", "true", "false"])
def test_where_it_cannot_this_one_does(record, monkeypatch, python):
    monkeypatch.setattr(drawing.sys, "executable", python)
    assert drawing.draw_apart(record) == draw_figures(record)


def test_only_large_adapters_are_worth_it(record, monkeypatch):
    monkeypatch.setattr(drawing, "draw_apart", lambda record: "apart")
    monkeypatch.setattr(drawing, "draw_figures", lambda record: "here")
    entries = record["summary"]["total_entries"] = drawing._LARGE - 1
    assert drawing.draw(record) == "here"
    record["summary"]["total_entries"] = entries + 1
    assert drawing.draw(record) == "apart"
