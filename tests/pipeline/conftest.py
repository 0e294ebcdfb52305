"""What all tests of the pipeline share."""

import pytest

from nlsr_jax.report import figures


@pytest.fixture(scope="module", autouse=True)
def figures_without_ink():
    """Lay out figures and render none of them, which takes most of a small run's time.

    The tests of the report and those of whole commands render theirs.
    """

    def outline(figure, name, label):
        return f'<svg class="{name}" role="img" aria-label="{label}"></svg>'

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "to_svg", outline)
        yield
