"""How much memory a process may still take."""

import pathlib

_PROC = pathlib.Path("/proc")
_GROUPS = pathlib.Path("/sys/fs/cgroup")
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a control group, of the second version and of the first."""


def available_bytes(proc: pathlib.Path = _PROC, groups: pathlib.Path = _GROUPS) -> int | None:
    """Return the bytes that the machine and every control group of this process leave; None where nothing says so.

    Pages of files that a group could drop count as taken.

    Args:
      proc, groups: where the kernel tells it.
    """
    found = [size for size in (_of_machine(proc), *_of_groups(proc, groups)) if size is not None]
    return max(min(found), 0) if found else None


def _of_machine(proc: pathlib.Path) -> int | None:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _of_groups(proc: pathlib.Path, groups: pathlib.Path) -> list[int]:
    """Return what each control group leaves, from the process's own up to the root."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers not in ("", "memory"):
            continue
        root = groups / controllers
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(root):
                break
            found += [left for names in _FILES if (left := _left(folder, *names)) is not None]
    return found


def _left(folder: pathlib.Path, limit: str, use: str) -> int | None:
    try:
        return int((folder / limit).read_text()) - int((folder / use).read_text())
    except (OSError, ValueError):  # no such file, or no limit
        return None
