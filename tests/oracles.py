"""Float64 NumPy oracles: the published formulas, written out with explicit activations and products."""

import numpy as np


def random_adapter(seed, *, layers=3, rank=8, sizes=None, scaling=2.0, dtype=np.float32):
    """An adapter with standard normal factors; ``sizes`` is ``{module: (k, d)}``."""
    from nlsr_jax.adapter import Adapter

    rng = np.random.default_rng(seed)
    sizes = sizes or {"q_proj": (24, 24), "v_proj": (24, 12), "down_proj": (40, 24)}
    factors = {
        module: {
            "a": rng.normal(size=(layers, rank, k)).astype(dtype),
            "b": rng.normal(size=(layers, d, rank)).astype(dtype),
        }
        for module, (k, d) in sizes.items()
    }
    return Adapter(factors, scaling)


def mixed(first, second, weight):
    """``first + weight · second``, factor by factor: an adapter that descends from ``first``."""
    import jax

    return jax.tree.map(lambda x, y: x + np.float32(weight) * y, first, second)


def activations(seed, adapter, positions, decay=0.0):
    """Module inputs ``[L, n, k]`` whose spectrum falls by ``exp(-decay)`` a direction."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for module, leaf in adapter.factors.items():
        layers, _, k = leaf["a"].shape
        x = rng.normal(size=(layers, positions, k))
        turn = np.linalg.qr(rng.normal(size=(layers, k, k)))[0]
        inputs[module] = ((x * np.exp(-decay * np.arange(k))) @ turn).astype(np.float32)
    return inputs


def project(weight, inputs, kept):
    """``U Uᵀ W`` with U the first left singular vectors of ``W X``; inputs ``[n, k]``."""
    weight, inputs = np.float64(weight), np.float64(inputs)
    u = np.linalg.svd(weight @ inputs.T, full_matrices=False)[0][:, :kept]
    return u @ (u.T @ weight)


def top_mask(scores, count):
    """The ``count`` largest by a stable full sort: ties in favour of the smaller index."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def mask(scores, sparsity, granularity):
    """Mask of one factor at row or tensor granularity."""
    if granularity == "tensor":
        return top_mask(scores, round((1 - sparsity) * scores.size))
    return np.stack([top_mask(row, round((1 - sparsity) * row.size)) for row in scores])


def cosine(b1, a1, b2, a2):
    """Cosine of two full products, 0 where one is zero."""
    first, second = (np.float64(b1) @ np.float64(a1)).ravel(), (np.float64(b2) @ np.float64(a2)).ravel()
    norm = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / norm) if norm > 0 else 0.0
