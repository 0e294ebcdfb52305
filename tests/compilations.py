"""What JAX compiles while something runs."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Yield a list that receives an entry whenever JAX compiles a program or fetches it from its cache."""
    found: list[str] = []

    def listen(event, duration, **_):
        if event == _EVENT:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
