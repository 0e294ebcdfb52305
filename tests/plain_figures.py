"""Figures of the report without ink, in place of ``nlsr_jax.report.figures``.

Drawing takes most of a small run's time. The tests of the report draw theirs, and so do commands that run with
``DRAW`` in their environment.
"""

import ast
import functools
import pathlib

DRAW = "NLSR_TESTS_DRAW"
_SOURCE = pathlib.Path(__file__).parents[1] / "nlsr_jax" / "report" / "figures.py"
NAMES = [
    node.name
    for node in ast.parse(_SOURCE.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
]
"""The functions that draw, all of which are functions here too."""


def _empty(name: str, *_, **__) -> str:
    return f'<svg class="{name}"></svg>'


globals().update({name: functools.partial(_empty, name) for name in NAMES})
