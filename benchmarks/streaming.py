r"""Realign on a base of 1.1 B parameters in memory and layer by layer: bytes, peak memory and time.

  python -m benchmarks.streaming --folder /tmp/base11 [--rows 8] [--dtype bfloat16] [--limit 1610612736]

Writes a random base of the shape of TinyLlama-1.1B (bfloat16, 2.2 GB, a shard for every layer), an adapter and
rows, runs ``nlsr realign`` by ``gain`` with its fixed share (a streamed base answers no prompts) once each way in a
process of its own, and compares the folders file by file. With --limit, the streamed run is repeated in a control
group of so many bytes (version 1 or 2; needs root).
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_hidden_layers": 22,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 64}
RANK = 8
SAME_BUT = ("realignment.json",)
"""Holds seconds, and that one of the runs was streamed."""


def save_base(folder: pathlib.Path, shape: dict[str, Any]) -> None:
    """Save a random base, one shard for what is no layer and one for every layer, and a tokenizer."""
    from nlsr_jax.architecture.config import parse_model_config
    from nlsr_jax.architecture.weights import weight_table
    from tests.tiny_base import save_tokenizer

    folder.mkdir(parents=True)
    save_tokenizer(folder)
    draw = np.random.default_rng(0)
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for weight in weight_table(parse_model_config(shape, "shape")):
        for name in weight.names:
            parts = name.split(".")
            shard = parts[2] if parts[1] == "layers" else "rest"
            shards.setdefault(f"model-{shard:0>5}.safetensors", {})[name] = weight.part
    for shard, parts in shards.items():
        save_file({name: _random(draw, shape) for name, shape in parts.items()}, folder / shard, {"format": "pt"})
    places = {name: shard for shard, parts in shards.items() for name in parts}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps(shape))


def _random(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, ml_dtypes.bfloat16)
    return (0.02 * draw.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)


def save_adapter(folder: pathlib.Path, base: pathlib.Path, shape: dict[str, Any], rank: int = RANK) -> None:
    """Save a random adapter of all projections."""
    from nlsr_jax.adapter import Adapter
    from nlsr_jax.architecture.config import parse_model_config
    from nlsr_jax.formats import peft

    config, draw = parse_model_config(shape, "shape"), np.random.default_rng(1)
    factors = {
        module: {
            "a": (draw.standard_normal((config.num_layers, rank, k), np.float32) / k**0.5),
            "b": 0.02 * draw.standard_normal((config.num_layers, d, rank), np.float32),
        }
        for module, (k, d) in config.projections().items()
    }
    peft.save_adapter(Adapter(factors, 2.0), folder, base_model_name_or_path=str(base))


def save_rows(path: pathlib.Path, count: int, length: int) -> None:
    """Save rows of so many words."""
    from tests.tiny_base import WORDS

    draw = np.random.default_rng(2)
    texts = (" ".join(draw.choice(WORDS, length // 2 - 1)) for _ in range(2 * count))
    rows = [{"prompt": next(texts), "response": next(texts)} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextlib.contextmanager
def group(limit: int) -> Iterator[pathlib.Path]:
    """Yield a control group of so many bytes."""
    root = pathlib.Path("/sys/fs/cgroup")
    first = (root / "memory").is_dir()
    folder = (root / "memory" if first else root) / f"streaming-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
        yield folder
    finally:
        folder.rmdir()


def run(folder: pathlib.Path, name: str, flags: list[str], into: pathlib.Path | None = None) -> dict[str, float]:
    """Run ``nlsr realign`` in a process of its own; returns its seconds, CPU seconds and peak bytes."""

    def enter() -> None:
        if into is not None:
            (into / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-m", "nlsr_jax", "realign", "--base", str(folder / "base")]
    command += ["--finetuned", str(folder / "adapter"), "--calibration", str(folder / "rows.jsonl"), "--overwrite"]
    command += ["--output", str(folder / name), *flags]
    start = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=enter)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name}: ended with status {status}")
    found = {"seconds": time.perf_counter() - start, "cpu_seconds": used.ru_utime + used.ru_stime}
    return {**found, "peak_bytes": used.ru_maxrss * 1024}


def floor(folder: pathlib.Path, flags: list[str]) -> int:
    """Return the peak bytes of the same run on a base of no size: interpreter, libraries, compiled programs."""
    place, shape = folder / "floor", {**SHAPE, **SMALL}
    if not (place / "base" / "config.json").exists():
        save_base(place / "base", shape)
        save_adapter(place / "adapter", place / "base", shape)
        shutil.copy(folder / "rows.jsonl", place)
    return int(run(place, "streamed", [*flags, "--stream"])["peak_bytes"])


def same(one: pathlib.Path, other: pathlib.Path) -> dict[str, bool]:
    """Compare two folders file by file."""
    names = sorted({path.name for folder in (one, other) for path in folder.iterdir() if path.is_file()})
    return {
        name: (one / name).read_bytes() == (other / name).read_bytes() for name in names if name not in SAME_BUT
    }


def bound(rows: int, length: int, dtype: str, fixed: int) -> dict[str, int]:
    """Return what the streamed run may take.

    The small adapter's copies have no part of their own: embedding, logits and layers are not in memory at once.
    """
    from nlsr_jax.architecture.config import parse_model_config
    from nlsr_jax.architecture.weights import weight_table

    config, size = parse_model_config(SHAPE, "shape"), np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize
    table = weight_table(config)
    layer = sum(int(np.prod(w.shape[1:])) for w in table if w.path[0] == "layers") * size
    end = config.vocab_size * config.hidden_size * size
    inputs = (config.num_layers + 1) * rows * length * config.hidden_size * size
    logits = 2 * 4 * rows * length * config.vocab_size
    parts = {
        "3 layers": 3 * layer,
        "embedding": end,
        "layer inputs": inputs,
        "logits": logits,
        "floor": fixed,
    }
    return {**parts, "bound": sum(parts.values())}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--only", choices=("memory", "streamed", "limited"))
    args = parser.parse_args()
    folder = args.folder
    if not (folder / "base" / "config.json").exists():
        save_base(folder / "base", SHAPE)
        save_adapter(folder / "adapter", folder / "base", SHAPE)
    save_rows(folder / "rows.jsonl", args.rows, args.length)
    flags = ["--batch_size", str(args.batch_size), "--dtype", args.dtype, "--norefine", "--answers", "rows"]
    found: dict[str, object] = {"floor": floor(folder, flags)}
    found["bound"] = bound(args.batch_size, args.length, args.dtype, int(str(found["floor"])))
    if args.only in (None, "memory"):
        found["memory"] = run(folder, "memory", flags)
    if args.only in (None, "streamed"):
        found["streamed"] = run(folder, "streamed", [*flags, "--stream"])
    if args.limit and args.only in (None, "limited"):
        with group(args.limit) as place:
            found["limited"] = run(folder, "limited", [*flags, "--stream"], place)
    outputs = [folder / name for name in ("memory", "streamed", "limited") if (folder / name).is_dir()]
    found["same"] = {f"{a.name} {b.name}": same(a, b) for a, b in itertools.pairwise(outputs)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
