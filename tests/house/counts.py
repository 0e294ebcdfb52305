"""Files and lines of every room, now and in an earlier commit: ``python -m tests.house.counts COMMIT``."""

import collections
import io
import pathlib
import subprocess
import sys
import tarfile
from collections.abc import Iterable

from tests.house.rooms import PACKAGES, room_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = (*PACKAGES, "benchmarks", "tests")
Counts = dict[str, tuple[int, int]]


def committed(commit: str) -> Iterable[tuple[str, bytes]]:
    """Yield ``(path, content)`` of the Python files of a commit."""
    command = ["git", "archive", "--format=tar", commit, *FOLDERS]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            if member.isfile() and member.name.endswith(".py"):
                yield member.name, files.extractfile(member).read()


def count(files: Iterable[tuple[str, bytes]]) -> Counts:
    """Return ``{room: (files, lines)}``; benchmarks and tests are one room each."""
    found = collections.defaultdict(lambda: (0, 0))
    for path, content in files:
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        room = room_of(module) if module.startswith(PACKAGES) else module.partition(".")[0]
        number, lines = found[room]
        found[room] = number + 1, lines + content.count(b"\n")
    return dict(found)


def table(before: Counts, after: Counts) -> str:
    """Return a Markdown table of two counts, with their sums."""
    lines = [
        "| room | files before | lines before | files now | lines now |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    sums = [tuple(map(sum, zip(*counts.values(), strict=True))) for counts in (before, after)]
    rows = [(room, before.get(room, (0, 0)), after.get(room, (0, 0))) for room in sorted({*before, *after})]
    for room, old, new in [*rows, ("**sum**", *sums)]:
        lines.append(f"| {room} | {old[0]} | {old[1]:,} | {new[0]} | {new[1]:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(count(committed(sys.argv[1])), count(committed("HEAD"))))
