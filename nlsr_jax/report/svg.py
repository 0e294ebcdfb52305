"""Draw figures as inline SVG, with deterministic bytes and without lasting changes to global state."""

import contextlib
import io
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1a2b3c"
"""Colour of text, axes and ticks while drawing; the SVG uses the page's text colour instead."""

_STYLE = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",  # the page's own, which may be dark
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.sans-serif": ["DejaVu Sans"],
    "legend.frameon": False,
    "legend.fontsize": "small",
    "svg.fonttype": "none",  # keep text as text: it can be searched, copied and read aloud
    "svg.hashsalt": "nlsr_jax",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
_DRAWING = threading.RLock()
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Use matplotlib's defaults and the page's style inside the block, regardless of the user's settings.

    The style is state of the whole process, so one thread draws at a time.
    """
    import matplotlib

    with _DRAWING, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]
        yield


def new_figure(height: float) -> "Figure":
    """Return an empty figure of the page's width, without background, ``height`` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(9.6, height), layout="constrained", facecolor="none")


def to_svg(figure: "Figure", name: str, label: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Args:
      figure: drawn inside ``drawing()``; call this inside it too.
      name: prefix of all ids, so that a page can contain several figures.
      label: text for screen readers; plain text without markup.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    # ``savefig`` gives the same result, but computes the layout once more before.
    FigureCanvasSVG(figure).print_svg(file, metadata=_NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    found = re.search(r'viewBox="[^"]*"', text)
    assert found is not None
    box = found[0]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box}'
    return f'{head} role="img" aria-label="{label}">' + text[text.index(">") + 1 :].rstrip()
