"""Adapters as trainings make them: A random and hardly moved, B from zero."""

import dataclasses

import numpy as np

from nlsr_jax.adapter import Adapter

SIZES = {"q_proj": (64, 64), "v_proj": (64, 32), "down_proj": (96, 64)}


def start(seed, *, rank=8, layers=4, sizes=SIZES):
    """A new adapter: A random, B zero, as trainers begin."""
    rng = np.random.default_rng(seed)
    factors = {
        module: {
            "a": rng.uniform(-1, 1, (layers, rank, k)).astype(np.float32) / k**0.5,
            "b": np.zeros((layers, d, rank), np.float32),
        }
        for module, (k, d) in sizes.items()
    }
    return Adapter(factors, 2.0)


def trained(seed, adapter, size=1.0):
    """What a training leaves: A hardly moved, B moved by ``size`` in few directions."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        a, b = leaf["a"], leaf["b"]
        few = rng.normal(size=(*b.shape[:2], 2)) @ rng.normal(size=(b.shape[0], 2, b.shape[2]))
        step = 0.01 * size * (0.5 * few + rng.normal(size=b.shape))
        return {"a": (a + 0.005 * rng.normal(size=a.shape)).astype(np.float32), "b": (b + step).astype(np.float32)}

    return dataclasses.replace(adapter, factors={m: move(leaf) for m, leaf in adapter.factors.items()})
