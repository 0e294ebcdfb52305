"""How calls of ``nlsr check`` end, in one process: ``python -m tests.gate.statuses``, argument lists as JSON."""

import contextlib
import io
import json
import sys

from absl import flags
from absl.testing import flagsaver


def status_of(arguments: list[str]) -> tuple[int | str, str]:
    """Return the status or the error that a call ends with, and what it printed."""
    from nlsr_jax.commands import check, command

    out, error = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        flags.FLAGS.unparse_flags()
        sys.argv = ["check", *arguments]
        try:
            command.run(check.main, positional=1)
        except SystemExit as end:
            return end.code or 0, out.getvalue()
    return 0, out.getvalue()


if __name__ == "__main__":
    ends = [status_of(call) for call in json.load(sys.stdin)]
    json.dump(ends, sys.stdout)
