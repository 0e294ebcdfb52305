"""What every command shares: absl start-up, and one clear line for bad input."""

import atexit
import gc
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from nlsr_jax.commands.compiled import keep_compiled
from nlsr_jax.errors import InputError


def run(main: Callable[[Sequence[str]], None], positional: int = 0) -> None:
    """Run an absl main; bad input ends it with one line on standard error and status 1.

    Args:
      main: takes the arguments that are not flags.
      positional: how many there may be, beside the program's name.
    """

    def guarded(arguments):
        # Imports and traces make many objects and little garbage: the default looks through them again and again.
        gc.set_threshold(100_000)
        atexit.register(gc.freeze)  # and Python once more at its end
        keep_compiled()
        # JAX factorises small matrices on its own threads: those of OpenBLAS would fight them for the cores.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        if len(arguments) > 1 + positional:
            unexpected = arguments[1 + positional]
            sys.exit(f"error: unexpected argument {unexpected!r}; all inputs are flags, see --helpshort")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # where the locale lacks a letter
        try:
            _check_text(*sys.argv, str(pathlib.Path.cwd()))
            main(arguments)
        except InputError as error:
            sys.exit("error: " + " ".join(str(error).split()))
        except OSError as error:
            sys.exit(f"error: {error.filename or 'file system'}: {error.strerror or error}")
        except MemoryError:
            sys.exit("error: not enough memory for these inputs")
        except KeyboardInterrupt:
            sys.exit("error: interrupted")

    app.run(guarded)


def _check_text(*names: str) -> None:
    """Refuse paths that could not be written into a record; Python decodes them as the locale says."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{name}: is not text in this locale; use one with UTF-8, such as LC_ALL=C.UTF-8, or rename it"
            ) from None


def numbers(name: str, kind: type, texts: Sequence[str]) -> tuple:
    """Return a list flag's texts as numbers.

    Args:
      name: of the flag.
      kind: ``int`` or ``float``.
      texts: its values.

    Raises:
      InputError: one that is no number.
    """
    try:
        return tuple(kind(text) for text in texts)
    except ValueError:
        raise InputError(f"--{name} is {','.join(texts)}; expected numbers with commas") from None
