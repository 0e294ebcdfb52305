"""The tests of the report draw its figures."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def figures_without_ink():
    """Leave the functions that draw as they are."""
