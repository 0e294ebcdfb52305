"""Many realignments in one process, in short."""

import pathlib

import pytest

from tests.reliability.soak import soak

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="needs /proc")


@pytest.mark.slow
def test_calls_leave_nothing_behind(tmp_path):
    found = soak(16, tmp_path, warm_up=8, draw_every=8)
    assert found.held(), found
