"""The models of a run on full weights: opened, checked against each other, and read one matrix at a time."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.model_copy import weight_files
from nlsr_jax.formats.model_matrices import ModelMatrices
from nlsr_jax.nlsr.weights import Matrices
from nlsr_jax.pipeline.evidence import base_files
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings

LEAST_COSINE = 0.5
"""Cosine of the weights of a fine-tuned model and its base, below which one was not trained from the other.

Fine-tuning leaves it near 1; it is 0 for models that were trained apart.
"""


@dataclasses.dataclass(frozen=True)
class ModelSources:
    """The models of a run.

    Attributes:
      finetuned: the fine-tuned model.
      aligned: the base, on which it was trained.
      pretrained: the model that the base was aligned from; None without.
      beta: β.
      strength: of the correction.
    """

    finetuned: ModelMatrices
    aligned: ModelMatrices
    pretrained: ModelMatrices | None
    beta: float
    strength: float

    def read(self, module: str, layer: int) -> Matrices:
        """Read one matrix of every model."""
        before = None if self.pretrained is None else self.pretrained.read(module, layer)
        return Matrices(self.finetuned.read(module, layer), self.aligned.read(module, layer), before)

    def sizes(self) -> dict[tuple[str, int], int]:
        """Return the number of entries of every matrix, layer by layer."""
        return {(module, layer): int(np.prod(self.finetuned.shape(module))) for module, layer in self.finetuned}


class Distances(NamedTuple):
    """How the models lie to each other, over all matrices.

    Attributes:
      update: ``‖W_t − W_I‖_F / ‖W_I‖_F``.
      direction: ``‖V‖_F / ‖W_I‖_F``; None without a pretrained model.
      undone: ``⟨W_t − W_I, V⟩ / ‖V‖²``: below 0 if fine-tuning goes back on the alignment.
    """

    update: float
    direction: float | None = None
    undone: float | None = None


def open_models(settings: Settings, run: Run) -> ModelSources:
    """Open the models, check that their shapes fit, and start to digest them.

    Raises:
      InputError: a model that cannot be used, or that does not fit the others.
    """
    assert settings.finetuned is not None
    assert settings.base is not None
    finetuned, aligned = ModelMatrices(settings.finetuned), ModelMatrices(settings.base)
    pretrained = None if settings.pretrained is None else ModelMatrices(settings.pretrained)
    aligned.check_same_shapes(finetuned, f"it was not trained from {argument('base')}")
    if pretrained is not None:
        aligned.check_same_shapes(pretrained, f"{argument('base')} was not aligned from this model")
    if finetuned.is_quantised():
        raise InputError(
            f"{settings.finetuned}: its weights are quantised, and cannot be repaired entry by entry; give the "
            "model in floats, and quantise the repaired one"
        )
    run.digests.add("finetuned", settings.finetuned, [finetuned.folder / "config.json", *weight_files(finetuned)])
    run.digests.add("base", settings.base, base_files(settings.base))
    if settings.pretrained is not None:
        run.digests.add("pretrained", settings.pretrained, base_files(settings.pretrained))
    run.notes.add([note for model in (finetuned, aligned, pretrained) if model for note in model.notes])
    return ModelSources(finetuned, aligned, pretrained, settings.beta, settings.given_strength)


def measure_distances(sources: ModelSources) -> Distances:
    """Measure how the models lie to each other, one matrix of each at a time."""
    totals = dict.fromkeys(("base", "update", "direction", "product"), 0.0)
    for module, layer in sources.finetuned:
        found = sources.read(module, layer)
        aligned = found.aligned.astype(np.float32)
        update = found.finetuned.astype(np.float32) - aligned
        totals["base"] += _dot(aligned, aligned)
        totals["update"] += _dot(update, update)
        if found.pretrained is not None:
            direction = aligned - found.pretrained.astype(np.float32)
            totals["direction"] += _dot(direction, direction)
            totals["product"] += _dot(direction, update)
    base = totals["base"] or 1.0
    relative = (totals["update"] / base) ** 0.5
    if sources.pretrained is None:
        return Distances(relative)
    return Distances(
        relative, (totals["direction"] / base) ** 0.5, totals["product"] / (totals["direction"] or 1.0)
    )


def _dot(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.einsum("dk,dk->d", one, two).sum(dtype=np.float64))


def check_distances(found: Distances, settings: Settings, *, repeats: bool) -> None:
    """Refuse models that have nothing to do with each other.

    Args:
      found: from ``measure_distances``.
      settings: of the run; ``allow_unrelated`` accepts what is doubtful.
      repeats: whether a record is repeated, whose run has accepted it.

    Raises:
      InputError: models that are equal, unrelated, or given the wrong way round.
    """
    if found.update == 0:
        raise InputError(f"{settings.finetuned}: holds the weights of {settings.base}; there is nothing to repair")
    if found.direction == 0:
        raise InputError(
            f"{settings.pretrained}: holds the weights of {settings.base}; give the model that the base was "
            "aligned from"
        )
    if settings.allow_unrelated or repeats:
        return
    if found.update**2 > 2 * (1 - LEAST_COSINE):
        raise InputError(
            f"{settings.finetuned}: its weights are {found.update:.2f} times the norm of {settings.base} away "
            "from it; it was not trained from this model. Give the model that it was trained from as "
            f"{argument('base')}; {argument('allow_unrelated')} goes on all the same"
        )
    if found.undone is not None and found.undone < -0.5:
        raise InputError(
            f"{settings.finetuned}: its weights are nearer to {argument('pretrained')} ({settings.pretrained}) "
            f"than to the aligned model {argument('base')} ({settings.base}): exchange the two if they are the "
            f"wrong way round. {argument('allow_unrelated')} goes on all the same"
        )


def describe_carried(sources: ModelSources) -> dict:
    """Describe the tensors beside the projections, which are copied, for the record.

    Returns:
      Their ``count`` and ``bytes``, and the names of those that differ from the base's (``changed``).
    """
    found, base = sources.finetuned.all_tensors(), sources.aligned.all_tensors()
    repaired = {sources.finetuned.place(*one).own for one in sources.finetuned}
    names = sorted(set(found) - repaired)
    changed = [name for name in names if not _is_equal(found[name], base.get(name), name)]
    size = sum(int(np.prod(found[n].shape(n))) * found[n].numpy_dtype(n).itemsize for n in names)
    return {"count": len(names), "bytes": size, "changed": changed}


def _is_equal(one: SafetensorsFile, other: SafetensorsFile | None, name: str) -> bool:
    """Whether two files hold the same numbers under a name; read in parts where the types agree."""
    if other is None or one.shape(name) != other.shape(name):
        return False
    if one.dtype(name) == other.dtype(name):
        return all(bytes(a) == bytes(b) for a, b in zip(one.blocks(name), other.blocks(name), strict=True))
    return bool(np.array_equal(one.read(name).astype(np.float32), other.read(name).astype(np.float32)))


def tokenizer_folder(settings: Settings, folder: pathlib.Path) -> str:
    """Return where the tokenizer is: in the fine-tuned model's folder, or in the base's."""
    assert settings.base is not None
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    return str(folder) if any((folder / name).is_file() for name in names) else settings.base
