"""Meshes and sharding rules: which axis of a weight is split over which axis of the mesh."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nlsr_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")
_SPLIT_OUT = PartitionSpec(None, "tensor", "fsdp")
_SPLIT_IN = PartitionSpec(None, "fsdp", "tensor")
_RULES = {
    "embed": PartitionSpec("tensor", "fsdp"),
    "lm_head": PartitionSpec("tensor", "fsdp"),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), _SPLIT_OUT),
    **dict.fromkeys(("o_proj", "down_proj"), _SPLIT_IN),
}


def make_mesh(shape: tuple[int, int, int]) -> Mesh:
    """Return a mesh with the axes data, fsdp and tensor.

    Raises:
      InputError: the devices at hand are not as many as the shape needs.
    """
    needed = shape[0] * shape[1] * shape[2]
    if needed != len(jax.devices()):
        raise InputError(f"mesh {shape} needs {needed} devices, {len(jax.devices())} are at hand")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


def sharding(mesh: Mesh, path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
    """Return how a weight is laid out over a mesh.

    Args:
      mesh: with axes among ``AXES``.
      path: the weight's path in the parameter tree.
      shape: its shape; an axis that the mesh does not divide stays whole.
    """
    rule = next((_RULES[name] for name in path if name in _RULES), PartitionSpec())
    if path[-1] in ("bias", "scale"):
        rule = PartitionSpec()
    sizes = [
        axis if axis in mesh.shape and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=False)
    ]
    return NamedSharding(mesh, PartitionSpec(*sizes))
