"""Workers of a sweep share the cores of the process that starts them."""

import os
import subprocess
import sys

import pytest

from nlsr_jax.commands.processes import pin

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores and a system that lets them be chosen")
def test_workers_have_cores_of_their_own():
    found = []
    for part in (1, 2):
        program = "import os; input(); print(sorted(os.sched_getaffinity(0)))"
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            pin(process.pid, part, 2)
            found.append(process.communicate("\n")[0])
    assert found == [f"{CORES[::2]}\n", f"{CORES[1::2]}\n"]


@pytest.mark.skipif(not CORES, reason="needs a system that lets cores be chosen")
def test_more_workers_than_cores_are_left_alone():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pin(process.pid, 1, len(CORES) + 1)
        assert sorted(os.sched_getaffinity(process.pid)) == CORES
        process.communicate(b"\n")


@pytest.mark.skipif(not CORES, reason="needs a system that lets cores be chosen")
def test_a_worker_that_has_ended_already_is_no_error():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    pin(process.pid, 1, 1)
