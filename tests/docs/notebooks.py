"""Run the notebooks without Jupyter: their cells of code in one namespace, in the folder of the notebooks.

``python -m tests.docs.notebooks`` runs them and keeps what they print in the files.
"""

import contextlib
import io
import json
import os
import pathlib
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "notebooks"


def notebooks() -> list[pathlib.Path]:
    """Return the files of the notebooks."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: pathlib.Path) -> dict:
    """Return the content of a notebook."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(book: dict) -> list[dict]:
    """Return the cells of code."""
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def run(path: pathlib.Path) -> list[str]:
    """Run a notebook; returns what each cell of code prints."""
    printed, names = [], {"__name__": "__main__"}
    before = pathlib.Path.cwd()
    os.chdir(path.parent)
    try:
        for number, cell in enumerate(code_cells(read(path)), 1):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), names)
            printed.append(out.getvalue())
    finally:
        os.chdir(before)
    return printed


def keep(path: pathlib.Path) -> None:
    """Run a notebook and write what its cells print into it."""
    printed, book = run(path), read(path)
    for number, (cell, text) in enumerate(zip(code_cells(book), printed, strict=True), 1):
        output = {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
        cell["execution_count"], cell["outputs"] = number, [output] if text else []
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for place in map(pathlib.Path, sys.argv[1:]) if sys.argv[1:] else notebooks():
        start = time.process_time()
        keep(place.resolve())
        print(f"{place.name}: {time.process_time() - start:.1f} s of processor time")
