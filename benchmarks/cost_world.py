"""The files of `benchmarks.cost`: a random base, parts of it with fewer layers, adapters and calibration rows."""

import dataclasses
import json
import pathlib
import sys
from typing import Any, NamedTuple

from benchmarks.measure import Run, run_process
from benchmarks.streaming import save_adapter, save_base, save_rows
from nlsr_jax.adapter import Adapter
from nlsr_jax.architecture.config import ModelConfig, parse_model_config

LENGTH, BATCH, DTYPE = 64, 16, "bfloat16"
"""Tokens of a row, rows of a batch, and number type of the base."""
MEMORY, STREAMED = WAYS = ("memory", "streamed")
"""Where the base is: in memory, or in its files until a layer is needed."""


class Cell(NamedTuple):
    """One identification: calibration rows, the first layers of the base, and the rank of the adapter."""

    rows: int
    layers: int
    rank: int


class World(NamedTuple):
    """Where the files are.

    Attributes:
      folder: holds ``base``, and a folder for every number of layers.
      shape: fields of the base's ``config.json``.
      rank: of the adapters.
    """

    folder: pathlib.Path
    shape: dict[str, Any]
    rank: int

    def part(self, layers: int) -> pathlib.Path:
        """Return a folder with a base of the first layers and an adapter on it, written at the first call."""
        folder = self.folder / f"layers-{layers}"
        if not folder.exists():
            _link(self.folder / "base", folder / "base", layers)
            save_adapter(folder / "adapter", folder / "base", self._shape(layers), self.rank)
        return folder

    def rows(self, count: int) -> pathlib.Path:
        """Return a file of calibration rows, written at the first call."""
        path = self.folder / f"rows-{count}.jsonl"
        if not path.exists():
            save_rows(path, count, LENGTH)
        return path

    def open(self, layers: int, way: str) -> tuple[Any, Any, Adapter]:
        """Return model, parameters and adapter of the first layers, the base in one of ``WAYS``."""
        from nlsr_jax import load_adapter, load_model
        from nlsr_jax.models.load import stream_model

        folder = self.part(layers)
        model, params = (stream_model if way == STREAMED else load_model)(folder / "base", DTYPE)
        return model, params, load_adapter(folder / "adapter", model.config)

    def identify(self, cell: Cell, way: str) -> Run:
        """Run ``nlsr identify`` in a process of its own; the first run of a way compiles what later ones read."""
        print(f"nlsr identify, {way}: {cell.rows} rows, {cell.layers} layers", flush=True)
        folder = self.part(cell.layers)
        command = [sys.executable, "-m", "nlsr_jax", "identify", "--base", str(folder / "base"), "--dtype", DTYPE]
        command += ["--aligned", str(folder / "adapter"), "--calibration", str(self.rows(cell.rows))]
        command += ["--batch_size", str(BATCH), "--output", str(self.output(cell.layers, way)), "--overwrite"]
        command += ["--stream"] if way == STREAMED else []
        return run_process(command, XDG_CACHE_HOME=str(self.folder / f"cache-{way}"))

    def output(self, layers: int, way: str) -> pathlib.Path:
        """Return the folder that ``identify`` writes."""
        return self.folder / f"layers-{layers}" / f"masks-{way}"

    def config(self, layers: int) -> ModelConfig:
        """Return the configuration of the first layers."""
        return parse_model_config(self._shape(layers), "shape")

    def _shape(self, layers: int) -> dict[str, Any]:
        return {**self.shape, "num_hidden_layers": layers}


def make_world(folder: pathlib.Path, shape: dict[str, Any], rank: int) -> World:
    """Write the base."""
    save_base(folder / "base", shape)
    return World(folder, shape, rank)


def of_rank(adapter: Adapter, rank: int) -> Adapter:
    """Return the first places of the rank axis of an adapter."""
    factors = {m: {"a": leaf["a"][:, :rank], "b": leaf["b"][:, :, :rank]} for m, leaf in adapter.factors.items()}
    return dataclasses.replace(adapter, factors=factors)


def _link(base: pathlib.Path, folder: pathlib.Path, layers: int) -> None:
    """Make a base of the first layers of another; its shards are hard links."""
    folder.mkdir(parents=True)
    index = json.loads((base / "model.safetensors.index.json").read_text())
    places = {name: shard for name, shard in index["weight_map"].items() if _layer(name) < layers}
    for name in {*places.values(), "tokenizer.json", "tokenizer_config.json"}:
        (folder / name).hardlink_to(base / name)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": places}))


def _layer(name: str) -> int:
    """Return the layer of a weight; -1 for what is no layer."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else -1
