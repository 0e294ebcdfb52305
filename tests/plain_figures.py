"""Figures of the report without ink, in place of ``nlsr_jax.report.figures``.

Drawing takes most of a small run's time. The tests of the report draw theirs, and so do commands that run with
``DRAW`` in their environment.
"""

from collections.abc import Callable

DRAW = "NLSR_TESTS_DRAW"


def __getattr__(name: str) -> Callable[..., str]:
    """Return what stands in for a function that draws."""
    if name.startswith("_"):
        raise AttributeError(name)
    return lambda *_, **__: f'<svg class="{name}"></svg>'
