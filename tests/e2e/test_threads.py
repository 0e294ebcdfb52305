"""How many threads a command's LAPACK has beside those of JAX."""

import os
import pathlib
import subprocess
import sys

import pytest

_COUNT = """
import os
from nlsr_jax.commands import command

def main(_):
    before = len(os.listdir("/proc/self/task"))
    import numpy, scipy.linalg
    print(os.environ["OPENBLAS_NUM_THREADS"], len(os.listdir("/proc/self/task")) - before)

command.run(main)
"""


def started(**env: str) -> list[str]:
    """Return what the environment says, and how many threads NumPy and SciPy have started."""
    numbers = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in numbers}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT], env={**kept, **env}, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="the system does not list threads")
def test_a_command_leaves_the_cores_to_jax_unless_told_otherwise():
    assert started() == ["1", "0"]
    number, more = started(OPENBLAS_NUM_THREADS="2")
    assert number == "2"
    assert int(more) >= min(1, len(os.sched_getaffinity(0)) - 1)
