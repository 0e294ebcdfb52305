"""Shared fixtures: real files for tests live in the folder that NLSR_SHARED_DATA names."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real files; tests that need it skip where it is not given."""
    folder = os.environ.get("NLSR_SHARED_DATA")
    if not folder:
        pytest.skip("NLSR_SHARED_DATA is not set: the real files for tests are not at hand")
    return pathlib.Path(folder).resolve()
