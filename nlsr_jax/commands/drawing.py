"""Figures drawn by a process of their own: Python runs one thread at a time, and others read and write meanwhile.

That process is ``python -m nlsr_jax.commands.drawing < RECORD.json > FIGURES.json``; it ends with this one.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from nlsr_jax.commands import ending
from nlsr_jax.report import draw_figures

_LARGE = 2**27
"""So many entries take longer to write than Python and matplotlib to start."""
_LONGEST = 300
"""Seconds to wait for that process; it takes one or two."""


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

    try:
        found = json.loads(_run(json.dumps(record)))
        return {name: (number, Markup(svg)) for name, (number, svg) in found.items()}
    except Exception:  # whatever it is: this process can draw as well
        return draw_figures(record)


def _run(text: str) -> str:
    """Return what the other process makes of its input."""
    with ending.tied() as options:
        return subprocess.run(
            ending.python("nlsr_jax.commands.drawing"), input=text, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, check=True, timeout=_LONGEST, **options,
        ).stdout  # fmt: skip


if __name__ == "__main__":
    with ending.watched():
        json.dump(draw_figures(json.load(sys.stdin)), sys.stdout)
