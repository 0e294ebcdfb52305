"""Run the commands as a user types them."""

import json
import os
import socket
import subprocess
import sys

from tests.e2e.forks import LONGEST, ROOT, forks, own_environment


def environment(changes):
    """The environment of a command: ``changes`` come on top of this process's, flags of XLA beside its flags.

    A variable whose value is None is taken away.
    """
    whole = {**own_environment(), **changes}
    if changes.get("XLA_FLAGS") is not None:
        whole["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {changes['XLA_FLAGS']}".strip()
    return {name: value for name, value in whole.items() if value is not None}


def python(*arguments, env=None, check=True, text=None, anew=False):
    """Run Python at the root of the tree, ``text`` as its input; returns the finished process with its text.

    It is forked from a process that has imported the libraries where that makes no difference, unless it is to be
    started ``anew``.
    """
    arguments = [*map(str, arguments)]
    env = environment(env or {})
    if not anew and forks().fits(arguments, env):
        result = forks().run(arguments, env, text)
    else:
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=env,
            input=text,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    if check:
        assert result.returncode == 0, result.stderr
    return result


def start(arguments, env, prefix=()):
    """Start Python behind ``prefix`` with its standard error as a pipe; see ``python``."""
    env = environment(env)
    if not prefix and forks().fits(arguments, env):
        return forks().start(arguments, env)
    command = [*map(str, prefix), sys.executable, *arguments]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdin=null, stdout=null, stderr=pipe, text=True)


def run(name, *arguments, **options):
    """Run ``python -m experiments.NAME``; see ``python``."""
    return python("-m", f"experiments.{name}", *arguments, **options)


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
