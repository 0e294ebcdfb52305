"""Open the devices that JAX computes on before any work, or explain in one line why they cannot be opened."""

import contextlib
import os

import jax

from nlsr_jax.errors import InputError

_ASKED = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_ADVICE = (" (set JAX_PLATFORMS=", " (you may need to uninstall")  # JAX's own advice, less helpful than ours
_LONGEST = 300


def open_devices() -> None:
    """Open the devices that JAX computes on.

    Raises:
      InputError: if the environment requests a missing platform, or a driver or plugin does not work.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise InputError(_describe(error)) from error


def check_opened(error: BaseException) -> None:
    """Convert the error of JAX's first computation if it found no device; ignore other errors.

    Raises:
      InputError: if JAX found no device.
    """
    if not isinstance(error, RuntimeError | AssertionError):
        return
    if str(error).startswith("Unable to initialize backend"):
        raise InputError(_describe(error)) from error
    open_devices()


def _describe(error: BaseException) -> str:
    given = [name for name in _ASKED if os.environ.get(name)]
    if not given:
        return f"JAX cannot open its devices ({_reason(error)}); JAX_PLATFORMS=cpu computes without them"
    asked = " and ".join(f"{name} is {os.environ[name]!r}" for name in given)
    advice = "unset them" if len(given) > 1 else f"set {given[0]} to an available platform, or unset it"
    return f"{asked}, but there is no such device ({_reason(error)}); available: {_at_hand()}; {advice}"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    for advice in _ADVICE:
        text = text.partition(advice)[0]
    if not text:
        text = "JAX sees no such hardware"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return text[:_LONGEST] + ("" if hidden is None else f", CUDA_VISIBLE_DEVICES is {hidden!r}")


def _at_hand() -> str:
    """Return the platforms that JAX finds when it may choose; only for a process that is about to exit."""
    with contextlib.suppress(Exception):
        from jax.extend.backend import backends, clear_backends

        clear_backends()
        jax.config.update("jax_platforms", "")
        jax.config.update("jax_platform_name", "")
        return ", ".join(f"{name} ({client.device_count()})" for name, client in backends().items())
    return "none that JAX can open"
