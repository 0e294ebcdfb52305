"""How many of forty deliberate faults in core files the tests notice.

  python -m tests.reliability.mutants [--tree PATH] [--only 0,7] [--check] [--limit SECONDS] [--results FILE.json]

A copy of the tree gets one fault of ``tests.reliability.mutations`` at a time, and the tests of the package that it
is in and of those built on it are run until one fails, those nearest to the faulty file first. A test counts that
passes without the fault. ``--check`` says whether all faults fit the tree, and runs nothing. A file that the tree
has in another package is found by its name, one that has another name by ``Mutation.former``.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from tests.e2e.command import ROOT
from tests.reliability.mutations import MUTATIONS, TESTS, Mutation

LONGEST = 3600
"""Seconds of a processor for the tests of one fault, unless the command line says otherwise."""


def place(tree: pathlib.Path, mutation: Mutation) -> pathlib.Path | None:
    """Return the file of a tree that the fault fits; None where there is none, or several."""
    package = tree / "nlsr_jax"
    named = [package / mutation.file, *sorted(package.rglob(pathlib.Path(mutation.file).name))]
    if mutation.former:
        named.append(package / mutation.former)
    fitting = [
        path for path in named if path.is_file() and path.read_text(encoding="utf-8").count(mutation.old) == 1
    ]
    return fitting[0] if len(set(fitting)) == 1 else None


def nearest_first(tree: pathlib.Path, faulty: pathlib.Path, mutation: Mutation) -> list[list[str]]:
    """Return the test files for a fault: those named like the faulty file, those that import it, and the rest.

    Args:
      tree: the tree that the tests are in.
      faulty: the file with the fault, inside the tree.
      mutation: the fault.

    Returns:
      Groups of paths from the tree: files named like the faulty file, files that import it, and the rest of each
      entry of ``TESTS``, in this order.
    """
    entries = []
    for name in TESTS[mutation.room]:
        path = tree / "tests" / name
        entries.append(sorted(path.rglob("test_*.py")) if path.is_dir() else [path] * path.is_file())
    module = re.escape(".".join(faulty.relative_to(tree).with_suffix("").parts))
    parent, _, stem = module.rpartition(r"\.")
    imports = re.compile(rf"{module}\b|from {parent} import [^\n]*\b{stem}\b")

    def distance(path: pathlib.Path) -> int:
        if path.stem == f"test_{faulty.stem}":
            return 0
        return 1 if imports.search(path.read_text(encoding="utf-8")) else 2

    groups: dict[int, dict[str, None]] = {}
    for place, paths in enumerate(entries):
        for path in paths:
            near = distance(path)
            groups.setdefault(near if near < 2 else 2 + place, {})[str(path.relative_to(tree))] = None
    return [[*groups[near]] for near in sorted(groups)]


def run_tests(
    tree: pathlib.Path, tests: list[str], cache: pathlib.Path, limit: float, left_out: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Run test files until a test fails.

    Args:
      tree: the tree that they are in.
      tests: their paths, in order.
      cache: where compiled programs are kept.
      limit: seconds of a processor after which the tests, or a program that they start, are ended.
      left_out: tests to leave out.

    Returns:
      ``caught``, ``survived`` or ``out of time``, and the test that failed.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    command += [f"--deselect={test}" for test in left_out]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    command = ["sh", "-c", f'ulimit -t {limit:.0f}; exec "$@"', "sh", *command]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "out of time", ""
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1, 2, 5) or (done.returncode in (1, 2) and not failed):
        raise SystemExit(
            f"pytest could not be run ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return ("caught", failed[0]) if failed else ("survived", "")


def attempt(tree: pathlib.Path, mutation: Mutation, cache: pathlib.Path, limit: float) -> dict:
    """Try one fault on a copy of a tree; returns what came of it."""
    path = place(tree, mutation)
    if path is None:
        return {"outcome": "does not fit"}
    began, used, left = time.monotonic(), _used(), nearest_first(tree, path, mutation)
    text = path.read_text(encoding="utf-8")
    fails_anyway: tuple[str, ...] = ()
    outcome, test = "survived", ""
    while left:
        path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        outcome, test = run_tests(tree, left[0], cache, max(1, used + limit - _used()), fails_anyway)
        path.write_text(text, encoding="utf-8")
        if outcome == "survived":
            left = left[1:]
        elif outcome == "out of time" or run_tests(tree, [test], cache, limit)[0] == "survived":
            break
        else:
            fails_anyway = (*fails_anyway, test)
            left[0] = left[0][left[0].index(test.split("::")[0]) :]
    row = {"outcome": outcome, "test": test, "seconds": round(time.monotonic() - began)}
    return {**row, "fails anyway": fails_anyway} if fails_anyway else row


def _used() -> float:
    """Return the seconds of a processor that programs have taken that this one has started."""
    return sum(os.times()[2:4])


def examine(tree: pathlib.Path, chosen: list[int], limit: float, note: Callable[[str], None]) -> list[dict]:
    """Try the chosen faults on a copy of a tree; returns a row about each."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        copy = pathlib.Path(name, "tree")
        left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "site", "*.egg-info")
        shutil.copytree(tree, copy, symlinks=True, ignore=left_out)
        for number in chosen:
            mutation = MUTATIONS[number]
            row = {"number": number, "file": mutation.file, "kind": mutation.kind}
            rows.append(row | attempt(copy, mutation, pathlib.Path(name, "compiled"), limit))
            note(json.dumps(rows[-1]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT)
    parser.add_argument("--only", default=",".join(map(str, range(len(MUTATIONS)))))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--limit", type=float, default=LONGEST, help="seconds of a processor for one fault")
    parser.add_argument("--results", type=pathlib.Path)
    given = parser.parse_args()
    chosen = [int(number) for number in given.only.split(",")]
    if given.check:
        wrong = [number for number in chosen if place(given.tree, MUTATIONS[number]) is None]
        for number in wrong:
            print(f"{number}: {MUTATIONS[number].file}: {MUTATIONS[number].old!r} is not there once")
        raise SystemExit(bool(wrong))
    rows = examine(given.tree.resolve(), chosen, given.limit, lambda line: print(line, flush=True))
    caught = sum(row["outcome"] == "caught" for row in rows)
    print(f"{caught} of {len(rows)} faults were noticed")
    if given.results:
        given.results.write_text(json.dumps({"caught": caught, "of": len(rows), "faults": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
