"""The folder of a training run, from which a killed run can resume.

``run.json`` identifies the run, ``checkpoints/`` holds Orbax checkpoints (step, trainable arrays, optimiser state
and PRNG key), ``metrics.jsonl`` has one line per logged step, and ``reference.npy`` stores the reference policy's
log-probabilities.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import expand
from nlsr_jax.formats.checkpoint import check_space
from nlsr_jax.training.step import TrainState

RUN, METRICS = "run.json", "metrics.jsonl"
_KEPT = 2


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Write a file atomically: it is complete or absent, even if the process dies meanwhile."""
    partial = _partial(path)
    partial.unlink(missing_ok=True)  # a symbolic or hard link in its place would lead elsewhere
    with partial.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _partial(path: pathlib.Path) -> pathlib.Path:
    # A fixed name: the next process overwrites what a dead one left here.
    return path.with_name(f".{path.name}.partial")


def check_run(path: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Mark a folder as belonging to a run, or check that it does.

    Args:
      path: an existing folder.
      identity: values that identify the run; must be JSON-serialisable.

    Raises:
      InputError: if the folder belongs to a run with another identity, or to no run.
    """
    file = path / RUN
    text = json.dumps(dict(identity), indent=1, sort_keys=True) + "\n"
    if not file.exists():
        others = sorted(path.name for path in path.iterdir() if path.name != _partial(file).name)
        if others:
            raise InputError(
                f"{path}: contains {others[0]} and is not the folder of a training run; remove it or name "
                "another output"
            )
        write_whole(file, text.encode())
        return
    try:
        found = dict(json.loads(file.read_text()))
    except (ValueError, TypeError):
        found = {}
    names = _differences(json.loads(text), found)
    if names:
        raise InputError(
            f"{path}: contains a training run with a different {', '.join(names)}; remove it or name another output"
        )


class RunFolder:
    """State of one run on disk.

    Args:
      path: the folder; created if missing.
      identity: values that identify the run: settings, digests of its inputs, key.

    Raises:
      InputError: if the folder belongs to a run with another identity, or to no run.
    """

    def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any]):
        import orbax.checkpoint as ocp

        self.path = expand(path).absolute()
        self.path.mkdir(parents=True, exist_ok=True)
        check_run(self.path, identity)
        self._metrics = self.path / METRICS
        self._manager = ocp.CheckpointManager(
            self.path / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False),
        )

    def save(self, state: TrainState, key: jax.Array) -> None:
        """Save a checkpoint of the state; it counts only once it is complete.

        Raises:
          OSError: if the disk is full.
        """
        import orbax.checkpoint as ocp

        tree = {"state": state._asdict(), "key": np.asarray(jax.random.key_data(key))}
        check_space(self.path, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        self._manager.save(int(state.step), args=ocp.args.StandardSave(tree))

    def restore(self, state: TrainState, key: jax.Array) -> TrainState:
        """Return the last saved state, or ``state`` if nothing has been saved.

        Args:
          state: the initial state; the result has its structure and placement.
          key: the run's key.

        Raises:
          InputError: if the checkpoint has another key, or is damaged.
        """
        import orbax.checkpoint as ocp

        latest = self._manager.latest_step()
        if latest is None:
            return state
        tree: dict[str, Any] = {"state": state._asdict(), "key": np.asarray(jax.random.key_data(key))}
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        try:
            found = self._manager.restore(latest, args=ocp.args.StandardRestore(shapes))
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.path}: checkpoint {latest} cannot be read ({reason}); remove the folder to start over"
            ) from error
        if not np.array_equal(found["key"], tree["key"]):
            raise InputError(
                f"{self.path}: its checkpoint was made with another seed; remove it or name another output"
            )
        return TrainState(**found["state"])

    def start_metrics(self, step: int) -> None:
        """Drop lines logged after ``step``, and truncated lines."""
        if not self._metrics.exists():
            return
        kept = [line for line in self._metrics.read_text().splitlines() if _step_of(line) <= step]
        write_whole(self._metrics, "".join(line + "\n" for line in kept).encode())

    def log(self, metrics: Mapping[str, float]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(dict(metrics)) + "\n")

    def reference(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the stored reference log-probabilities, or None.

        Raises:
          InputError: if they are not float32 values of this shape.
        """
        file = self.path / "reference.npy"
        if not file.exists():
            return None
        try:
            values = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            values = None
        if values is None or values.shape != shape or values.dtype != np.float32:
            raise InputError(f"{file}: not the log-probabilities of this run; remove {self.path} to start over")
        return values

    def keep_reference(self, values: np.ndarray) -> None:
        """Store the reference log-probabilities."""
        with tempfile.SpooledTemporaryFile() as buffer:
            np.save(buffer, values, allow_pickle=False)
            buffer.seek(0)
            write_whole(self.path / "reference.npy", buffer.read())

    def close(self) -> None:
        """Close the checkpoint manager."""
        self._manager.close()


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """List the names whose values differ, with nested settings listed individually."""
    names = []
    for name in sorted({*wanted, *found}):
        one, other = wanted.get(name), found.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            names += _differences(one, other)
        elif one != other:
            names.append(name)
    return names


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
