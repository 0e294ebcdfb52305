"""Small programs that run as the commands do: in processes of their own, without JAX."""

import os
import subprocess
import sys
import textwrap

from tests.e2e.command import ROOT

COMPILED = {"JAX_ENABLE_COMPILATION_CACHE": "true"}
"""Environment of programs that realign: what other tests have compiled is not compiled again."""


def start(tmp_path, body, *arguments, **options):
    """Start a program; ``body`` is that of ``main(arguments)``, which may have any number of arguments."""
    lines = [
        "import os, pathlib, signal, sys, time",
        # A runner in the background ignores SIGINT, and so would its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "from nlsr_jax.commands import command, ending",
        "def main(arguments):",
        textwrap.indent(textwrap.dedent(body).strip(), "    "),
        "command.run(main, positional=100)",
    ]
    program = tmp_path / "program.py"
    program.write_text("\n".join(lines))
    # The start of a process comes in front of the command, such as sh -c … "$@".
    before = options.pop("before", [])
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false", **options.pop("env", {})}
    return subprocess.Popen([*before, sys.executable, program, *map(str, arguments)], env=env, **options)


def finish(process):
    """Wait for a program; returns its status, what it printed, and what it printed on standard error."""
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error
