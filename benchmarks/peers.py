"""Forward pass, LoRA training step and greedy generation against transformers and PEFT.

  python -m benchmarks.peers [--batch 16 --length 128 --new_tokens 64 --rank 16 --rounds 5]

A random Llama of 4.6 M parameters and a LoRA adapter on all seven projections are written in Hugging Face and PEFT
format, and both sides read them: the same float32 weights, the same tokens, all cores, alternating in one process.
Compilation is excluded on both sides: each runs once before it is timed. Logits, losses and generated tokens are
compared first. Run time: about a minute on two cores.
"""

import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.limits import (
    Limit,
    attention_products,
    forward_products,
    merge_products,
    of_products,
    training_products,
    with_limit,
)
from benchmarks.measure import append_result, define_flags, in_turn
from nlsr_jax.architecture.config import ModelConfig

FLAGS = flags.FLAGS
VOCABULARY = 3200
_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_RATE = 1e-4


class Shapes(NamedTuple):
    """Sizes: rows, tokens per row, tokens generated, rank of the adapter."""

    batch: int
    length: int
    new_tokens: int
    rank: int


def write_models(folder: pathlib.Path, rank: int) -> None:
    """Write the base to ``folder/base`` and the adapter to ``folder/adapter``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        eos_token_id=None,
    )
    base = LlamaForCausalLM(config)
    base.save_pretrained(folder / "base")
    adapted = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_MODULES))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.02)
    adapted.save_pretrained(folder / "adapter")


class Peer:
    """transformers and PEFT on the written model."""

    def __init__(self, folder: pathlib.Path, tokens: np.ndarray):
        import torch
        from peft import PeftModel
        from transformers import LlamaForCausalLM

        self._torch = torch
        base = LlamaForCausalLM.from_pretrained(folder / "base")
        self.model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)
        self.tokens = torch.from_numpy(tokens).long()
        trained = [value for value in self.model.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=0.0)

    def logits(self) -> np.ndarray:
        """Return the logits of all positions."""
        with self._torch.inference_mode():
            return self.model(input_ids=self.tokens).logits.numpy()

    def step(self) -> float:
        """Take an optimiser step on next-token prediction; return the loss before it."""
        self._optimizer.zero_grad()
        loss = self.model(input_ids=self.tokens, labels=self.tokens).loss
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def generate(self, length: int, new_tokens: int) -> np.ndarray:
        """Continue the first tokens of all rows greedily."""
        prompts = self.tokens[:, :length]
        options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        with self._torch.inference_mode():
            made = self.model.generate(
                input_ids=prompts, attention_mask=self._torch.ones_like(prompts), pad_token_id=0, **options
            )
        return made[:, length:].numpy()


class Ours:
    """nlsr_jax on the same files."""

    def __init__(self, folder: pathlib.Path, tokens: np.ndarray):
        import optax

        from nlsr_jax import load_adapter
        from nlsr_jax.models import load_model
        from nlsr_jax.training.losses import Rows
        from nlsr_jax.training.settings import TrainingSettings
        from nlsr_jax.training.step import TrainState, adapter_forward, make_step

        self.model, self.params = load_model(folder / "base")
        self.adapter = load_adapter(folder / "adapter", self.model.config)
        self.tokens = jnp.asarray(tokens, jnp.int32)
        optimizer = optax.adamw(_RATE, weight_decay=0.0)
        settings = TrainingSettings("sft", _RATE, 1, len(tokens), max_length=tokens.shape[1])
        self._step = make_step(adapter_forward(self.model, self.adapter), optimizer, settings)
        # The step donates its state's memory, but the adapter must remain.
        factors = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), dict(self.adapter.factors))
        self._state = TrainState(jnp.zeros((), jnp.int32), factors, optimizer.init(factors))
        count = len(tokens)
        self._rows = Rows(
            tokens=tokens[:, None].astype(np.int32),
            response=np.ones((count, 1, tokens.shape[1]), bool),
            lengths=np.full((count, 1), tokens.shape[1]),
            reference=np.zeros((count, 1), np.float32),
            desirable=np.ones(count, bool),
        )

    def logits(self) -> jax.Array:
        """Return the logits of all positions."""
        from nlsr_jax.models import logits

        return logits(self.model, self.params, self.tokens, adapter=self.adapter)

    def step(self) -> float:
        """Take an optimiser step on next-token prediction; return the loss before it."""
        self._state, metrics = self._step(self._state, self.params, self._rows)
        return float(jax.block_until_ready((self._state, metrics))[1]["loss"])

    def generate(self, length: int, new_tokens: int) -> jax.Array:
        """Continue the first tokens of all rows greedily."""
        from nlsr_jax.models import generate

        return generate(
            self.model, self.params, self.tokens[:, :length], adapter=self.adapter, max_new_tokens=new_tokens
        )


def compare(peer: Peer, ours: Ours, shapes: Shapes) -> dict[str, float]:
    """Return the differences: logits, the loss of three steps, and the share of equal generated tokens."""
    apart = float(np.max(np.abs(peer.logits() - np.asarray(ours.logits()))))
    half = shapes.length // 2
    same = np.mean(peer.generate(half, shapes.new_tokens) == np.asarray(ours.generate(half, shapes.new_tokens)))
    losses = [abs(peer.step() - ours.step()) for _ in range(3)]
    return {"logits": apart, "loss": max(losses), "equal_tokens": float(same)}


def limits(config: ModelConfig, shapes: Shapes) -> dict[str, Limit]:
    """Return the limits of the three: their products, in generation without attention.

    Where it costs less than products with its factors, the adapter is merged into the weights.
    """
    batch, length, new_tokens, rank = shapes
    merge = merge_products(config, rank)
    prompts = forward_products(config, batch * (length // 2), head_rows=batch)
    steps = forward_products(config, batch, times=new_tokens - 1)
    whole = forward_products(config, batch * length) + attention_products(config, batch, length)
    return {
        "forward": of_products(merge + whole),
        "train_step": of_products(training_products(config, batch, length, rank)),
        "generation": of_products(merge + prompts + steps),
    }


def run(shapes: Shapes, rounds: int, work: str | None = None) -> dict[str, dict]:
    """Compare, then measure; return a result for each of the three.

    Args:
      shapes: the sizes.
      rounds: number of rounds.
      work: folder of the temporary files.
    """
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, (shapes.batch, shapes.length))
    with tempfile.TemporaryDirectory(dir=work) as folder:
        write_models(pathlib.Path(folder), shapes.rank)
        peer, ours = Peer(pathlib.Path(folder), tokens), Ours(pathlib.Path(folder), tokens)
    apart = compare(peer, ours, shapes)
    half = shapes.length // 2
    calls: dict[str, tuple[Callable, Callable, int]] = {
        "forward": (peer.logits, ours.logits, shapes.batch * shapes.length),
        "train_step": (peer.step, ours.step, shapes.batch * shapes.length),
        "generation": (
            lambda: peer.generate(half, shapes.new_tokens),
            lambda: ours.generate(half, shapes.new_tokens),
            shapes.batch * shapes.new_tokens,
        ),
    }
    results, least = {}, limits(ours.model.config, shapes)
    for name, (theirs, mine, count) in calls.items():
        found = with_limit(in_turn(rounds, theirs, mine), least[name])
        speeds = {f"{who}_tokens_per_second": round(count / found[who]) for who in ("ours", "peer")}
        results[name] = {**found, **speeds, **shapes._asdict(), "apart": apart}
    return results


def main(_) -> None:
    """Measure, print and append the results."""
    shapes = Shapes(FLAGS.batch, FLAGS.length, FLAGS.new_tokens, FLAGS.rank)
    for name, result in run(shapes, FLAGS.rounds).items():
        append_result(name, result, "s", FLAGS.results)
        print(
            f"{name}: {result['ratio']:.2f} x ({result['low']:.2f} to {result['high']:.2f}), transformers "
            f"{result['peer_tokens_per_second']} tokens/s, ours {result['ours_tokens_per_second']}"
        )


if __name__ == "__main__":
    flags.DEFINE_integer("batch", 16, "Rows.", lower_bound=1)
    flags.DEFINE_integer("length", 128, "Tokens per row; generation starts from half of them.", lower_bound=2)
    flags.DEFINE_integer("new_tokens", 64, "Tokens generated.", lower_bound=1)
    flags.DEFINE_integer("rank", 16, "Rank of the adapter.", lower_bound=1)
    define_flags(rounds=5)
    app.run(main)
