"""Small things to train: a bigram model that costs nothing, and a Llama of two layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import MODULES, Adapter
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.architecture.rope import Rope
from nlsr_jax.data.batching import Packed, pack
from nlsr_jax.data.examples import Encoded
from nlsr_jax.models.llama import Llama
from nlsr_jax.training.initial import new_params
from nlsr_jax.training.losses import REFERENCE, TEXTS, Rows
from nlsr_jax.training.settings import TrainingSettings

VOCABULARY = 23
CONFIG = ModelConfig(
    family="llama",
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    eps=1e-5,
    rope=Rope(),
)


def bigram(trainable, frozen, tokens):
    """A forward pass whose logits depend on the token before alone."""
    logits = trainable["w"][tokens[:, :-1]] + frozen["bias"]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]


bigram.takes_prefix = False


def bigram_arrays(seed=0):
    """``(trainable, frozen)`` of ``bigram``."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)
    return {"w": w}, {"bias": rng.normal(size=VOCABULARY).astype(np.float32)}


def make_packed(objective, count=11, *, longest=14, seed=0) -> Packed:
    """Random rows with as many texts as the objective takes; the response begins at 1 or later."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        lengths = rng.integers(3, longest + 1, TEXTS[objective])
        texts = [rng.integers(1, VOCABULARY, length).astype(np.int32) for length in lengths]
        rows.append(tuple(Encoded(ids, int(rng.integers(1, len(ids) - 1))) for ids in texts))
    return pack(rows)


def make_rows(objective, count=8, *, length=14, seed=0) -> Rows:
    """A batch of random rows, padded on the right with 0."""
    packed = make_packed(objective, count, longest=length, seed=seed)
    shape = (count, TEXTS[objective], length)
    position = np.arange(length)
    inside = position < packed.lengths[..., None]
    source = np.minimum(packed.first[..., None] + position, len(packed.ids) - 1)
    rng = np.random.default_rng(seed + 1)
    reference = rng.normal(-30, 3, shape[:2]) if objective in REFERENCE else np.zeros(shape[:2])
    return Rows(
        tokens=np.where(inside, packed.ids[source], 0).astype(np.int32),
        response=inside & (position >= packed.starts[..., None]),
        lengths=packed.lengths,
        reference=reference.astype(np.float32),
        desirable=rng.random(count) < 0.5,
    )


def fill_up(rows: Rows, count: int) -> Rows:
    """The rows and ``count`` fillers behind them, as the loop makes them; their reference is 0."""

    def longer(leaf):
        return np.concatenate([leaf, np.zeros((count, *leaf.shape[1:]), leaf.dtype)])

    return jax.tree.map(longer, rows)


def llama(*, seed=0, tied=False):
    """``(model, params)`` of a Llama of two layers, drawn without compiling anything."""
    model = Llama(dataclasses.replace(CONFIG, tied=tied))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        middle = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(middle, 0.2, leaf.shape), jnp.float32)

    return model, jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(lambda: new_params(jax.random.key(0), model))
    )


FEW = ("q_proj", "down_proj")
"""Modules of an adapter for tests that need not train all seven: less to compile."""


def adapter(*, seed=0, rank=4, modules=MODULES) -> Adapter:
    """An adapter in the middle of its training: no factor is zero."""
    rng = np.random.default_rng(seed)
    factors = {
        module: {
            "a": jnp.asarray(rng.normal(0, 0.2, (CONFIG.num_layers, rank, k)), jnp.float32),
            "b": jnp.asarray(rng.normal(0, 0.2, (CONFIG.num_layers, d, rank)), jnp.float32),
        }
        for module, (k, d) in CONFIG.projections().items()
        if module in modules
    }
    return Adapter(factors, 2.0)


def settings(objective, **changes) -> TrainingSettings:
    """Settings of a run that takes a moment."""
    given = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 4, "max_length": 14, "one_length": True}
    return TrainingSettings(objective=objective, **{**given, **changes})
