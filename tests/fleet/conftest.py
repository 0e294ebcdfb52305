"""What all tests of fleets share."""

from tests.pipeline.conftest import figures_without_ink

__all__ = ["figures_without_ink"]
