"""Figures drawn by another process are those that this one draws."""

import pytest

from nlsr_jax.commands import drawing
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


@pytest.mark.parametrize("python", [None, "", "/nothing/python", "true", "false"])
def test_where_it_cannot_this_one_does(record, monkeypatch, python):
    monkeypatch.setattr(drawing.sys, "executable", python)
    assert drawing.draw_apart(record) == draw_figures(record)


@pytest.mark.parametrize("printed", ["1", '{"similarity": 1}', "{", "a line\n{}"])
def test_what_is_no_figures_is_drawn_here(record, monkeypatch, tmp_path, printed):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat > /dev/null\ncat <<'END'\n{printed}\nEND\n")
    python.chmod(0o700)
    monkeypatch.setattr(drawing.sys, "executable", str(python))
    assert drawing.draw_apart(record) == draw_figures(record)


def test_nobody_waits_for_ever(record, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o700)
    monkeypatch.setattr(drawing.sys, "executable", str(python))
    monkeypatch.setattr(drawing, "_LONGEST", 0.2)
    assert drawing.draw_apart(record) == draw_figures(record)


def test_only_large_adapters_are_worth_it(record, monkeypatch):
    monkeypatch.setattr(drawing, "draw_apart", lambda record: "apart")
    monkeypatch.setattr(drawing, "draw_figures", lambda record: "here")
    entries = record["summary"]["total_entries"] = drawing._LARGE - 1
    assert drawing.draw(record) == "here"
    record["summary"]["total_entries"] = entries + 1
    assert drawing.draw(record) == "apart"


def test_a_users_files_are_not_taken_for_the_libraries(record, monkeypatch, tmp_path):
    expected = draw_figures(record)
    monkeypatch.setattr(drawing, "draw_figures", None)
    for name in ("matplotlib", "numpy", "nlsr_jax"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert drawing.draw_apart(record) == expected
