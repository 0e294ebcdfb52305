"""Realign an adapter of Llama-3-8B shape with given masks, compared with reading and writing its files.

  python -m benchmarks.realign_8b [--layers 32 --rank 128 --dtype float32 --rounds 3 --work DIR]

Writes three random PEFT adapters (32 layers × 7 modules, rank 128: 336 M parameters each) and masks,
then times, alternately and as whole processes, (a) reading the three adapters and writing one with the
safetensors library and (b) `experiments.realign --masks`. Prints time and peak memory of (b) as
multiples of (a) and of the three adapters' bytes. A first round of both is not counted: it warms the file
cache and leaves the compiled programs that later rounds reuse (see ``nlsr_jax.commands.compiled``). Run time:
about 4 minutes; 10 GB of disk.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
from absl import app, flags

from benchmarks.limits import of_realignment, similarity_products, with_limit
from benchmarks.measure import append_result, define_flags, ratios, run_process
from benchmarks.shapes import SIZES
from nlsr_jax.commands import path_flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("layers", 32, "Decoder layers.")
flags.DEFINE_integer("rank", 128, "LoRA rank.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of the adapters.")
path_flags.define_output("work", None, "Folder for the files; by default a temporary folder.")
define_flags(rounds=3)

_PEER = """
import sys, ml_dtypes, safetensors.numpy as s  # ml_dtypes: NumPy then knows bfloat16
for path in sys.argv[1:4]: tensors = s.load_file(path)
s.save_file(tensors, sys.argv[4])
"""


def write_adapter(folder: pathlib.Path, rng, start=None) -> dict:
    """Write one random PEFT adapter, close to ``start`` if given."""
    import ml_dtypes
    from safetensors.numpy import save_file

    dtype = np.dtype(ml_dtypes.bfloat16 if FLAGS.dtype == "bfloat16" else FLAGS.dtype)
    tensors = {}
    for layer in range(FLAGS.layers):
        for path, (k, d) in SIZES.items():
            key = f"base_model.model.model.layers.{layer}.{path}"
            for name, shape in (("lora_A", (FLAGS.rank, k)), ("lora_B", (d, FLAGS.rank))):
                value = rng.standard_normal(shape, np.float32) * np.float32(0.01)
                name = f"{key}.{name}.weight"
                tensors[name] = (value if start is None else start[name] + value / 2).astype(dtype)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": FLAGS.rank,
        "lora_alpha": 2 * FLAGS.rank,
        "target_modules": sorted(path.split(".")[1] for path in SIZES),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def prepare(work: pathlib.Path) -> None:
    """Write the three adapters and the masks."""
    rng = np.random.default_rng(0)
    aligned = write_adapter(work / "aligned", rng)
    for name in ("finetuned", "weak"):
        write_adapter(work / name, rng, aligned)
    del aligned
    command = ["experiments.identify", "--aligned", f"{work}/aligned", "--weak", f"{work}/weak"]
    run_process([sys.executable, "-m", *command, "--method", "random", "--output", f"{work}/masks"])


def measure(work: pathlib.Path) -> None:
    """Run both alternately and print the ratios."""
    names = ("aligned", "finetuned", "weak")
    files = [str(work / name / "adapter_model.safetensors") for name in names]
    total = sum(pathlib.Path(file).stat().st_size for file in files)
    peer_command = [sys.executable, "-c", _PEER, *files, str(work / "copy.safetensors")]
    adapters = [argument for name in names for argument in (f"--{name}", str(work / name))]
    our_command = [sys.executable, "-m", "experiments.realign", *adapters, "--masks", f"{work}/masks"]
    our_command += ["--output", f"{work}/out", "--overwrite"]
    peer, ours = [], []
    for number in range(FLAGS.rounds + 1):
        pair = run_process(peer_command), run_process(our_command, XDG_CACHE_HOME=str(work / "cache"))
        print(f"round {number}: read and write {pair[0].seconds:.1f} s, realign {pair[1].seconds:.1f} s, "
              f"peak {pair[1].peak / total:.2f} x the three adapters")  # fmt: skip
        if number:
            peer.append(pair[0])
            ours.append(pair[1])
    seconds = ratios([run.seconds for run in peer], [run.seconds for run in ours])
    # Checking the lineage computes one more similarity of every module.
    products = similarity_products(SIZES.values(), FLAGS.rank, times=2 * FLAGS.layers)
    seconds = with_limit(seconds, of_realignment([*map(pathlib.Path, files)], work / "copy.safetensors", products))
    memory = ratios([total / 1e9] * len(ours), [run.peak / 1e9 for run in ours])
    kind = "" if FLAGS.dtype == "float32" else f"_{FLAGS.dtype}"
    for name, found, unit in (("time", seconds, "s"), ("memory", memory, "GB")):
        result = {**found, "dtype": FLAGS.dtype, "layers": FLAGS.layers}
        append_result(f"realign_8b_{name}{kind}", result, unit, FLAGS.results)
    print(f"time {1 / seconds['ratio']:.2f} x reading three adapters and writing one")
    print(f"peak memory {1 / memory['ratio']:.2f} x the three adapters ({total / 1e9:.2f} GB)")


def main(_) -> None:
    """Prepare the files and measure."""
    with tempfile.TemporaryDirectory(dir=FLAGS.work) as folder:
        prepare(pathlib.Path(folder))
        measure(pathlib.Path(folder))


if __name__ == "__main__":
    app.run(main)
