"""The way of the settings through a realignment is short and runs down."""

import ast

import pytest

from nlsr_jax.pipeline.settings import Settings
from tests.house import walk


@pytest.mark.parametrize("kind", walk.WAYS)
def test_a_realignment_takes_at_most_forty_stops_and_none_runs_up(kind):
    stops = walk.walk(kind)
    assert len(stops) <= 40, "\n".join(f"{stop.module}: {stop.function}" for stop in stops)
    assert walk.climbs(stops) == []


def test_the_way_passes_all_its_stages_in_order():
    passed = [stop.module.rpartition(".")[2] for stop in walk.walk()]
    first = {name: passed.index(name) for name in reversed(passed)}
    stages = ("checks", "sources", "reference", "evidence", "identification", "decision", "recording")
    assert [first[name] for name in stages] == sorted(first[name] for name in stages)


def test_every_part_of_the_settings_is_known():
    parts = {base.__name__ for base in Settings.__mro__} - {"object"}
    assert parts <= walk.setting_types()


def test_what_hands_settings_on_is_found():
    source = """
def run(settings: Settings, other):
    found = changed(settings)
    held = functools.partial(check_realignment, found)
    check_base(other, found)
    check_lineage(other)
"""
    (function,) = ast.parse(source).body
    where = "nlsr_jax.pipeline.realignment"
    found = [name for _, name in walk._handed(function, where)]
    assert found == []  # what ``changed`` returns is not known
    (function,) = ast.parse(source.replace("changed(", "with_absolute_paths(")).body
    found = [name for _, name in walk._handed(function, where)]
    assert found == ["with_absolute_paths", "check_realignment", "check_base"]
