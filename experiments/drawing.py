"""Figures drawn by a process of their own: Python runs one thread at a time, and others read and write meanwhile.

That process is ``python -m experiments.drawing < RECORD.json > FIGURES.json``.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from nlsr_jax.report import draw_figures

_LARGE = 2**27
"""So many entries take longer to write than Python and matplotlib to start."""


def draw(record: Mapping[str, Any]) -> dict[str, Any]:
    """Draw as ``nlsr_jax.report.draw_figures`` does, apart where the adapter is large.

    Args:
      record: the content of ``realignment.json``.

    Returns:
      ``{name: (number in the order of the page, SVG markup)}``.
    """
    return draw_apart(record) if record["summary"]["total_entries"] >= _LARGE else draw_figures(record)


def draw_apart(record: Mapping[str, Any]) -> dict[str, Any]:
    """Draw in another process, or in this one where that fails; arguments and result as of ``draw``."""
    from markupsafe import Markup

    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "experiments.drawing"]
    try:
        done = subprocess.run(command, input=json.dumps(record).encode(), capture_output=True, check=True, env=env)
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return draw_figures(record)
    return {name: (number, Markup(svg)) for name, (number, svg) in found.items()}


if __name__ == "__main__":
    json.dump(draw_figures(json.load(sys.stdin)), sys.stdout)
