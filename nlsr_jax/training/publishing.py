"""Turn the folder of a training run into its output, so that a kill at any moment loses nothing.

A run keeps its state in ``NAME.training`` beside its output ``NAME``. The output is first written inside that
folder. Then ``run.json`` is renamed to ``finished.json``, the output is moved to its place, and the folder is
removed, ``finished.json`` last. A folder of that name is left alone if it is not a run's or has other files.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence

from nlsr_jax.errors import InputError
from nlsr_jax.files.apart import Inputs, check_apart
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.output import check_free, describe_os_error, whole_directory, write_text
from nlsr_jax.files.ownership import Foreign, foreign_folder, nothing_foreign
from nlsr_jax.files.paths import expand
from nlsr_jax.formats.record import digest_folder
from nlsr_jax.training.folder import METRICS, RUN
from nlsr_jax.training.training_data import DATA

SUFFIX = ".training"
_FINISHED, _OUTPUT, _OLD = "finished.json", "output", "old"
_STATE = re.compile(
    r"(run|finished|objectives)\.json|(metrics|rows)\.jsonl|reference\.npy|checkpoints|output|old|"
    r"pretraining|base|first|"
    r"\.(run|objectives|metrics|rows|reference)\.\w+\.partial|\.(output|base|first)\.[a-z0-9_]{8}\.partial"
)
"""Files in the folder of a run: of a single training, or of a study with its base and its first case."""
_IDENTITIES = ({"settings", "rows"}, {"plan", "config"})
"""Files that identify the training or study of a folder."""
_CHECKPOINTS, _CHECKPOINT = "checkpoints", re.compile(r"\d+(\..+)?")
"""Where Orbax keeps its checkpoints, and how it names complete and incomplete ones."""


@contextlib.contextmanager
def training_folder(
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    inputs: Inputs | None = None,
    foreign: Foreign = foreign_folder,
) -> Iterator[pathlib.Path]:
    """Yield the run folder of an output, locked by this process.

    If an earlier run was killed after its output was complete, its remains are removed first. A folder that is
    still empty at the end is removed.

    Args:
      output: the output folder.
      overwrite: allow an existing output.
      inputs, foreign: see ``check_free``; the run folder must not overlap with inputs either.

    Raises:
      InputError: as in ``check_free``; if the run folder is not a run's, or another process is training there; or
        if the user interrupts the block.
    """
    output = _normal(output)
    work = output.with_name(output.name + SUFFIX)
    check_apart(output, inputs)
    check_apart(work, inputs)
    if not work.exists():
        check_free(output, overwrite, inputs=inputs, foreign=foreign)
    elif work.is_symlink() or not work.is_dir():
        raise InputError(f"{work}: exists and is not a folder; remove it or name another output")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(describe_os_error(error, work)) from error
    with _held(work), contextlib.ExitStack() as stack:
        stack.callback(_remove_if_empty, work)
        _check_state(work)
        _recover(work, output)
        check_free(output, overwrite, inputs=inputs, foreign=foreign)
        try:
            yield work
        except KeyboardInterrupt as error:
            advice = "; run the same command again to resume from its checkpoint" if any(work.iterdir()) else ""
            raise InputError(f"interrupted{advice}") from error


@contextlib.contextmanager
def published(
    work: pathlib.Path,
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    inputs: Inputs | None = None,
    foreign: Foreign = foreign_folder,
) -> Iterator[pathlib.Path]:
    """Yield a folder that becomes the output if the block succeeds; the run folder is then removed.

    Args:
      work: the run folder, as ``training_folder`` yields it.
      output: the output folder.
      overwrite: replace an existing output, which stays in place until the new one is complete.
      inputs, foreign: see ``check_free``.

    Raises:
      InputError: as in ``check_free``, or if the output cannot be written.
    """
    output = check_free(_normal(output), overwrite, inputs=inputs, foreign=foreign)
    with whole_directory(work / _OUTPUT, overwrite=True, foreign=nothing_foreign) as folder:
        yield folder
    check_free(output, overwrite, inputs=inputs, foreign=foreign)
    try:
        (work / RUN).replace(work / _FINISHED)
        if output.exists():
            output.rename(work / _OLD)
        (work / _OUTPUT).rename(output)
    except OSError as error:
        raise InputError(describe_os_error(error, output)) from error
    _remove(work)


def write_run(work: pathlib.Path, folder: pathlib.Path, data: Sequence[Mapping[str, str]] = ()) -> None:
    """Write the run's log into an output, and its identity with the digests of the output's other files.

    Args:
      work: the run folder.
      folder: the output, complete except for these two files.
      data: the files that it was trained on; see ``nlsr_jax.training.training_data``.
    """
    run = json.loads((work / RUN).read_text(encoding="utf-8"))
    record = {**run, "outputs": digest_folder(folder), **({DATA: list(data)} if data else {})}
    if (work / METRICS).exists():
        shutil.copyfile(work / METRICS, folder / METRICS)
    write_text(folder / "training.json", json.dumps(record, indent=1, sort_keys=True) + "\n")


def _normal(output) -> pathlib.Path:
    # resolve() would follow a link in the output's place
    path = pathlib.Path(os.path.abspath(expand(output)))  # noqa: PTH100
    if not path.name:
        raise InputError(f"{output}: cannot be an output folder; name another output")
    return path


@contextlib.contextmanager
def _held(work: pathlib.Path) -> Iterator[None]:
    """Hold a lock on a folder; the lock ends with the process, however it dies."""
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{work}: another process is training here; wait for it or name another output"
            ) from None
        except OSError:
            pass  # the file system does not support locks
        yield
    finally:
        os.close(handle)


def _check_state(work: pathlib.Path) -> None:
    """Refuse a folder with anything but the state of a run.

    Raises:
      InputError: if there are other files; the message names one.
    """
    names = sorted(path.name for path in work.iterdir()) if work.exists() else []
    others = [name for name in names if not _STATE.fullmatch(name) or (work / name).is_symlink()]
    others += [f"{_CHECKPOINTS}/{name}" for name in _kept_by_hand(work)]
    begun = [name for name in names if name not in (RUN, _FINISHED) and not re.fullmatch(r"\..+\.partial", name)]
    if not any(_is_identity(work / name) for name in (RUN, _FINISHED)) and (others or begun):
        raise InputError(
            f"{work}: contains {(others or begun)[0]} and is not the folder of a training run; remove it or name "
            "another output"
        )
    if others:
        raise InputError(
            f"{work}: contains {others[0]}, which is not part of the training run there; move it or name another "
            "output"
        )


def _kept_by_hand(work: pathlib.Path) -> list[str]:
    """Return entries beside a run's checkpoints that Orbax did not write, such as a copy of one."""
    folder = work / _CHECKPOINTS
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not _CHECKPOINT.fullmatch(name)]


def _is_identity(file: pathlib.Path) -> bool:
    try:
        return any(names <= set(read_json_object(file, "run")) for names in _IDENTITIES)
    except InputError:
        return False


def _recover(work: pathlib.Path, output: pathlib.Path) -> None:
    """Roll a run that was killed during publication back or forward."""
    if (work / _OLD).is_dir() and not output.exists():
        (work / _OLD).rename(output)
    if not (work / _FINISHED).exists():
        return
    if (work / _OUTPUT).exists():
        (work / _FINISHED).replace(work / RUN)
    else:
        _remove(work)
        work.mkdir(exist_ok=True)


def _remove(work: pathlib.Path) -> None:
    """Remove a finished run, its finish mark last; files that are not the run's are kept."""
    kept = [_CHECKPOINTS] if _kept_by_hand(work) else []
    for path in [path for path in work.iterdir() if _STATE.fullmatch(path.name) and path.name not in kept]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _FINISHED:
            path.unlink()
    (work / _FINISHED).unlink()
    _remove_if_empty(work)


def _remove_if_empty(work: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        work.rmdir()
