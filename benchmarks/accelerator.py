"""Llama-3-8B's shape on one accelerator: identification, LoRA training, generation and realignment.

  python -m benchmarks.accelerator          # a GPU of 80 GB or more
  python -m benchmarks.accelerator --toy    # a small version, on any device

No downloads: weights are random bfloat16 arrays on the device; the adapters (rank 128 on all projections) and the
statistics are float32. Each part is compared with its roofline: the seconds that its floating-point operations or
its bytes need at the device's published peak (`--tflops`, `--bandwidth` for an unknown device; the toy run assumes
1 of each, so its ratios mean nothing). Compilation is excluded: everything runs once before it is timed. Samples of
all results are compared with float64 on the host. Lines are appended to `accelerator.jsonl`, those of the toy run
to `toy.jsonl`.
"""

import dataclasses
import functools
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.measure import append_result, define_flags, seconds
from nlsr_jax import Adapter, amplify, collect_statistics, generate, identify, realign
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.architecture.known import known_config
from nlsr_jax.errors import InputError
from nlsr_jax.models.fused_attention import ATTENTION, check_attention
from nlsr_jax.models.llama import Llama
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.planning import size_of
from nlsr_jax.random_streams import stream
from nlsr_jax.training.losses import Rows
from nlsr_jax.training.optimizer import make_optimizer
from nlsr_jax.training.settings import TrainingSettings
from nlsr_jax.training.step import TrainState, adapter_forward, make_step

FLAGS = flags.FLAGS
PEAKS = {"A100": (312, 2.039), "H100": (989, 3.35), "H200": (989, 4.8), "B200": (2250, 8.0)}
"""Dense bfloat16 TFLOP/s and memory bandwidth in TB/s. Source: NVIDIA's data sheets of the SXM modules."""
SPARSITY, BETA = 0.8, 0.9
UNITS = {"errors": "", "memory": "GB"}
"""Units of results that are not in seconds."""


class Sizes(NamedTuple):
    """Sizes of the benchmark.

    Attributes:
      config: configuration of the model.
      rank: rank of the adapters.
      rows, length, batch: sizes of the identification.
      train_rows, train_length: sizes of a training step.
      prompts, prompt_length, new_tokens: sizes of the generation.
    """

    config: ModelConfig
    rank: int
    rows: int = 2000
    length: int = 256
    batch: int = 16
    train_rows: int = 8
    train_length: int = 1024
    prompts: int = 32
    prompt_length: int = 128
    new_tokens: int = 128


class Peak(NamedTuple):
    """Peak rates of the device: floating-point operations and bytes per second."""

    flops: float
    bandwidth: float


def sizes(toy: bool) -> Sizes:
    """Return the sizes of a full or toy run."""
    config = known_config("llama3_8b")
    if not toy:
        return Sizes(config, 128)
    small = {"num_layers": 2, "hidden_size": 64, "intermediate_size": 160, "num_heads": 4, "num_kv_heads": 2}
    config = dataclasses.replace(config, vocab_size=300, head_dim=16, **small)
    return Sizes(config, 8, 20, 16, 8, 4, 32, 4, 8, 8)


def peak(kind: str, tflops: float | None, bandwidth: float | None) -> Peak:
    """Return the peak of a device by its name; given values take precedence.

    Raises:
      ValueError: if the device is unknown and no values are given.
    """
    known = next((values for name, values in PEAKS.items() if name in kind), (None, None))
    found = [given or value for given, value in zip((tflops, bandwidth), known, strict=True)]
    if None in found:
        raise ValueError(f"unknown device {kind}: give its bfloat16 --tflops and its --bandwidth in TB/s")
    return Peak(found[0] * 1e12, found[1] * 1e12)


def random_params(key: jax.Array, model: Llama):
    """Return random bfloat16 parameters, made leaf by leaf."""
    shapes = jax.eval_shape(model.init, key, jnp.zeros((1, 2), jnp.int32))["params"]

    @functools.partial(jax.jit, static_argnames=("shape", "deviation"))
    def draw(key, *, shape, deviation):
        return deviation * jax.random.normal(key, shape, jnp.bfloat16)

    def one(path, leaf):
        names = [part.key for part in path]
        if names[-1] == "scale":
            return jnp.ones(leaf.shape, jnp.bfloat16)
        return draw(stream(key, "/".join(names)), shape=leaf.shape, deviation=leaf.shape[-1] ** -0.5)

    return jax.tree.map_with_path(one, shapes)


@functools.partial(jax.jit, static_argnames=("config", "rank"))
def random_adapter(key: jax.Array, *, config: ModelConfig, rank: int) -> Adapter:
    """Return a random float32 adapter on all projections."""
    factors = {}
    for module, (k, d) in config.projections().items():
        a, b = (stream(key, f"{module} {factor}") for factor in "ab")
        factors[module] = {
            "a": k**-0.5 * jax.random.normal(a, (config.num_layers, rank, k)),
            "b": 0.1 * rank**-0.5 * jax.random.normal(b, (config.num_layers, d, rank)),
        }
    return Adapter(factors, 2.0)


def projection_flops(config: ModelConfig, rank: int) -> tuple[int, int]:
    """Return the operations per token in the weights of all layers, and in the adapter's factors."""
    shapes = config.projections().values()
    weights = 2 * sum(k * d for k, d in shapes)
    factors = 2 * sum(rank * (k + d) for k, d in shapes)
    return weights * config.num_layers, factors * config.num_layers


def attention_flops(config: ModelConfig, length: int) -> int:
    """Return the operations per token in causal attention, averaged over a row."""
    return config.num_layers * 2 * 2 * config.num_heads * config.head_dim * (length + 1) // 2


class Bench:
    """The model, its adapters, and the measurements on them."""

    def __init__(self, sizes: Sizes, attention: str):
        self.sizes, config = sizes, sizes.config
        self.key = jax.random.key(0)
        self.model, self.labels = Llama(config, attention=attention), {"attention": attention}
        self.params = random_params(stream(self.key, "base"), self.model)
        self.weak, self.aligned, self.finetuned = (
            random_adapter(stream(self.key, name), config=config, rank=sizes.rank)
            for name in ("weak", "aligned", "finetuned")
        )
        self.reference = amplify(self.aligned, self.weak, beta=BETA)

    def tokens(self, name: str, *shape: int) -> np.ndarray:
        """Draw tokens."""
        found = jax.random.randint(stream(self.key, name), shape, 0, self.sizes.config.vocab_size, jnp.int32)
        return np.asarray(found)

    def batches(self, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return batches of rows whose second half is the response."""
        s = self.sizes
        response = np.broadcast_to(np.arange(s.length) >= s.length // 2, (s.batch, s.length))
        return [(self.tokens(f"batch {i}", s.batch, s.length), response) for i in range(count)]

    def statistics(self, count: int) -> Statistics:
        """Collect the statistics of ``count`` batches."""
        return collect_statistics(self.model, self.params, self.reference, self.batches(count))

    def identification(self) -> tuple[float, float, dict]:
        """Time statistics and masks of all rows; return seconds, operations and the masks' share of the time."""
        s = self.sizes
        jax.block_until_ready(self._identify(self.statistics(2)))
        count = -(-s.rows // s.batch)
        started = time.perf_counter()
        found = jax.block_until_ready(self.statistics(count))
        between = time.perf_counter()
        jax.block_until_ready(self._identify(found))
        ended = time.perf_counter()
        weights, factors = projection_flops(s.config, s.rank)
        gram = 2 * s.rank**2 * len(s.config.projections()) * s.config.num_layers
        token = weights + factors + gram + attention_flops(s.config, s.length)
        apart = {"masks": round(ended - between, 3), "tokens": count * s.batch * s.length, **self.labels}
        return ended - started, float(token * count * s.batch * s.length), apart

    def _identify(self, found: Statistics):
        return identify(self.reference, found, sparsity=SPARSITY)

    def training(self, rounds: int) -> tuple[float, float, dict]:
        """Time an optimiser step; return seconds and the model's operations, without remat's recomputation."""
        s = self.sizes
        settings = TrainingSettings(
            "sft", 1e-4, 1, s.train_rows, max_length=s.train_length, remat=True, compute_dtype="bfloat16"
        )
        optimizer = make_optimizer(settings, 100)
        model = dataclasses.replace(self.model, remat=True)
        step = make_step(adapter_forward(model, self.finetuned, jnp.bfloat16), optimizer, settings)
        factors = jax.tree.map(jnp.copy, dict(self.finetuned.factors))
        state = TrainState(jnp.zeros((), jnp.int32), factors, optimizer.init(factors))
        rows = Rows(
            tokens=self.tokens("training", s.train_rows, 1, s.train_length),
            response=np.ones((s.train_rows, 1, s.train_length), bool),
            lengths=np.full((s.train_rows, 1), s.train_length),
            reference=np.zeros((s.train_rows, 1), np.float32),
            desirable=np.ones(s.train_rows, bool),
        )
        times, losses = [], []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            state, metrics = jax.block_until_ready(step(state, self.params, rows))
            times.append(time.perf_counter() - started)
            losses.append(float(metrics["loss"]))
        weights, factors = projection_flops(s.config, s.rank)
        head = 2 * s.config.hidden_size * s.config.vocab_size
        token = 2 * (weights + head) + 3 * (factors + attention_flops(s.config, s.train_length))
        apart = {"tokens": s.train_rows * s.train_length, "first_loss": losses[0], "last_loss": losses[-1]}
        apart |= self.labels
        return statistics.median(times[1:]), float(token * s.train_rows * s.train_length), apart

    def generation(self, rounds: int) -> tuple[float, float, dict]:
        """Time greedy generation; return seconds and the bytes read: weights and cache at every step."""
        s = self.sizes
        prompts = self.tokens("prompts", s.prompts, s.prompt_length)
        call = functools.partial(
            generate, self.model, self.params, prompts, adapter=self.finetuned, max_new_tokens=s.new_tokens
        )
        first = np.asarray(call())
        spent = statistics.median(seconds(call) for _ in range(rounds))
        slots = s.config.num_layers * s.prompts * s.config.num_kv_heads * s.config.head_dim * 2 * 2
        cache = slots * sum(range(s.prompt_length, s.prompt_length + s.new_tokens))
        read = (size_of(self.params) + size_of(self.finetuned)) * s.new_tokens + cache
        same = bool(np.array_equal(first, np.asarray(call())))
        return spent, float(read), {"tokens": s.prompts * s.new_tokens, "repeats": same, **self.labels}

    def realignment(self, rounds: int) -> tuple[float, float, dict]:
        """Time the realignment of the adapter on the device; return seconds and the minimum bytes moved.

        Adapters and masks are read for the similarities and again for the transplant, and one adapter is written.
        """
        masks = jax.block_until_ready(self._identify(self.statistics(1)))
        call = functools.partial(realign, self.key, self.finetuned, self.reference, masks)
        jax.block_until_ready(call())
        spent = statistics.median(seconds(call) for _ in range(rounds))
        adapters = size_of(self.finetuned) + size_of(self.reference)
        return spent, float(2 * (adapters + size_of(masks)) + size_of(self.finetuned)), {}

    def errors(self) -> dict[str, float]:
        """Compare samples with float64 on the host.

        Returns:
          ``gram``: relative error of the first layer's Gram matrix of ``q_proj``, whose inputs are known without
          the model; ``masks``: share of its entries that differ from a full sort of the float64 scores;
          ``similarity``: its error; ``transplant``: number of entries that are not those of the right adapter.
        """
        s = self.sizes
        (tokens, response), *_ = self.batches(1)
        found = self.statistics(1)
        inputs = np.asarray(self.params["embed"], np.float64)[tokens[response]]
        inputs /= np.sqrt((inputs**2).mean(-1, keepdims=True) + s.config.eps)
        leaf = {f: np.asarray(x[0], np.float64) for f, x in self.reference.factors["q_proj"].items()}
        z = inputs.astype(jnp.bfloat16).astype(np.float64) @ leaf["a"].T
        gram = z.T @ z
        masks = self._identify(found)
        result = realign(self.key, self.finetuned, self.reference, masks)
        masked = np.asarray(masks["q_proj"]["a"][0])
        expected = _top(_projected(leaf["a"], np.asarray(found.root["q_proj"][0], np.float64)), masked.sum())
        wrong = 0
        for module, values in result.adapter.factors.items():
            for factor, entries in values.items():
                taken = masks[module][factor] & ~result.pruned[module][:, None, None]
                reference, finetuned = (one.factors[module][factor] for one in (self.reference, self.finetuned))
                wrong += int(jnp.sum(entries != jnp.where(taken, reference, finetuned)))
        return {
            "gram": float(np.linalg.norm(np.asarray(found.gram["q_proj"][0]) - gram) / np.linalg.norm(gram)),
            "masks": float(np.mean(masked != expected)),
            "similarity": abs(float(result.similarity["q_proj"][0]) - self._cosine(masks)),
            "transplant": wrong,
        }

    def _cosine(self, masks) -> float:
        """Return the cosine of the masked products of the first layer's ``q_proj`` in float64."""
        products = []
        for adapter in (self.reference, self.finetuned):
            leaf = {
                f: np.where(np.asarray(masks["q_proj"][f][0]), np.asarray(x[0], np.float64), 0)
                for f, x in adapter.factors["q_proj"].items()
            }
            products.append(leaf["b"] @ leaf["a"])
        first, second = products
        return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def _projected(weight: np.ndarray, root: np.ndarray) -> np.ndarray:
    top = np.linalg.svd(root)[2][: max(1, round(len(root) * (1 - SPARSITY)))]
    return np.abs(top.T @ (top @ weight))


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    kept = np.zeros(scores.size, bool)
    kept[np.argsort(-scores, axis=None, kind="stable")[:count]] = True
    return kept.reshape(scores.shape)


def run(sizes: Sizes, limit: Peak, rounds: int, attention: str) -> dict[str, dict]:
    """Measure all parts.

    Args:
      sizes: sizes of the benchmark.
      limit: peak rates of the device.
      rounds: repetitions of the short parts.
      attention: attention of the model.

    Returns:
      A result for each part: ``ours`` and ``roofline`` in seconds, ``ratio`` of roofline and ours (for training the
      model FLOP/s utilisation), and details; ``errors``; and ``memory`` in GB if the device reports it.
    """
    bench = Bench(sizes, attention)
    results: dict[str, dict] = {"errors": bench.errors()}
    parts = {
        "identification": (bench.identification, limit.flops),
        "training": (functools.partial(bench.training, rounds), limit.flops),
        "generation": (functools.partial(bench.generation, rounds), limit.bandwidth),
        "realignment": (functools.partial(bench.realignment, rounds), limit.bandwidth),
    }
    for name, (measure, speed) in parts.items():
        spent, amount, details = measure()
        if "tokens" in details:
            details["tokens_per_second"] = round(details["tokens"] / spent)
        bound = amount / speed
        results[name] = {"ours": round(spent, 6), "roofline": bound, "ratio": bound / spent, **details}
    memory = jax.devices()[0].memory_stats()
    if memory:
        results["memory"] = {"peak": memory["peak_bytes_in_use"] / 1e9}
    return results


def choose_attention(given: str | None, config: ModelConfig) -> str:
    """Return the requested attention, or fused attention if this device supports it for a model.

    Raises:
      InputError: if the requested attention is not supported.
    """
    try:
        check_attention(given or "fused", config, jnp.bfloat16)
    except InputError:
        if given:
            raise
        return "plain"
    return given or "fused"


def main(_) -> None:
    """Measure, print and append the results."""
    kind = jax.devices()[0].device_kind
    try:
        unknown = 1.0 if FLAGS.toy else None
        limit = peak(kind, FLAGS.tflops or unknown, FLAGS.bandwidth or unknown)
        attention = choose_attention(FLAGS.attention, sizes(FLAGS.toy).config)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    for name, result in run(sizes(FLAGS.toy), limit, FLAGS.rounds, attention).items():
        file = "toy.jsonl" if FLAGS.toy else "accelerator.jsonl"
        append_result(f"accelerator_{name}", result, UNITS.get(name, "s"), FLAGS.results, file)
        print(f"{name}: " + ", ".join(f"{key} {_short(value)}" for key, value in result.items()), flush=True)


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    flags.DEFINE_bool("toy", False, "Run a small version, to check that everything works.")
    flags.DEFINE_enum("attention", None, ATTENTION, "Attention of the model; by default fused if supported.")
    flags.DEFINE_float("tflops", None, "Peak of the device in bfloat16 TFLOP/s.", lower_bound=0)
    flags.DEFINE_float("bandwidth", None, "Peak of its memory in TB/s.", lower_bound=0)
    define_flags(rounds=5)
    app.run(main)
