"""What benchmarks measure of a command."""

import sys

import pytest

from benchmarks.measure import run_process


def test_the_peak_is_the_commands_own():
    here = b"x" * 400_000_000
    small = run_process([sys.executable, "-c", "pass"])
    large = run_process([sys.executable, "-c", "x = b'x' * 200_000_000"])
    assert small.peak < 60e6 < 200e6 < large.peak < len(here)
    assert small.seconds > 0


def test_processes_that_a_command_starts_count():
    starts = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = b\"x\" * 200_000_000'])"
    assert run_process([sys.executable, "-c", starts]).peak > 200e6


def test_a_command_has_the_environment_that_is_given():
    check = "import os, sys; sys.exit(os.environ['SOME'] != 'value')"
    assert run_process([sys.executable, "-c", check], SOME="value")


def test_a_command_that_fails_says_what_it_printed():
    with pytest.raises(RuntimeError, match=r"failed:\nout\nend"):
        run_process([sys.executable, "-c", "print('out', flush=True); import sys; sys.exit('end')"])
