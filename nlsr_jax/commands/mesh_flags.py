"""Flags of the devices and hosts that a run is spread over."""

from absl import flags

from nlsr_jax.errors import InputError

FLAGS = flags.FLAGS


def define_mesh_flag() -> None:
    """Define the flag of the mesh."""
    flags.DEFINE_list(
        "mesh", None, "Lay the base over devices: data,fsdp,tensor, such as 1,8,1. By default one device."
    )


def define_host_flags() -> None:
    """Define the flags of several processes."""
    flags.DEFINE_bool("distributed", False, "One of several processes that SLURM, a TPU pod or MPI has started.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, where nothing says it.")
    flags.DEFINE_integer("processes", None, "With --coordinator: how many processes there are.", lower_bound=1)
    flags.DEFINE_integer("process", None, "With --coordinator: which one this is, from 0.", lower_bound=0)


def open_mesh():
    """Open the devices and return the mesh that the flags describe, None for one device; joins the others first.

    Raises:
      InputError: flags that do not go together, processes that cannot be joined, or devices that are not there.
    """
    from nlsr_jax.devices import open_devices

    shape = mesh_shape()
    several = "distributed" in FLAGS and _join()
    open_devices()
    if shape is None:
        if several:
            raise InputError("--mesh is missing; several processes need to know how the base lies over them")
        return None
    from nlsr_jax.parallel import make_mesh

    return make_mesh(shape)


def mesh_shape() -> tuple[int, int, int] | None:
    """Return the sizes of data, fsdp and tensor; None where the flag is not given.

    Raises:
      InputError: a flag that is no mesh.
    """
    if FLAGS.mesh is None:
        return None
    if len(FLAGS.mesh) != 3 or not all(text.strip().isdecimal() and int(text) > 0 for text in FLAGS.mesh):
        raise InputError(f"--mesh is {','.join(FLAGS.mesh)}; expected three whole numbers: data,fsdp,tensor")
    data, fsdp, tensor = (int(text) for text in FLAGS.mesh)
    return data, fsdp, tensor


def _join() -> bool:
    """Join the other processes; returns whether there are any."""
    details = {name: FLAGS[name].value for name in ("coordinator", "processes", "process")}
    given = [name for name, value in details.items() if value is not None]
    if FLAGS.distributed and given:
        raise InputError(
            f"--{given[0]} is given together with --distributed, which finds it; leave one of them out"
        )
    if given and len(given) < len(details):
        missing = next(name for name in details if name not in given)
        raise InputError(f"--{missing} is missing beside --{given[0]}")
    if not given and not FLAGS.distributed:
        return False
    from nlsr_jax.parallel import join

    join(*details.values())
    return True
