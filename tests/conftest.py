"""Shared fixtures: real files for tests live in the folder that NLSR_SHARED_DATA names."""

import gc
import os
import pathlib

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

# Traces make many objects and little garbage: the default looks through all of them again and again.
gc.set_threshold(100_000, 20, 20)

# The same examples in every run, and none given up because the machine is busy.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


_PLAIN = pytest.StashKey[bool]()
_FLAG = "JAX_DISABLE_MOST_OPTIMIZATIONS"


@pytest.fixture(scope="module", autouse=True)
def compiler(request):
    """Compile without optimisation, here and in commands, unless a module is marked ``optimised`` or ``long``.

    Tests take few steps: most of their time is the compiler's.
    """
    import jax

    plain = not any(map(request.node.get_closest_marker, ("optimised", "long")))
    if request.config.stash.get(_PLAIN, False) != plain:
        request.config.stash[_PLAIN] = plain
        jax.config.update("jax_disable_most_optimizations", plain)
        jax.clear_caches()  # the same bytes from this process and from commands
    before = os.environ.get(_FLAG)
    os.environ[_FLAG] = str(int(plain))
    yield
    os.environ.pop(_FLAG)
    if before is not None:
        os.environ[_FLAG] = before


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real files; tests that need it skip where it is not given."""
    folder = os.environ.get("NLSR_SHARED_DATA")
    if not folder:
        pytest.skip("NLSR_SHARED_DATA is not set: the real files for tests are not at hand")
    return pathlib.Path(folder).resolve()
