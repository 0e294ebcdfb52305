"""``python -m tests.commands.sleeper FOLDER DEPTH``: programs that start two each; the last sleep."""

import os
import pathlib
import time

from nlsr_jax.commands import command, ending


def main(arguments):
    _, folder, depth = arguments
    (pathlib.Path(folder) / str(os.getpid())).touch()
    if depth == "0":
        time.sleep(120)
    one = ending.python("tests.commands.sleeper", folder, str(int(depth) - 1))
    ending.run_tied([one, one])


if __name__ == "__main__":
    command.run(main, positional=2)
