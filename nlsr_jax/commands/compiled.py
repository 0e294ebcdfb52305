"""A cache of the programs that JAX compiles, from one command to the next.

The cache is in ``$XDG_CACHE_HOME/nlsr_jax`` (``~/.cache/nlsr_jax``), with a folder for every version of jaxlib and
kind of processor. JAX writes programs in place: a killed run or a full disk leaves a part of one, on which every
later run would fail. Hence every run has its own folder with links to the cached programs. At its end it checks the
programs that it has compiled and moves whole ones into the cache.

JAX reads the environment when it is imported, so nothing here imports it before.
"""

import atexit
import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator

from nlsr_jax.files.paths import expand

LEAST_SECONDS = "0.05"
"""Programs that compile faster than this are not cached."""
MOST_DAYS = 30
_CPU = pathlib.Path("/proc/cpuinfo")
_ENTRY = "-cache"  # how JAX ends the name of a program's file
_KEPT, _RUN = "jaxlib-", "run-"
_OF_JAX = re.compile(r".+-(cache|atime)|xla_gpu_.+")
"""What JAX puts into the folder of a run: programs, access times, and the autotuning of a GPU."""
_OFF = ("0", "false", "f", "no", "n", "off")


def keep_compiled() -> None:
    """Have JAX cache what it compiles, unless the environment says otherwise; call this before JAX is imported."""
    off = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in _OFF
    if off or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        root = home()
        _make_own(root)
        tidy(root)
        kept = root / f"{_KEPT}{importlib.metadata.version('jaxlib')}-{processor()}"
        kept.mkdir(mode=0o700, exist_ok=True)
        run, handle = _open_run(root)
    except (OSError, RuntimeError):  # no home, or one that cannot be written to or that others can write to
        return
    for entry in _entries(kept):
        with contextlib.suppress(OSError):  # a file system without links
            os.link(entry, run / entry.name)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(run)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", LEAST_SECONDS)
    # The autotuning of a GPU would be in the folder too, and the folder's name would enter every program's key.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
    atexit.register(_close_run, run, kept, handle, os.getpid())


def home() -> pathlib.Path:
    """Return the cache folder of this user.

    Raises:
      RuntimeError: the user has no home.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    return (expand(given) if given else pathlib.Path.home() / ".cache") / "nlsr_jax"


def processor() -> str:
    """Return a name for what a compiled program may depend on: the instruction set and the number of cores."""
    found = [platform.machine(), str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())]
    with contextlib.suppress(OSError):
        lines = _CPU.read_text().splitlines()
        found += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def _make_own(root: pathlib.Path) -> None:
    """Make the folder; raise OSError if another user could put a program into it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    own, above = root.stat(), root.parent.stat()
    shared = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
    if own.st_uid != os.getuid() or own.st_mode & 0o022 or above.st_uid not in (0, os.getuid()) or shared:
        raise PermissionError(f"{root} can be written to by others")


def tidy(root: pathlib.Path) -> None:
    """Delete the folders of killed runs and programs that have not been used for long; keep files of others.

    Args:
      root: the user's folder.
    """
    long_ago = time.time() - MOST_DAYS * 24 * 3600
    for folder in _folders(root):
        if folder.name.startswith(_RUN):
            _delete_if_dead(folder)
            continue
        for entry in _entries(folder):
            with contextlib.suppress(FileNotFoundError):  # another run has just deleted it
                found = entry.stat()
                if max(found.st_atime, found.st_mtime) < long_ago:
                    entry.unlink()
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    found = (path for path in root.iterdir() if path.name.startswith((_KEPT, _RUN)))
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def _entries(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in folder.glob(f"*{_ENTRY}") if path.is_file())


def _open_run(root: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Make the folder of this run; return it and the open handle that holds its lock."""
    while True:
        run = pathlib.Path(tempfile.mkdtemp(prefix=_RUN, dir=root))
        with contextlib.suppress(FileNotFoundError):  # another run has just removed it as left over
            handle = os.open(run, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if run.exists():
                return run, handle
            os.close(handle)


def _delete_if_dead(run: pathlib.Path) -> None:
    """Delete the folder of a killed run; on file systems without locks it stays."""
    with contextlib.suppress(OSError):
        handle = os.open(run, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(run)
        finally:
            os.close(handle)


def _close_run(run: pathlib.Path, kept: pathlib.Path, handle: int, process: int) -> None:
    """Cache the new programs and delete the folder."""
    if os.getpid() != process:  # a fork of the run
        return
    with contextlib.suppress(OSError):
        kept.mkdir(mode=0o700, exist_ok=True)
        for entry in _entries(run):
            if not (kept / entry.name).exists() and _is_whole(entry):
                entry.rename(kept / entry.name)
    _delete(run)
    os.close(handle)


def _delete(run: pathlib.Path) -> None:
    """Delete the folder of a run, unless it holds files that JAX does not write."""
    with contextlib.suppress(OSError):
        if all(_OF_JAX.fullmatch(entry.name) for entry in run.iterdir()):
            shutil.rmtree(run, ignore_errors=True)


def _is_whole(entry: pathlib.Path) -> bool:
    """Say whether JAX can read a program that it has written."""
    from jax._src.compilation_cache import decompress_executable

    try:
        return bool(decompress_executable(entry.read_bytes()))
    except Exception:  # each compression library has its own errors
        return False
