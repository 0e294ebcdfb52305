"""Several processes of one command, on this machine or on a Ray cluster."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from nlsr_jax.commands import ending
from nlsr_jax.errors import InputError


def pin(process: int, part: int, count: int) -> None:
    """Pin a process to its part of this process's cores, because threads of processes that share cores stall.

    Args:
      process: id of the process, just started.
      part: number of the part, from 1.
      count: number of parts; nothing happens if there are fewer cores, or the system does not support pinning.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= count:
        with contextlib.suppress(ProcessLookupError):  # it has already ended
            os.sched_setaffinity(process, cores[part - 1 :: count])


def spawn(module: str, arguments: Callable[[int], Sequence[str]], count: int) -> None:
    """Run a module in processes that end with this one.

    Args:
      module: what to run.
      arguments: returns the arguments of a process by its number, from 1.
      count: number of processes.
    """
    commands = [ending.python(module, *arguments(part)) for part in range(1, count + 1)]
    ending.run_tied(commands, lambda process, part: pin(process, part, count))


def spawn_on_ray(module: str, arguments: Callable[[int], Sequence[str]], count: int, address: str) -> None:
    """Run a module as tasks of a Ray cluster.

    Args:
      module: what to run; all machines must have it.
      arguments: returns the arguments of a task by its number, from 1; all machines must see their files under the
        same names.
      count: number of tasks, of one CPU each.
      address: address of the cluster, ``"auto"``, or ``"local"`` to start one on this machine.

    Raises:
      InputError: if Ray is not installed, or no cluster can be reached.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray, which is not installed: pip install 'nlsr_jax[ray]'") from None
    try:
        options = {"num_cpus": count} if address == "local" else {"address": address}
        ray.init(include_dashboard=False, log_to_driver=True, **options)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--ray {address}: no cluster can be reached ({error})") from error
    try:
        # Ray hides GPUs from a task that does not request one.
        visible = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
        run: Any = ray.remote(num_cpus=1, runtime_env=visible)(
            lambda command: subprocess.run(command, check=False).returncode
        )
        commands = [[sys.executable, "-m", module, *arguments(part)] for part in range(1, count + 1)]
        ray.get([run.remote(command) for command in commands])
    finally:
        ray.shutdown()


def read_share(text: str) -> tuple[int, int]:
    """Return a part such as ``2/8`` as its number and the number of parts.

    Raises:
      InputError: any other text.
    """
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise InputError(f"--share is {text!r}; expected a part such as 2/8")
    return int(number), int(count)
