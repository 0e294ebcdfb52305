"""What every command shares: absl start-up, and one clear line for bad input."""

import atexit
import contextlib
import gc
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging

from nlsr_jax.commands import ending, logs, streams
from nlsr_jax.commands.compiled import keep_compiled
from nlsr_jax.commands.helping import parse_flags
from nlsr_jax.errors import InputError

_EXTRAS = {
    **{"datasets": "data", "pyarrow": "data", "sklearn": "study", "ray": "ray"},
    **{"cryptography": "attest", "sigstore": "sigstore", "inspect_ai": "inspect"},
}
"""The extra of this package that installs a library which some commands alone import."""


def run(main: Callable[[Sequence[str]], None], positional: int = 0) -> None:
    """Run an absl main; whatever ends it early is one line on standard error.

    The status is 0 where it has done its work, 1 where the input cannot be used, and 128 and the signal's number
    where a signal ended it. Standard output or error that nobody reads any more are no reason to end; standard
    output that cannot be written, as on a full disk, is one, once the work is done.

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
        # Where torch is missing, transformers says that its models cannot be used; its tokenizers can.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        if len(arguments) > 1 + positional:
            unexpected = arguments[1 + positional]
            raise InputError(f"unexpected argument {unexpected!r}; all inputs are flags, see --help")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # where the locale lacks a letter
        _check_text(*sys.argv, str(pathlib.Path.cwd()))
        main(arguments)

    streams.open_streams()
    logs.keep_short()
    with _one_line(), ending.watched():
        app.run(guarded, flags_parser=parse_flags)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """End the program with one line where the block ends with an error that is not this project's fault."""
    try:
        yield
    except SystemExit as end:
        if not end.code:
            streams.check_printed()
        raise
    except BaseException as error:
        # What is being imported turns an interruption into an error of its own.
        if isinstance(error, KeyboardInterrupt) or ending.received() is not None:
            _end_interrupted(ending.received() or signal.SIGINT, error)
        line = _explain(error)
        if line is None:
            raise
        sys.exit(f"error: {line}")


def _end_interrupted(number: int, error: BaseException) -> NoReturn:
    """End as shells say that a signal has ended a program; for a child its parent says it."""
    told = isinstance(error, InputError) and isinstance(error.__cause__, KeyboardInterrupt)
    if not ending.is_child():
        print(f"error: {error if told else 'interrupted'}", file=sys.stderr)
    sys.exit(128 + number)


def _explain(error: BaseException) -> str | None:
    """Return the line that says what is wrong, None where that is this project's fault."""
    if isinstance(error, InputError):
        return " ".join(error.with_flags().split())
    if isinstance(error, OSError):
        return f"{error.filename or 'file system'}: {error.strerror or error}"
    if isinstance(error, MemoryError):
        return "not enough memory for these inputs"
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"{error.name} is not installed; pip install 'nlsr_jax[{_EXTRAS[error.name]}]' installs it"
    if "jax" not in sys.modules:
        return None
    from nlsr_jax.devices import check_opened

    try:
        check_opened(error)
    except InputError as missing:
        return str(missing)
    return None


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
      InputError: if one is not a number.
    """
    try:
        return tuple(kind(text) for text in texts)
    except ValueError:
        raise InputError(f"--{name} is {','.join(texts)}; expected numbers with commas") from None
