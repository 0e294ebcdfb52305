"""From the folder of a training run to its output, such that a kill at any moment loses nothing.

A run keeps its state in ``NAME.training`` beside its output ``NAME``. The output is written inside that folder
first. Then ``run.json`` becomes ``finished.json``, the output is renamed to its place, and the folder is removed,
``finished.json`` last.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from nlsr_jax.errors import InputError
from nlsr_jax.formats.output import check_free, describe_os_error, whole_directory
from nlsr_jax.training.folder import RUN

SUFFIX = ".training"
_FINISHED, _OUTPUT, _OLD = "finished.json", "output", "old"


@contextlib.contextmanager
def training_folder(output: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield the run folder of an output, held by this process alone.

    What a run left that was killed after its output was complete is cleared away first. A folder that is still
    empty at the end is removed.

    Args:
      output: the output folder.
      overwrite: allow an output that exists.

    Raises:
      InputError: the output exists, another process is training it, or the block was interrupted from the keyboard.
    """
    output = _normal(output)
    work = output.with_name(output.name + SUFFIX)
    if not work.exists():
        check_free(output, overwrite)
    elif work.is_symlink() or not work.is_dir():
        raise InputError(f"{work}: exists and is not a folder; remove it or name another output")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(describe_os_error(error, work)) from error
    with _held(work), contextlib.ExitStack() as stack:
        stack.callback(_remove_if_empty, work)
        _recover(work, output)
        check_free(output, overwrite)
        try:
            yield work
        except KeyboardInterrupt as error:
            advice = "; start the same command again to go on from its checkpoint" if any(work.iterdir()) else ""
            raise InputError(f"interrupted{advice}") from error


@contextlib.contextmanager
def published(work: pathlib.Path, output: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield a folder that becomes the output when the block ends without an error; the run folder is then removed.

    Args:
      work: the run folder, as ``training_folder`` yields it.
      output: the output folder.
      overwrite: replace an output that exists; it stays in place until the new one is whole.

    Raises:
      InputError: the output exists or cannot be written.
    """
    output = check_free(_normal(output), overwrite)
    with whole_directory(work / _OUTPUT, overwrite=True) as folder:
        yield folder
    try:
        (work / RUN).replace(work / _FINISHED)
        if output.exists():
            output.rename(work / _OLD)
        (work / _OUTPUT).rename(output)
    except OSError as error:
        raise InputError(describe_os_error(error, output)) from error
    _remove(work)


def _normal(output) -> pathlib.Path:
    path = pathlib.Path(os.path.abspath(output))  # noqa: PTH100 - resolve() would follow a link in the output's place
    if not path.name:
        raise InputError(f"{output}: cannot be an output folder; name another output")
    return path


@contextlib.contextmanager
def _held(work: pathlib.Path) -> Iterator[None]:
    """Hold a lock on a folder; it ends with the process, however that ends."""
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{work}: another process is training here; wait for it or name another output"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _recover(work: pathlib.Path, output: pathlib.Path) -> None:
    """Bring a run that was killed while it published its output back to before or after that."""
    if (work / _OLD).is_dir() and not output.exists():
        (work / _OLD).rename(output)
    if not (work / _FINISHED).exists():
        return
    if (work / _OUTPUT).exists():
        (work / _FINISHED).replace(work / RUN)
    else:
        _remove(work)
        work.mkdir()


def _remove(work: pathlib.Path) -> None:
    """Remove a finished run; what says that it is finished goes last."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _FINISHED:
            path.unlink()
    (work / _FINISHED).unlink()
    work.rmdir()


def _remove_if_empty(work: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        work.rmdir()
