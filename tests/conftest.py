"""Shared fixtures: real files for tests live in the folder that NLSR_SHARED_DATA names."""

import contextlib
import ctypes
import gc
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Every worker has a core: threads of PyTorch and LAPACK would wait for each other at full speed.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# What one process has compiled, the commands that tests start and the other workers need not compile again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.03")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import pytest

from tests import plain_figures

# Traces make many objects and little garbage: the default looks through all of them again and again.
gc.set_threshold(100_000, 20, 20)

# The same examples in every run, and none given up because the machine is busy.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


PLAIN = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
"""Flags under which XLA compiles small programs in a quarter of the time. An unknown flag would end the process."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Compile without optimisation, here and in commands, unless tests that take minutes are chosen.

    Tests take few steps: most of their time is the compiler's. Workers have the environment of the first process.
    """
    if "not long" not in config.option.markexpr or "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ:
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if "XLA_FLAGS" not in os.environ:
        check = [sys.executable, "-c", "import jax; jax.devices()"]
        if not subprocess.run(check, env={**os.environ, "XLA_FLAGS": PLAIN}, capture_output=True).returncode:
            os.environ["XLA_FLAGS"] = PLAIN


def pytest_collection_modifyitems(items):
    """Put files with slow tests first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


MOST_MEMORY = 2_500_000_000
"""Bytes of a process at which it forgets its compiled programs, which hold megabytes each."""


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Give memory back to the system between modules."""
    yield
    statistics = pathlib.Path("/proc/self/statm")
    if "jax" not in sys.modules or not statistics.exists():
        return
    if int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        sys.modules["jax"].clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="session", autouse=True)
def no_flushes():
    """Let the system write to the disk when it likes: what outlives a loss of power is not tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def figures_without_ink():
    """Draw no figures of reports; see ``tests.plain_figures``."""
    from nlsr_jax.report import figures

    with pytest.MonkeyPatch.context() as patch:
        for name in plain_figures.NAMES:
            patch.setattr(figures, name, getattr(plain_figures, name))
        yield


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real files; tests that need it skip where it is not given."""
    folder = os.environ.get("NLSR_SHARED_DATA")
    if not folder:
        pytest.skip("NLSR_SHARED_DATA is not set: the real files for tests are not at hand")
    return pathlib.Path(folder).resolve()
