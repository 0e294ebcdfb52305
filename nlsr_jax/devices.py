"""The devices that JAX computes on: opened before any work, or one line that says why there are none."""

import contextlib
import os

import jax

from nlsr_jax.errors import InputError

_ASKED = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_ADVICE = (" (set JAX_PLATFORMS=", " (you may need to uninstall")  # how JAX goes on, which says less than our line
_LONGEST = 300


def open_devices() -> None:
    """Open the devices that JAX computes on.

    Raises:
      InputError: the environment asks for a platform that is not here, or whose driver or plugin does not work.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise InputError(_describe(error)) from error


def check_opened(error: BaseException) -> None:
    """Say so where an error is that of JAX's first computation, which found no device.

    Raises:
      InputError: it is.
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
    advice = "unset them" if len(given) > 1 else f"set {given[0]} to a platform that is, or unset it"
    return f"{asked}, and there is no such device ({_reason(error)}); at hand: {_at_hand()}; {advice}"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    for advice in _ADVICE:
        text = text.partition(advice)[0]
    if not text:
        text = "JAX sees no such hardware"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return text[:_LONGEST] + ("" if hidden is None else f", CUDA_VISIBLE_DEVICES is {hidden!r}")


def _at_hand() -> str:
    """The platforms that JAX finds when it may choose; for a process that ends now."""
    with contextlib.suppress(Exception):
        from jax.extend.backend import backends, clear_backends

        clear_backends()
        jax.config.update("jax_platforms", "")
        jax.config.update("jax_platform_name", "")
        return ", ".join(f"{name} ({client.device_count()})" for name, client in backends().items())
    return "none that JAX can open"
