"""From the decision to the written files: the repaired model in its shards, or an adapter of its update."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.files.numbers import check_finite
from nlsr_jax.formats.model_copy import copy_model
from nlsr_jax.formats.peft import AdapterWriter
from nlsr_jax.nlsr.direction import factor_matrix
from nlsr_jax.nlsr.identify import module_stream
from nlsr_jax.nlsr.weights import reference_matrix, transplant
from nlsr_jax.pipeline.advice import SMALLER
from nlsr_jax.pipeline.weights_decision import WeightsDecision, shapes_of
from nlsr_jax.pipeline.weights_masks import FoundMasks
from nlsr_jax.pipeline.weights_sources import ModelSources


class RepairedWeights(NamedTuple):
    """What the written model is made of.

    Attributes:
      sources: the models.
      masks: the masks.
      decision: which modules are repaired.
    """

    sources: ModelSources
    masks: FoundMasks
    decision: WeightsDecision

    def matrix(self, module: str, layer: int) -> np.ndarray | None:
        """Return a repaired matrix ``[d, k]`` in the type of the fine-tuned one; None where it stays.

        Raises:
          InputError: an entry of the reference beyond what the type holds.
        """
        if self.decision.is_left_alone(module, layer):
            return None
        matrices, mask = self.sources.read(module, layer), self.masks.file.read(module, layer)
        beta, strength = self.sources.beta, self.sources.strength
        found = transplant(matrices.finetuned, reference_matrix(matrices, beta), mask, strength)
        how = f"beta {beta:g}" if strength == 1 else f"beta {beta:g} and strength {strength:g}"
        check_finite(found, f"layer {layer} {module}", f"it is made with {how}; {SMALLER}")
        return found

    def update(self, module: str, layer: int) -> np.ndarray:
        """Return the update of a matrix to the base after the repair, ``[d, k]`` float32."""
        repaired = self.matrix(module, layer)
        if repaired is None:
            repaired = self.sources.finetuned.read(module, layer)
        return repaired.astype(np.float32) - self.sources.aligned.read(module, layer).astype(np.float32)


def write_model(made: RepairedWeights, folder: pathlib.Path) -> dict[str, str]:
    """Write the repaired model; see ``copy_model``."""
    return copy_model(made.sources.finetuned, folder, made.matrix)


def write_as_adapter(
    made: RepairedWeights, folder: pathlib.Path, rank: int, key: jax.Array
) -> tuple[dict[str, str], dict[str, list[float]]]:
    """Write the repaired update as a PEFT adapter on the base, each matrix by a truncated SVD.

    Args:
      made: what is written.
      folder: a folder that exists.
      rank: of the adapter; at most the smaller side of a matrix is taken.
      key: PRNG key of the randomised decomposition of large matrices.

    Returns:
      The SHA-256 of the weights by file name, and ``{module: [L]}``, the relative error of each matrix in the
      Frobenius norm.
    """
    sources = made.sources
    shapes = shapes_of(sources, rank)
    residual = {module: [0.0] * sources.finetuned.num_layers for module in sources.finetuned.modules}
    with AdapterWriter(shapes, folder, base_model_name_or_path=sources.aligned.path) as writer:
        for module, layer in writer.order():
            own = jax.random.fold_in(module_stream(key, module), layer)
            kept = shapes.factors[module]["a"].shape[1]
            a, b, left = jax.device_get(factor_matrix(own, made.update(module, layer), kept))
            writer.write(module, {"a": a[None], "b": b[None]}, slice(layer, layer + 1))
            residual[module][layer] = float(left)
    return writer.digests(), residual


def describe_residual(residual: dict[str, list[float]]) -> dict[str, Any]:
    """Return what a record says of a truncated update."""
    values = np.array([value for one in residual.values() for value in one])
    return {"residual": residual, "mean_residual": float(values.mean()), "highest_residual": float(values.max())}
