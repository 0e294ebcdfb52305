"""Many realignments in one process, in short; and that what would be wrong is seen."""

import pathlib

import jax
import pytest

from tests.reliability.soak import GROWTH, soak

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="needs /proc")


@pytest.mark.slow
def test_forty_calls_leave_nothing_behind(tmp_path):
    found = soak(30, tmp_path, warm_up=10, draw_every=10)
    assert found.held(), found


def test_what_is_left_behind_is_seen(tmp_path):
    kept = []

    def leak(number):
        if number > 1:
            kept.append((tmp_path / f"log{number}").open("w"))
            kept.append(b"x" * (4 * GROWTH))
            jax.jit(lambda x: x + number)(1.0)

    found = soak(2, tmp_path, warm_up=2, draw_every=4, changes=leak)
    for file in kept[::2]:
        file.close()
    assert [line.split("/")[-1] for line in found.opened] == ["log2", "log3"]
    # Of the eight that are kept: what earlier tests held may go back to the system meanwhile.
    assert found.grown > 6 * GROWTH
    assert found.compiled >= 2
    assert not found.held()
