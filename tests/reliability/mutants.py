"""How many of forty deliberate faults in core files the tests notice.

  python -m tests.reliability.mutants [--tree PATH] [--only 0,7] [--check] [--results FILE.json]

A copy of the tree gets one fault of ``tests.reliability.mutations`` at a time, and the tests of the package that it
is in are run until one fails. ``--check`` says whether all faults fit the tree, and runs nothing. A file that
the tree has in another package is found by its name.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from tests.e2e.command import ROOT
from tests.reliability.mutations import MUTATIONS, TESTS, Mutation

LONGEST = 1200
"""Seconds for the tests of one fault; a fault that makes a program hang counts as noticed."""


def place(tree: pathlib.Path, mutation: Mutation) -> pathlib.Path | None:
    """Return the file of a tree that the fault fits; None where there is none, or several."""
    package = tree / "nlsr_jax"
    named = [package / mutation.file, *sorted(package.rglob(pathlib.Path(mutation.file).name))]
    fitting = [
        path for path in named if path.is_file() and path.read_text(encoding="utf-8").count(mutation.old) == 1
    ]
    return fitting[0] if len(set(fitting)) == 1 else None


def run_tests(tree: pathlib.Path, mutation: Mutation, cache: pathlib.Path) -> tuple[str, str]:
    """Run the tests of a fault's package; returns ``caught``, ``survived`` or ``hung``, and the failing test."""
    paths = [f"tests/{name}" for name in TESTS[mutation.room] if (tree / "tests" / name).exists()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    env["PYTHONPATH"] = str(tree)
    try:
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return "hung", ""
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1, 2) or (done.returncode and not failed):
        raise SystemExit(
            f"pytest could not be run ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return ("caught", failed[0]) if failed else ("survived", "")


def examine(tree: pathlib.Path, chosen: list[int], note=print) -> list[dict]:
    """Try the chosen faults on a copy of a tree; returns a row about each."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        copy = pathlib.Path(name, "tree")
        left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "site", "*.egg-info")
        shutil.copytree(tree, copy, symlinks=True, ignore=left_out)
        for number in chosen:
            mutation, began = MUTATIONS[number], time.monotonic()
            row = {"number": number, "file": mutation.file, "kind": mutation.kind}
            path = place(copy, mutation)
            if path is None:
                rows.append({**row, "outcome": "does not fit"})
            else:
                text = path.read_text(encoding="utf-8")
                path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
                outcome, test = run_tests(copy, mutation, pathlib.Path(name, "compiled"))
                path.write_text(text, encoding="utf-8")
                seconds = round(time.monotonic() - began)
                rows.append({**row, "outcome": outcome, "test": test, "seconds": seconds})
            note(json.dumps(rows[-1]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT)
    parser.add_argument("--only", default=",".join(map(str, range(len(MUTATIONS)))))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=pathlib.Path)
    given = parser.parse_args()
    chosen = [int(number) for number in given.only.split(",")]
    if given.check:
        wrong = [number for number in chosen if place(given.tree, MUTATIONS[number]) is None]
        for number in wrong:
            print(f"{number}: {MUTATIONS[number].file}: {MUTATIONS[number].old!r} is not there once")
        raise SystemExit(bool(wrong))
    rows = examine(given.tree.resolve(), chosen, lambda line: print(line, flush=True))
    caught = sum(row["outcome"] in ("caught", "hung") for row in rows)
    print(f"{caught} of {len(rows)} faults were noticed")
    if given.results:
        given.results.write_text(json.dumps({"caught": caught, "of": len(rows), "faults": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
