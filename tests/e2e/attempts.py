"""Many wrong calls of one program in one process: ``python -m tests.e2e.attempts NAME``, argument lists as JSON."""

import contextlib
import importlib
import io
import json
import sys

from absl import flags
from absl.testing import flagsaver


def attempt(name: str, arguments: list[str]) -> str:
    """Run a program as ``command.run`` does; returns the error that it ends with."""
    from nlsr_jax.commands import command

    module = importlib.import_module(f"nlsr_jax.commands.{name}")
    with flagsaver.flagsaver(), contextlib.redirect_stderr(io.StringIO()):
        flags.FLAGS.unparse_flags()
        sys.argv = [name, *arguments]
        try:
            command.run(module.main, getattr(module, "POSITIONAL", 0))
        except SystemExit as end:
            return str(end.code)
    return "no error"


if __name__ == "__main__":
    program = sys.argv[1]
    ends = [attempt(program, case) for case in json.load(sys.stdin)]
    json.dump(ends, sys.stdout)
