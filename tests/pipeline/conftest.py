"""What all tests of the pipeline share."""

import pytest

from nlsr_jax.report import figures


@pytest.fixture(autouse=True)
def figures_without_ink(monkeypatch):
    """Lay out figures and render none of them, which takes most of a small run's time.

    The tests of the report and those of whole commands render theirs.
    """

    def outline(figure, name, label):
        return f'<svg class="{name}" role="img" aria-label="{label}"></svg>'

    monkeypatch.setattr(figures, "to_svg", outline)
