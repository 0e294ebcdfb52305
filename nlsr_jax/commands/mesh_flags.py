"""Flags of the devices and hosts of a run."""

from typing import TYPE_CHECKING

from absl import flags

from nlsr_jax.errors import InputError

if TYPE_CHECKING:
    from jax.sharding import Mesh

FLAGS = flags.FLAGS


def define_mesh_flag() -> None:
    """Define the flag of the mesh."""
    flags.DEFINE_list(
        "mesh", None, "Shard the base over devices: data,fsdp,tensor, such as 1,8,1. By default one device."
    )


def define_host_flags() -> None:
    """Define the flags of several processes."""
    flags.DEFINE_bool("distributed", False, "This is one of several processes started by SLURM, a TPU pod or MPI.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, if it cannot be detected.")
    flags.DEFINE_integer("processes", None, "With --coordinator: the number of processes.", lower_bound=1)
    flags.DEFINE_integer("process", None, "With --coordinator: the index of this process, from 0.", lower_bound=0)


def open_mesh() -> "Mesh | None":
    """Join other processes, open the devices and return the mesh from the flags, None for one device.

    Raises:
      InputError: if flags conflict, processes cannot be joined, or devices are missing.
    """
    from nlsr_jax.devices import open_devices

    shape = mesh_shape()
    several = "distributed" in FLAGS and _join()
    open_devices()
    if shape is None:
        if several:
            raise InputError("--mesh is missing; several processes need a mesh to shard the base")
        return None
    from nlsr_jax.parallel import make_mesh

    return make_mesh(shape)


def mesh_shape() -> tuple[int, int, int] | None:
    """Return the sizes of data, fsdp and tensor; None if the flag is not given.

    Raises:
      InputError: if the flag is not a mesh.
    """
    if FLAGS.mesh is None:
        return None
    if len(FLAGS.mesh) != 3 or not all(text.strip().isdecimal() and int(text) > 0 for text in FLAGS.mesh):
        raise InputError(f"--mesh is {','.join(FLAGS.mesh)}; expected three whole numbers: data,fsdp,tensor")
    data, fsdp, tensor = (int(text) for text in FLAGS.mesh)
    return data, fsdp, tensor


def _join() -> bool:
    """Join the other processes; return whether there are any."""
    details = {name: FLAGS[name].value for name in ("coordinator", "processes", "process")}
    given = [name for name, value in details.items() if value is not None]
    if FLAGS.distributed and given:
        raise InputError(f"--{given[0]} is given together with --distributed, which detects it; remove one of them")
    if given and len(given) < len(details):
        missing = next(name for name in details if name not in given)
        raise InputError(f"--{given[0]} needs --{missing}, which is missing")
    if not given and not FLAGS.distributed:
        return False
    from nlsr_jax.parallel import join

    join(*details.values())
    return True
