"""Programs that JAX has compiled, kept from one command to the next.

They lie in ``$XDG_CACHE_HOME/nlsr_jax`` (``~/.cache/nlsr_jax``), apart for every version of JAX and kind of
processor, and go after a month without use. ``JAX_COMPILATION_CACHE_DIR`` names another folder, which is left to
JAX; with ``JAX_ENABLE_COMPILATION_CACHE=false`` nothing is kept.
"""

import atexit
import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Iterator

LEAST_SECONDS = "0.05"
"""What took less long to compile is not kept."""
MOST_DAYS = 30
_CPU = pathlib.Path("/proc/cpuinfo")
_MARK = "running-"


def keep_compiled() -> None:
    """Have JAX keep what it compiles, unless the environment says otherwise; to be called before its import."""
    try:
        folder = default_folder()
    except RuntimeError:  # nobody's home
        return
    given = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    if given != str(folder) or os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("false", "0"):
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_own(folder)
        tidy(folder)
        mark, handle = _mark(folder)
    except OSError:  # a home that cannot be written to, or that is not one's own
        del os.environ["JAX_COMPILATION_CACHE_DIR"]
        return
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", LEAST_SECONDS)
    atexit.register(_unmark, mark, handle, os.getpid())


def _check_own(folder: pathlib.Path) -> None:
    """Raise OSError where another user could put programs into the folder: they are run as they lie there."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written to by others")


def default_folder() -> pathlib.Path:
    """Return the folder for this user, version of JAX and kind of processor."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return pathlib.Path(home) / "nlsr_jax" / f"jaxlib-{importlib.metadata.version('jaxlib')}-{kind}"


def _processor() -> str:
    """What a compiled program may depend on: the architecture and, on Linux, the instructions that there are."""
    found = [platform.machine()]
    with contextlib.suppress(OSError):
        lines = _CPU.read_text().splitlines()
        found += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return "\n".join(found)


def tidy(folder: pathlib.Path) -> None:
    """Delete what nobody has used for long, and what a run that was killed may have left half-written.

    JAX writes a program in place and reads a half-written one with a warning, each time.

    Args:
      folder: of compiled programs, with a mark for every run, which holds a lock on it until it ends.

    Raises:
      OSError: it cannot be read.
    """
    files = list(_files(folder))
    dead = {path: stat.st_mtime for path, stat in files if path.name.startswith(_MARK) and _is_free(path)}
    suspect = min(dead.values(), default=float("inf"))
    long_ago = time.time() - MOST_DAYS * 24 * 3600
    for path, stat in files:
        unused = max(stat.st_atime, stat.st_mtime) < long_ago
        if not path.name.startswith(_MARK) and (unused or stat.st_mtime >= suspect):
            path.unlink(missing_ok=True)
    for path in dead:  # last: should this run be killed as well, the next one goes on
        path.unlink(missing_ok=True)


def _files(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another run has just deleted it
                yield pathlib.Path(entry.path), entry.stat(follow_symlinks=False)


def _mark(folder: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Make the mark of this run; returns it and the open handle that holds its lock."""
    handle, path = tempfile.mkstemp(prefix=_MARK, dir=folder)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    return pathlib.Path(path), handle


def _is_free(mark: pathlib.Path) -> bool:
    """Whether the run of this mark has ended; no where the file system has no locks."""
    with contextlib.suppress(OSError):
        handle = os.open(mark, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        finally:
            os.close(handle)
    return False


def _unmark(mark: pathlib.Path, handle: int, process: int) -> None:
    if os.getpid() == process:  # and not a fork of it
        with contextlib.suppress(OSError):
            mark.unlink()
        os.close(handle)
