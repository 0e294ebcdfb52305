"""Identification, masks and similarity of one Llama-3-8B layer against the published algorithm in PyTorch.

  python -m benchmarks.hot_paths [--rank 128 --positions 4096 --share 1 --rounds 3]

Both get the same activations, factors and scores and alternate in one process, with all cores; compilation is
excluded. Results are compared first: projections and similarities with float64, masks entry for entry. (The peer's
similarities are off by up to 0.01, because a norm of 59 million float32 squares drifts that far.) Run time: a
minute and a half on two cores, 4 GB of memory.
"""

import collections
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from benchmarks.limits import (
    Limit,
    Product,
    of_bytes,
    of_products,
    projection_products,
    similarity_products,
    with_limit,
)
from benchmarks.measure import append_result, define_flags, in_turn
from benchmarks.shapes import SIZES
from nlsr_jax.adapter import Adapter
from nlsr_jax.nlsr.low_rank import kept_rank, project_low_rank
from nlsr_jax.nlsr.masks import kept_count, mask_layers
from nlsr_jax.nlsr.similarity import masked_cosine
from nlsr_jax.nlsr.statistics import statistics_from_activations

FLAGS = flags.FLAGS
SPARSITY = 0.8
"""The paper's P_SR. The text keeps the remaining fifth of the rank; the authors' program keeps four fifths."""


class Layer(NamedTuple):
    """The arrays of one decoder layer by module: factors of two adapters, and the modules' inputs."""

    first: dict[str, tuple[np.ndarray, np.ndarray]]
    second: dict[str, tuple[np.ndarray, np.ndarray]]
    inputs: dict[str, np.ndarray]


def make_layer(seed: int, rank: int, positions: int, share: float) -> Layer:
    """Draw a layer; modules with the same input share it, and its spectrum decays like that of activations.

    Args:
      seed: seed of the draw.
      rank: rank of the adapters.
      positions: number of response positions.
      share: share of Llama-3-8B's widths.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape, np.float32)

    read: dict[str, np.ndarray] = {}
    first, second, inputs = {}, {}, {}
    for path, (k, d) in SIZES.items():
        module = path.split(".")[1]
        k, d = int(k * share), int(d * share)
        source = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}.get(module, module)
        if source not in read:
            read[source] = draw(positions, k) * np.geomspace(1, 1e-2, k, dtype=np.float32)
        inputs[module] = read[source]
        first[module] = (draw(rank, k) * 0.02, draw(d, rank) * 0.02)
        second[module] = tuple(factor + draw(*factor.shape) * 0.01 for factor in first[module])
    return Layer(first, second, inputs)


def tree(factors) -> dict[str, Any]:
    """Return factors as the trees of a one-layer adapter."""
    return {m: {"a": jax.numpy.asarray(a)[None], "b": jax.numpy.asarray(b)[None]} for m, (a, b) in factors.items()}


def identification(layer: Layer, rounds: int, sparsity: float):
    """Time the projections of all factors from the same activations; return the ratios and the worst error."""
    import torch

    from benchmarks import published

    kept = kept_rank(layer.first["q_proj"][0].shape[0], sparsity)
    theirs = {m: tuple(map(torch.from_numpy, pair)) for m, pair in layer.first.items()}
    read = {m: torch.from_numpy(x) for m, x in layer.inputs.items()}
    adapter = Adapter(tree(layer.first))
    arrays = {id(x): jax.numpy.asarray(x)[None] for x in layer.inputs.values()}
    inputs = {m: arrays[id(x)] for m, x in layer.inputs.items()}

    def peer():
        torch.manual_seed(0)
        return {m: published.identify(*theirs[m], read[m], kept) for m in theirs}

    def ours():
        statistics = statistics_from_activations(adapter, inputs, input_squares=False)
        return project_low_rank(adapter, statistics, sparsity=sparsity).factors

    found = ours()
    exact = exact_projection(*layer.first["k_proj"], layer.inputs["k_proj"], kept)
    errors = [
        np.linalg.norm(np.asarray(found["k_proj"][f][0]) - x) / np.linalg.norm(x)
        for f, x in zip(("a", "b"), exact, strict=True)
    ]
    return in_turn(rounds, peer, ours), float(max(errors))


def exact_projection(a, b, inputs, kept):
    """Return both projected factors in float64, from eigenvectors of ``W X Xᵀ Wᵀ``."""
    a, b, inputs = (np.asarray(x, np.float64) for x in (a, b, inputs))
    z = inputs @ a.T
    gram = z.T @ z
    q, r = np.linalg.qr(b)
    top_a = np.linalg.eigh(gram)[1][:, -kept:]
    top_b = q @ np.linalg.eigh(r @ gram @ r.T)[1][:, -kept:]
    return top_a @ (top_a.T @ a), top_b @ (top_b.T @ b)


def masks(layer: Layer, rounds: int):
    """Time the masks of all factors from the same scores; return the ratios and whether all entries are equal."""
    import torch

    from benchmarks import published

    scores = {m: tuple(map(np.abs, pair)) for m, pair in layer.first.items()}
    theirs = {m: tuple(map(torch.from_numpy, pair)) for m, pair in scores.items()}
    mine = tree(scores)

    def peer():
        return {
            m: [published.mask(score, kept_count(score.numel(), SPARSITY)) for score in pair]
            for m, pair in theirs.items()
        }

    def ours():
        return mask_layers(mine, SPARSITY)

    expected, found = peer(), ours()
    same = all(
        np.array_equal(expected[m][i].numpy(), np.asarray(found[m][factor][0]))
        for m in expected
        for i, factor in enumerate("ab")
    )
    return in_turn(rounds, peer, ours), same


def similarities(layer: Layer, rounds: int):
    """Time the similarities of all modules with the same masks; return the ratios and the largest error."""
    import torch

    from benchmarks import published

    marked = {
        m: tuple(published.mask(torch.from_numpy(np.abs(f)), kept_count(f.size, SPARSITY)) for f in pair)
        for m, pair in layer.first.items()
    }
    both = [{m: tuple(map(torch.from_numpy, pair)) for m, pair in part.items()} for part in layer[:2]]
    first, second = (Adapter(tree(part)) for part in layer[:2])
    tree_masks = tree({m: tuple(part.numpy() for part in pair) for m, pair in marked.items()})

    def peer():
        return {m: published.similarity(both[0][m], both[1][m], marked[m]) for m in marked}

    def ours():
        return masked_cosine(first, second, tree_masks)[0]

    found = ours()
    errors = []
    for module, parts in marked.items():
        pairs = [
            [
                np.asarray(factor, np.float64) * mask.numpy()
                for factor, mask in zip(part[module], parts, strict=True)
            ]
            for part in layer[:2]
        ]
        errors.append(abs(exact_cosine(*pairs) - float(found[module][0])))
    return in_turn(rounds, peer, ours), max(errors)


def exact_cosine(first, second) -> float:
    """Return the cosine of the products of two pairs of float64 factors ``(a, b)``."""

    def inner(one, other):
        return np.sum((one[1].T @ other[1]) * (one[0] @ other[0].T))

    return inner(first, second) / np.sqrt(inner(first, first) * inner(second, second))


def identification_limit(layer: Layer, sparsity: float) -> Limit:
    """Return the limit of an identification: ``A X``, the Gram matrices of ``A X`` and B, and the projections."""
    rank = len(layer.first["q_proj"][0])
    kept = kept_rank(rank, sparsity)
    readers = collections.Counter(map(id, layer.inputs.values()))
    read = {id(x): x.shape for x in layer.inputs.values()}
    found = [Product(*shape, rank * readers[key]) for key, shape in read.items()]
    for module, (a, b) in layer.first.items():
        k, d = a.shape[1], len(b)
        found.append(Product(rank, len(layer.inputs[module]), rank))
        found += projection_products(k, d, rank, kept)
    return of_products(found)


def masks_limit(layer: Layer) -> Limit:
    """Return the limit of the masks: every float32 score is read once, and a byte is written for it."""
    return of_bytes(5 * sum(factor.size for pair in layer.first.values() for factor in pair))


def similarity_limit(layer: Layer) -> Limit:
    """Return the limit of the similarities: their products."""
    shapes = [(a.shape[1], len(b)) for a, b in layer.first.values()]
    return of_products(similarity_products(shapes, len(layer.first["q_proj"][0])))


def run(rank: int, positions: int, share: float, rounds: int) -> dict[str, dict]:
    """Run all three benchmarks and return a result for each."""
    layer = make_layer(0, rank, positions, share)
    shape = {"rank": rank, "positions": positions, "widths": share}
    results = {}
    for name, sparsity in (("identification", SPARSITY), ("identification_as_run", 1 - SPARSITY)):
        found, error = identification(layer, rounds, sparsity)
        found = with_limit(found, identification_limit(layer, sparsity))
        results[name] = {**found, "relative_error": error, **shape}
    for name, measure, limit, check in (
        ("masks", masks, masks_limit, "identical"),
        ("similarity", similarities, similarity_limit, "largest_error"),
    ):
        found, quality = measure(layer, rounds)
        results[name] = {**with_limit(found, limit(layer)), check: quality, **shape}
    return results


def main(_) -> None:
    """Measure, print and append the results."""
    results = run(FLAGS.rank, FLAGS.positions, FLAGS.share, FLAGS.rounds)
    for name, result in results.items():
        append_result(name, result, "s", FLAGS.results)
        print(
            f"{name}: {result['ratio']:.1f} x ({result['low']:.1f} to {result['high']:.1f}), "
            f"published {result['peer']:.3f} s, ours {result['ours']:.3f} s"
        )


if __name__ == "__main__":
    flags.DEFINE_integer("rank", 128, "LoRA rank.", lower_bound=1)
    flags.DEFINE_integer("positions", 4096, "Response positions.", lower_bound=1)
    flags.DEFINE_float("share", 1.0, "Share of Llama-3-8B's widths.")
    define_flags(rounds=3)
    app.run(main)
