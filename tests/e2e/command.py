"""Run the commands as a user types them."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def python(*arguments, env=None, check=True, text=None):
    """Run Python at the root of the tree, ``text`` as its input; returns the finished process with its text."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **(env or {})},
        input=text,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if check:
        assert result.returncode == 0, result.stderr
    return result


def run(name, *arguments, env=None, check=True):
    """Run ``python -m experiments.NAME``; see ``python``."""
    return python("-m", f"experiments.{name}", *arguments, env=env, check=check)


def attempts(name, calls, **options):
    """Make wrong calls of a program in one process; returns the error line of each. See ``tests.e2e.attempts``."""
    given = json.dumps([list(map(str, call)) for call in calls])
    lines = json.loads(python("-m", "tests.e2e.attempts", name, text=given, **options).stdout)
    for line in lines:
        assert line.startswith("error: "), line
        assert "\n" not in line
    return lines


def free_port():
    """``HOST:PORT`` of a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def error_line(result):
    """The one line that a failed command printed as its error."""
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def contents(folder):
    """``{path inside: bytes}`` of all files of a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
