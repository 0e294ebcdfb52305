"""From masks to the decision: compare matrix by matrix, choose over all modules."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule
from nlsr_jax.formats.weight_masks import WeightMaskFile
from nlsr_jax.nlsr.realign import choose
from nlsr_jax.nlsr.settings import ModuleChoice
from nlsr_jax.nlsr.weights import compare_matrix, reference_matrix
from nlsr_jax.pipeline.weights_sources import ModelSources


class WeightsDecision(NamedTuple):
    """Which modules are repaired and what decided it, as host arrays.

    Attributes:
      figures: ``{module: {name: [L]}}``: the fields of ``Comparison``, and ``kept``, the size of the mask.
      probability, pruned: ``{module: [L]}``; see ``nlsr_jax.realign``.
    """

    figures: dict[str, dict[str, np.ndarray]]
    probability: PerModule
    pruned: PerModule

    def is_left_alone(self, module: str, layer: int) -> bool:
        """Whether a module is not repaired."""
        return bool(self.pruned[module][layer])

    def describe(self, sources: ModelSources) -> list[dict[str, Any]]:
        """Return one entry per matrix for the record, layer by layer."""
        entries = []
        for module, layer in sources.finetuned:
            found, repaired = self.figures[module], not self.is_left_alone(module, layer)
            entry = {
                "layer": layer,
                "module": module,
                "similarity": float(found["similarity"][layer]),
                "probability": float(self.probability[module][layer]),
                "pruned": not repaired,
                "zero_norm": bool(found["zero_norm"][layer]),
                "kept": int(found["kept"][layer]),
                "size": math.prod(sources.finetuned.shape(module)),
                "changed": int(found["changed"][layer]) if repaired else 0,
                "update_norm": float(found["update"][layer]),
                "change_norm": float(found["change"][layer]) if repaired else 0.0,
            }
            if sources.pretrained is not None:
                entry["taken"] = float(found["taken"][layer]) if repaired else 0.0
            entries.append(entry)
        return entries


def decide_weights(
    key: jax.Array, settings: ModuleChoice, masks: WeightMaskFile, sources: ModelSources
) -> WeightsDecision:
    """Compare reference and fine-tuned model on the masks, and choose the modules to repair.

    Args:
      key: PRNG key of the draw.
      settings: of the choice of modules.
      masks: the masks.
      sources: the models; one matrix of each is in memory at a time.
    """
    model = sources.finetuned
    rows: dict[str, list[dict[str, Any]]] = {module: [] for module in model.modules}
    for module, layer in model:
        matrices, mask = sources.read(module, layer), masks.read(module, layer)
        reference = reference_matrix(matrices, sources.beta)
        scalars = np.float32(sources.beta), np.float32(sources.strength)
        found = jax.device_get(compare_matrix(matrices, reference, mask, *scalars))
        rows[module].append({**found._asdict(), "kept": np.count_nonzero(mask)})
    figures = {m: {name: np.stack([row[name] for row in found]) for name in found[0]} for m, found in rows.items()}
    pruned, probability = choose(
        key,
        shapes_of(sources),
        {module: jnp.asarray(found["similarity"]) for module, found in figures.items()},
        base_probability=settings.base_probability,
        increment=settings.increment,
        rule=settings.rule,
        tau=settings.tau,
        share=settings.share,
        layers=settings.layers,
    )
    return WeightsDecision(figures, *jax.device_get((probability, pruned)))


def shapes_of(sources: ModelSources, rank: int = 1) -> Adapter:
    """Return the shapes of an adapter of all matrices."""
    model, factors = sources.finetuned, {}
    for module in model.modules:
        d, k = model.shape(module)
        own, count = min(rank, d, k), model.num_layers
        factors[module] = {
            "a": jax.ShapeDtypeStruct((count, own, k), np.float32),
            "b": jax.ShapeDtypeStruct((count, d, own), np.float32),
        }
    return Adapter(factors)
