"""Meshes, sharding rules (which weight axis is split over which mesh axis), and runs on several hosts."""

import contextlib
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from nlsr_jax.errors import InputError
from nlsr_jax.types import Params

AXES = ("data", "fsdp", "tensor")
_NARROW = 128
"""Products with fewer out-features per device are not worth splitting; their weights are gathered before use."""
_RULES = {
    "experts": PartitionSpec(None, None, "tensor", "fsdp"),
    "embed": PartitionSpec("tensor", "fsdp"),
    "lm_head": PartitionSpec("tensor", "fsdp"),
    **dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"),
        PartitionSpec(None, "tensor", "fsdp"),
    ),
}
"""Out-features over tensor, in-features over fsdp.

In-features are gathered before use, and the inputs of a projection are gathered over tensor. A forward pass
therefore splits no sum, and its results do not depend on the mesh.
"""


def make_mesh(shape: tuple[int, int, int]) -> Mesh:
    """Return a mesh with the axes data, fsdp and tensor.

    Raises:
      InputError: if the number of devices does not match the shape.
    """
    needed = shape[0] * shape[1] * shape[2]
    if needed != len(jax.devices()):
        raise InputError(f"mesh {shape} needs {needed} devices, but {len(jax.devices())} are available")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


def sharding(mesh: Mesh | AbstractMesh, path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
    """Return the sharding of a weight over a mesh.

    Args:
      mesh: a mesh with axes among ``AXES``.
      path: the weight's path in the parameter tree.
      shape: its shape; an axis that the mesh does not divide is not split.
    """
    rule = next((_RULES[name] for name in path if name in _RULES), PartitionSpec())
    if path[-1] in ("bias", "scale", "router"):
        rule = PartitionSpec()
    sizes = [
        axis if axis in mesh.shape and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=False)
    ]
    return NamedSharding(mesh, PartitionSpec(*sizes))


class Layout(NamedTuple):
    """The layout of a parameter tree over a mesh.

    Attributes:
      mesh: the mesh.
      specs: paths of the tree's leaves, with the sharding of each.
      inside: whether the model runs inside ``shard_map``, where a leaf is one device's shard and is gathered fully.
        Otherwise a leaf is gathered over fsdp only and stays split over tensor, unless the pieces would be narrow.
    """

    mesh: Mesh
    specs: tuple[tuple[tuple[str, ...], PartitionSpec], ...]
    inside: bool = False

    def tree(self) -> dict[str, Any]:
        """Return the specs as a tree of the parameters' structure."""
        found: dict[str, Any] = {}
        for path, spec in self.specs:
            node = found
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = spec
        return found

    def gather_layer(self, variables: Params) -> Params:
        """Gather one layer's weights, given as a tree without its leading names."""
        specs = {path[-2:]: PartitionSpec(*spec[1:]) for path, spec in self.specs if path[0] == "layers"}
        return jax.tree.map_with_path(lambda path, leaf: self._gather(leaf, specs[_names(path)[-2:]]), variables)

    def gather_rest(self, params: Params) -> Params:
        """Gather the weights outside the layers; the layers are unchanged."""
        specs = dict(self.specs)

        def one(path, leaf):
            names = _names(path)
            return leaf if names[0] == "layers" else self._gather(leaf, specs[names])

        return jax.tree.map_with_path(one, params)

    def gather_layers(self, layers: Any) -> Any:
        """Gather the weights of all layers at once, given as the stacked tree ``params["layers"]``."""
        specs = dict(self.specs)
        return jax.tree.map_with_path(
            lambda path, leaf: self._gather(leaf, specs[("layers", *_names(path))]), layers
        )

    def gather(self, name: str, leaf: jax.Array) -> jax.Array:
        """Gather a weight outside the layers; inside ``shard_map``, ``gather_rest`` has already done it."""
        return leaf if self.inside else self._gather(leaf, dict(self.specs)[(name,)])

    def place(self, leaf: jax.Array, split: int | None = None) -> jax.Array:
        """Lay out activations over the mesh: rows (the leading axis) over data and fsdp, one axis over tensor.

        Args:
          leaf: activations.
          split: the axis to split over tensor, which must divide it; None to replicate over tensor.
        """
        if self.inside:
            return leaf
        rows = tuple(axis for axis in ("data", "fsdp") if axis in self.mesh.shape)
        spec: list[Any] = [None] * leaf.ndim
        if leaf.shape[0] % math.prod(self.mesh.shape[axis] for axis in rows) == 0:
            spec[0] = rows
        if split is not None and "tensor" in self.mesh.shape:
            spec[split] = "tensor"
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, PartitionSpec(*spec)))

    def tensor_divides(self, count: int) -> bool:
        """Return whether the tensor axis divides a count."""
        return count % self.mesh.shape.get("tensor", 1) == 0

    def everywhere(self, leaf: jax.Array) -> jax.Array:
        """Replicate an array on all devices."""
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, PartitionSpec()))

    def _gather(self, leaf, spec):
        if not self.inside:
            kept = PartitionSpec(
                *(
                    name if name == "tensor" and size // self.mesh.shape[name] >= _NARROW else None
                    for name, size in zip(spec, leaf.shape, strict=False)
                )
            )
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, kept))
        for axis, name in enumerate(spec):
            if name is not None:
                leaf = jax.lax.all_gather(leaf, name, axis=axis, tiled=True)
        return leaf


def _names(path) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)


def layout_of(params: Params) -> Layout | None:
    """Return the layout of parameters over a mesh; None if they are on one device."""
    leaves = jax.tree.leaves_with_path(params)
    mesh = getattr(getattr(leaves[0][1], "sharding", None), "mesh", None)
    if mesh is None or mesh.size == 1:
        return None
    return Layout(mesh, tuple((_names(path), leaf.sharding.spec) for path, leaf in leaves))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Replicate a tree, the same on every process, on all devices of a mesh."""
    return _put(mesh, PartitionSpec(), tree)


def split(mesh: Mesh, tree: Any) -> Any:
    """Split the leading axis of a tree's leaves, the same on every process, over all devices of a mesh."""
    return _put(mesh, PartitionSpec(AXES), tree)


def _put(mesh, spec, tree):
    def one(leaf):
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, NamedSharding(mesh, spec), lambda index: host[index])

    return jax.tree.map(one, tree)


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the other processes of a run; call this before anything else of JAX.

    Args:
      coordinator: ``HOST:PORT`` of the first process; None to detect all three from SLURM, a TPU pod or MPI.
      processes: number of processes.
      process: index of this process, from 0.

    Raises:
      InputError: if the processes cannot be joined.
    """
    if process is not None and processes is not None and process >= processes:
        raise InputError(f"process is {process} of {processes}; the indices start at 0")
    with contextlib.suppress(AttributeError):  # it would treat SIGTERM as a warning and continue
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the processes cannot be joined ({reason}); see docs/guide/devices.md") from error


def is_first() -> bool:
    """Return whether this is the process that writes."""
    return jax.process_index() == 0


def wait_for_all() -> None:
    """Wait until all processes of a run have reached this call.

    Raises:
      InputError: if one of them ended earlier.
    """
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    try:
        multihost_utils.sync_global_devices("nlsr_jax: done")
    except jax.errors.JaxRuntimeError as error:
        raise InputError("another process ended early; see its output") from error
