"""The benchmarks of the calibration pass and of starting, in small."""

import numpy as np
import pytest

from benchmarks import calibration, starting
from benchmarks.peers import write_models

pytestmark = pytest.mark.long


def test_the_statistics_are_those_of_the_responses(tmp_path):
    write_models(tmp_path, 4)
    parts = calibration.load(tmp_path)
    statistics = calibration.collect(parts, 3, 16, 2)
    assert float(statistics.positions) == 3 * 8 * 2
    result = calibration.overhead(tmp_path, 3, 16, 2, 1)
    assert result["ratio"] > 0
    peaks = calibration.memory(tmp_path, 3, 16, 1, 1)
    assert 0.1 < peaks["peer"] < 10, "gigabytes of a small process"
    assert np.isfinite(peaks["ratio"])


def test_a_deep_model_compiles_and_the_help_is_there():
    assert starting.compile_seconds(2) > 0
    assert 0 < starting.run_help() < 60
