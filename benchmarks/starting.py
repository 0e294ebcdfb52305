"""Measure how long programs take to start and to compile.

  python -m benchmarks.starting [--rounds 3]

`cold_start`: whole processes of `experiments.realign --helpshort`, against importing torch, transformers and PEFT.
`first_line`: from the start of `experiments.realign` on the shipped tiny study to its first line of progress.
`compile_depth`: compiling the forward pass of a model with 4 decoder layers and of one with 64; layers are a loop
in the program, so depth costs little. Run time: a minute and a half on two cores.
"""

import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks.measure import append_result, define_flags, ratios, run_process

FLAGS = flags.FLAGS
SHALLOW, DEEP = 4, 64
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
_PEER = [sys.executable, "-c", "import torch, transformers, peft"]
_HELP = [sys.executable, "-m", "experiments.realign", "--helpshort"]


def cold_start(rounds: int) -> dict:
    """Time the help of the main command against the imports of the peers."""
    pairs = [(run_process(_PEER).seconds, run_help()) for _ in range(rounds + 1)][1:]
    return ratios([peer for peer, _ in pairs], [ours for _, ours in pairs])


def run_help() -> float:
    """Return the duration of printing the help."""
    started = time.perf_counter()
    done = subprocess.run(_HELP, capture_output=True, text=True, check=False)
    if "--calibration" not in done.stdout:
        raise RuntimeError(f"--helpshort printed no help:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def first_line() -> float:
    """Return the seconds from the start of a realignment on the shipped study to its first line of progress."""
    study = "checkpoints/tiny-llama3"
    command = [sys.executable, "-u", "-m", "experiments.realign", f"--base={study}/base", f"--aligned={study}/dpo"]
    command += [f"--weak={study}/sft", f"--finetuned={study}/finetuned_sst2"]
    with tempfile.TemporaryDirectory() as work:
        command += [f"--calibration={study}/calibration.jsonl", f"--output={work}/out"]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError("experiments.realign printed nothing")
            seconds = time.perf_counter() - started
            process.stdout.read()
        if process.returncode:
            raise RuntimeError(f"experiments.realign ended with {process.returncode}")
    return seconds


def compile_seconds(layers: int) -> float:
    """Return how long the forward pass of a model with this many layers takes to compile."""
    import jax
    import jax.numpy as jnp

    from nlsr_jax.architecture.config import parse_model_config
    from nlsr_jax.models.llama import Llama
    from nlsr_jax.training.initial import new_params

    model = Llama(parse_model_config(CONFIG | {"num_hidden_layers": layers}, "benchmark"))
    params = jax.eval_shape(lambda key: new_params(key, model), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    jax.clear_caches()
    started = time.perf_counter()
    jax.jit(lambda params, tokens: model.apply({"params": params}, tokens)).lower(params, tokens).compile()
    return time.perf_counter() - started


def compile_depth(rounds: int) -> dict:
    """Time the compilation of a shallow and of a deep model alternately; the shallow one is the peer."""
    pairs = [(compile_seconds(SHALLOW), compile_seconds(DEEP)) for _ in range(rounds + 1)][1:]
    return {**ratios([few for few, _ in pairs], [many for _, many in pairs]), "layers": [SHALLOW, DEEP]}


def main(_) -> None:
    """Measure, print and append the results."""
    results = {"cold_start": cold_start(FLAGS.rounds), "compile_depth": compile_depth(FLAGS.rounds)}
    results["first_line"] = {"ours": round(min(first_line() for _ in range(FLAGS.rounds)), 2)}
    for name, result in results.items():
        append_result(name, result, "s", FLAGS.results)
    print(f"help of experiments.realign: {results['cold_start']['ours']:.2f} s")
    print(f"first line of a realignment: {results['first_line']['ours']:.2f} s")
    print(f"compiling {DEEP} layers: {1 / results['compile_depth']['ratio']:.2f} x {SHALLOW} layers")


if __name__ == "__main__":
    define_flags(rounds=3)
    app.run(main)
