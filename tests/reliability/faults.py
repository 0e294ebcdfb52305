"""Places that fail: small disks, folders that lose their permissions, a root that obeys them."""

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator


class Unavailable(Exception):
    """This system has no such place, or this user may not make it; the message says which."""


class Disk:
    """A file system of its own, in memory.

    Args:
      folder: where it is mounted.
      size: its size in bytes.
    """

    def __init__(self, folder: pathlib.Path, size: int):
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            raise Unavailable("a small file system cannot be mounted here")

    def change(self, options: str) -> None:
        """Mount it anew with other options, such as ``size=1000000``, ``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def close(self) -> None:
        """Unmount it; what it held is gone."""
        subprocess.run(["umount", str(self.folder)], check=True)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: int) -> Iterator[Disk]:
    """Yield a file system of ``size`` bytes at ``folder``.

    Raises:
      Unavailable: it cannot be mounted.
    """
    disk = Disk(folder, size)
    try:
        yield disk
    finally:
        disk.close()


def obedient() -> list[str]:
    """Return what to put before a command so that permissions hold for it, for root too.

    Raises:
      Unavailable: this is root, and nothing takes its powers away.
    """
    if os.geteuid():
        return []
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    found = shutil.which(prefix[0]) and subprocess.run([*prefix, "true"], capture_output=True, check=False)
    if not found or found.returncode:
        raise Unavailable("permissions do not hold for root, and setpriv cannot take its powers away here")
    return prefix


def limited(size: int) -> list[str]:
    """Return what to put before a command so that no file of its may grow beyond ``size`` bytes.

    Raises:
      Unavailable: nothing sets such a limit.
    """
    if shutil.which("prlimit") is None:
        raise Unavailable("prlimit is not there, which limits the size of files")
    return ["prlimit", f"--fsize={size}"]


@contextlib.contextmanager
def read_only(folder: pathlib.Path) -> Iterator[None]:
    """Take the permission to write from a folder for the time of the block."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(mode)
