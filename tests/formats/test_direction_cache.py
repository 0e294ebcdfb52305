"""Directions on disk: taken where all that determines them is equal, else made again."""

import dataclasses

import numpy as np
import pytest

from nlsr_jax.formats.direction_cache import describe_direction, obtain_direction
from nlsr_jax.nlsr.direction import Direction
from tests.oracles import random_adapter

MODULES = ("q_proj", "down_proj")
FILES = {"base": {"model.safetensors": "1f"}, "pretrained": {"model.safetensors": "2e"}}
WHAT = describe_direction(FILES, rank=2, modules=MODULES)


def make():
    made = random_adapter(0, layers=3, rank=2, sizes={"q_proj": (8, 8), "down_proj": (6, 8)})
    residual = {module: np.float32([0.1, 0.2, 0.3]) for module in MODULES}
    return Direction(dataclasses.replace(made, scaling=1.0), residual)


def not_made():
    raise AssertionError("made again")


def assert_same(found):
    for module, leaf in make().adapter.factors.items():
        for factor, value in leaf.items():
            np.testing.assert_array_equal(found.adapter.factors[module][factor], value)
        np.testing.assert_array_equal(found.residual[module], make().residual[module])
    assert found.adapter.scaling == 1.0


def test_taken_as_it_was_made(tmp_path):
    first, told = obtain_direction(tmp_path / "new" / "cache", WHAT, make)
    assert_same(first)
    assert "factored, and kept in" in told
    again, told = obtain_direction(tmp_path / "new" / "cache", WHAT, not_made)
    assert_same(again)
    assert told.startswith("taken from ")


@pytest.mark.parametrize(
    "change", [{"rank": 3}, {"modules": ("q_proj",)}, {"seed": 1}, {"files": {**FILES, "base": {}}}]
)
def test_other_directions_are_other_files(tmp_path, change):
    obtain_direction(tmp_path, WHAT, make)
    other = describe_direction(**{"files": FILES, "rank": 2, "modules": MODULES, **change})
    assert "factored, and kept in" in obtain_direction(tmp_path, other, make).told
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda kept: kept[:-9] + bytes([kept[-9] ^ 1]) + kept[-8:], "its numbers are not those that were written"),
        (lambda kept: kept[:40], "is damaged ("),
        (lambda kept: kept.replace(b"1f", b"3f"), "it is of other models or settings"),
    ],
)
def test_a_damaged_file_is_made_again(tmp_path, damage, why):
    obtain_direction(tmp_path, WHAT, make)
    (file,) = tmp_path.iterdir()
    kept = file.read_bytes()
    file.write_bytes(damage(kept))
    found, told = obtain_direction(tmp_path, WHAT, make)
    assert_same(found)
    assert why in told
    assert "factored, and kept in" in told
    assert file.read_bytes() == kept


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    found, told = obtain_direction(tmp_path / "file" / "cache", WHAT, make)
    assert_same(found)
    assert "factored, and not kept" in told
