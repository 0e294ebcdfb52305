"""The benchmark of the cost of identification: exponents are those of known laws, and a small one runs through."""

import numpy as np
import pytest

from benchmarks.cost import SIZES, Sizes, count_operations, exponent, growth, measure
from benchmarks.cost_world import WAYS, Cell, make_world
from benchmarks.streaming import SHAPE, SMALL
from benchmarks.table import COST, cost, full_cost
from nlsr_jax.architecture.config import parse_model_config


def test_exponents_are_those_of_the_laws():
    sizes = [2, 4, 8]
    assert exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    found = growth(sizes, [[1, 1, 1], [1, 2, 4], [5, 20, 80]])
    assert (found["low"], found["exponent"], found["high"]) == (0, 1, 2)
    assert found["costs"] == [1, 2, 4]


def test_operations_are_linear_in_layers_and_nearly_so_in_rows():
    def counted(by):
        cells = SIZES.sweeps[by]
        configs = [parse_model_config({**SHAPE, "num_hidden_layers": cell.layers}, "shape") for cell in cells]
        found = [count_operations(config, cell) for config, cell in zip(configs, cells, strict=True)]
        return exponent([getattr(cell, by) for cell in cells], found)

    assert counted("layers") == pytest.approx(1)
    assert 0.98 < counted("rows") < 1, "the projections of the factors do not grow with the rows"
    assert 0 < counted("rank") < 0.2, "most products are the base's"


@pytest.mark.long
def test_a_small_base_runs_through(tmp_path):
    shape = {**SHAPE, **SMALL, "vocab_size": 3200, "num_hidden_layers": 3}
    sweeps = {
        "rows": [Cell(16, 1, 4), Cell(32, 1, 4)],
        "layers": [Cell(16, 1, 4), Cell(16, 2, 4)],
        "rank": [Cell(16, 1, 2), Cell(16, 1, 4)],
    }
    world = make_world(tmp_path, shape, 4)
    results = measure(world, Sizes(sweeps, sweeps["rows"], Cell(16, 3, 4)), 1)
    assert results["full_streamed"]["same_masks"]
    assert all(np.isfinite(results[f"{name}_{way}"]["exponent"]) for name in COST for way in WAYS)
    assert abs(results["peak_memory"]["exponent"]) < 0.1, "16 rows more are little in a process"
    assert cost(results).count("\n") == 2 + 2 * len(COST)
    assert full_cost(results).count("\n") == 4
