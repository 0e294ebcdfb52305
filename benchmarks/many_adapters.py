"""Generate with several adapters of one base: in one pass, against a separate call for each.

  python -m benchmarks.many_adapters [--adapters 8 --rows 4 --length 32 --new_tokens 16 --rank 16 --rounds 3]

A random base of 88 M parameters, float32. Compilation is excluded; the tokens are compared first. Run time: half a
minute on two cores.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.accelerator import random_adapter, random_params
from benchmarks.limits import Limit, forward_products, of_products, thin_products, with_limit
from benchmarks.measure import append_result, define_flags, in_turn
from nlsr_jax import generate
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.architecture.known import known_config
from nlsr_jax.models.llama import Llama

FLAGS = flags.FLAGS
SIZES = {
    "vocab_size": 8000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "num_kv_heads": 4,
    "head_dim": 64,
}


def limit(config: ModelConfig, adapters: int, rows: int, length: int, new_tokens: int, rank: int) -> Limit:
    """Return the limit of one pass for all adapters: its products, without attention.

    The products with the factors are counted as if all rows had one adapter.
    """
    count, steps = adapters * rows, new_tokens - 1
    base = forward_products(config, count * length, head_rows=count) + forward_products(config, count, times=steps)
    factors = thin_products(config, count * length, rank) + thin_products(config, count, rank, times=steps)
    return of_products(base + factors)


def run(
    config: ModelConfig, adapters: int, rows: int, length: int, new_tokens: int, rank: int, rounds: int
) -> dict:
    """Compare and measure.

    Args:
      config: configuration of the base.
      adapters, rows, length, new_tokens, rank: number of adapters, of prompts, of tokens per prompt and of new
        tokens, and the rank.
      rounds: number of rounds.

    Returns:
      Ratios of the seconds, and the share of equal tokens.
    """
    model = Llama(config)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_params(jax.random.key(0), model))
    found = [random_adapter(jax.random.key(i), config=config, rank=rank) for i in range(adapters)]
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (rows, length))
    call = functools.partial(generate, model, params, prompts, max_new_tokens=new_tokens)
    apart, together = (lambda: [call(adapter=adapter) for adapter in found]), (lambda: call(adapter=found))
    same = float(np.mean(np.stack(apart()) == np.asarray(together())))
    found = in_turn(rounds, apart, together)
    found = with_limit(found, limit(config, adapters, rows, length, new_tokens, rank))
    return {**found, "adapters": adapters, "rows": rows, "equal_tokens": same}


def main(_) -> None:
    """Measure, print and append the result."""
    config = dataclasses.replace(known_config("llama3_8b"), **SIZES)
    names = ("adapters", "rows", "length", "new_tokens", "rank", "rounds")
    result = run(config, **{name: FLAGS[name].value for name in names})
    append_result("many_adapters", result, "s", FLAGS.results)
    print(
        f"many adapters: {result['ratio']:.2f} x ({result['low']:.2f} to {result['high']:.2f}), apart "
        f"{result['peer']:.2f} s, at once {result['ours']:.2f} s"
    )


if __name__ == "__main__":
    flags.DEFINE_integer("adapters", 8, "Adapters.", lower_bound=1)
    flags.DEFINE_integer("rows", 4, "Prompts.", lower_bound=1)
    flags.DEFINE_integer("length", 32, "Tokens per prompt.", lower_bound=1)
    flags.DEFINE_integer("new_tokens", 16, "Tokens generated.", lower_bound=1)
    flags.DEFINE_integer("rank", 16, "Rank of the adapters.", lower_bound=1)
    define_flags(rounds=3)
    app.run(main)
