"""Orbax copies of the masks and of the key of the pruning draw."""

import errno
import os
import pathlib
import shutil

import jax
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import expand
from nlsr_jax.random_streams import describe_key, restore_key

_OVERHEAD = 2**20
"""Bytes that Orbax may write in addition to the arrays."""


def save_checkpoint(path: str | os.PathLike, masks, pruning_key: jax.Array) -> None:
    """Save masks (bits packed along the last axis) and the pruning key with Orbax.

    Args:
      path: the checkpoint folder; must not exist.
      masks: bool tree ``{module: {"a": [L, r, k], "b": [L, d, r]}}``.
      pruning_key: the PRNG key of the draw.

    Raises:
      OSError: the disk is full or the folder cannot be written.
    """
    import orbax.checkpoint as ocp

    described = describe_key(pruning_key)
    packed, columns = {}, {}
    for module in masks:
        leaves = jax.tree.map(np.asarray, masks[module])
        packed[module] = jax.tree.map(lambda m: np.packbits(m, axis=-1), leaves)
        columns[module] = jax.tree.map(lambda m: np.int64(m.shape[-1]), leaves)
    tree = {
        "masks": packed,
        "columns": columns,
        "pruning_key": np.asarray(described["data"], np.uint32),
        "key_implementation": np.frombuffer(described["implementation"].encode(), np.uint8).copy(),
    }
    check_space(expand(path).absolute().parent, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(expand(path).absolute(), tree)


def check_space(folder: pathlib.Path, size: int) -> None:
    """Refuse a full disk before Orbax starts: its writers do not fail cleanly on one.

    Raises:
      OSError: ``folder`` has no room for ``size`` bytes.
    """
    if shutil.disk_usage(folder).free < size + _OVERHEAD:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def restore_checkpoint(path: str | os.PathLike):
    """Return ``(masks, pruning_key)`` as ``save_checkpoint`` saved them.

    Raises:
      InputError: no such checkpoint.
    """
    import orbax.checkpoint as ocp

    path = expand(path).absolute()
    if not path.is_dir():
        raise InputError(f"{path}: no checkpoint at this path")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        shapes = checkpointer.metadata(path).item_metadata.tree
        restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        tree = checkpointer.restore(path, restore_args=restore)
    masks = jax.tree.map(
        lambda bits, columns: np.unpackbits(bits, axis=-1, count=int(columns)).astype(bool),
        tree["masks"],
        tree["columns"],
    )
    implementation = np.asarray(tree["key_implementation"], np.uint8).tobytes().decode()
    return masks, restore_key({"data": tree["pruning_key"], "implementation": implementation})
