"""A thousand realignments in one process: no memory, no handle and no compilation more than after the first few.

  python -m tests.reliability.soak [--calls 1000] [--record]

Every call reads two adapters, identifies by magnitude, and writes adapter, masks, checkpoint, record and page. From
the end of a warm-up on it counts resident memory, open files, threads, and what JAX compiles.
"""

import argparse
import contextlib
import gc
import os
import pathlib
import shutil
import tempfile
import time
from typing import NamedTuple

from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.report import draw_figures
from tests.adapter_files import save_family
from tests.compilations import compilations
from tests.reliability.results import Result, record

WARM_UP = 20
GROWTH = 32 * 2**20
"""Bytes of resident memory that may be added after the warm-up, however many calls follow: what allocators keep."""
THREADS = 8
"""Threads that may be added: pools of libraries, which start theirs as they come to be needed."""
_COMPARED = ("adapter_model.safetensors", "masks.safetensors")


class Soak(NamedTuple):
    """What calls left behind that followed the warm-up.

    Attributes:
      calls: how many there were.
      grown: bytes of resident memory added.
      opened: files that were open at the end and not before.
      threads: that were there at the end beyond those before.
      compiled: how often something was compiled.
      differing: outputs whose adapter or masks are not those of the first call.
      seconds: that it took.
    """

    calls: int
    grown: int
    opened: tuple[str, ...]
    threads: int
    compiled: int
    differing: int
    seconds: float

    def held(self) -> bool:
        """Say whether all was as it has to be."""
        left = self.opened or self.compiled or self.differing
        return self.grown < GROWTH and self.threads <= THREADS and not left


def soak(calls: int, folder: pathlib.Path, *, warm_up: int = WARM_UP, draw_every: int = 1, changes=None) -> Soak:
    """Realign again and again.

    Args:
      calls: how many after the warm-up.
      folder: an empty one for inputs and outputs.
      warm_up: calls before anything is counted.
      draw_every: draw the page's figures in every so many calls, which takes most of their time; in the others the
        page has those of the call before.
      changes: called before every call with its number; what a test adds.
    """
    save_family(folder)
    adapters = {name: str(folder / name) for name in ("aligned", "finetuned")}
    settings = Settings(**adapters, method="magnitude")
    first, differing, began = None, 0, time.monotonic()
    draw = _seldom_drawn(draw_every)
    with compilations() as compiled:
        for number in range(warm_up + calls):
            if number == warm_up:
                before, already = _state(), len(compiled)
            if changes is not None:
                changes(number)
            realign_files(settings, folder / "out", draw=draw)
            made = [
                (folder / "out" / name).read_bytes() for name in ("adapter_model.safetensors", "masks.safetensors")
            ]
            first = first or made
            differing += made != first
            shutil.rmtree(folder / "out")
        after = _state()
        found = len(compiled) - already
    opened = tuple(sorted(after[1] - before[1]))
    seconds = time.monotonic() - began
    return Soak(calls, after[0] - before[0], opened, after[2] - before[2], found, differing, seconds)


def _state() -> tuple[int, set[str], int]:
    """Resident bytes, open files as ``number target``, and how many threads Python and its libraries have."""
    gc.collect()
    own = pathlib.Path("/proc/self")
    opened = set()
    for link in (own / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            opened.add(f"{link.name} {link.readlink()}")
    pages = int((own / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), opened, len(list((own / "task").iterdir()))


def _seldom_drawn(every: int):
    """Return what draws the figures of every so many records, and returns the last ones for the others."""
    calls, kept = 0, {}

    def draw(contents):
        nonlocal calls, kept
        if calls % every == 0:
            kept = draw_figures(contents)
        calls += 1
        return kept

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(given.calls, pathlib.Path(folder))
    print(
        f"{found.calls} calls in {found.seconds:.0f} s: memory {found.grown / 2**20:+.1f} MiB, "
        f"{len(found.opened)} more files open, {found.threads:+d} threads, {found.compiled} compilations, "
        f"{found.differing} other outputs"
    )
    if not found.held():
        raise SystemExit(f"it did not hold: {found}")
    if given.record:
        what = (
            f"realignments in one process: after the first {WARM_UP} less than {GROWTH // 2**20} MiB more memory, "
            "no file left open, nothing compiled, the same bytes"
        )
        command = f"python -m tests.reliability.soak --calls {given.calls}"
        record(Result(what, command, given.calls, given.calls, found.seconds))


if __name__ == "__main__":
    main()
