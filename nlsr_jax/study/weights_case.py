"""A case whose customer has trained all weights of the instruct model, and its repair in weights space."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.calibration import collect_weight_gradient
from nlsr_jax.nlsr.masks import kept_count
from nlsr_jax.nlsr.selection import find_cut, keep
from nlsr_jax.nlsr.weights import Evidence, Matrices, reference_matrix, score_matrix, transplant
from nlsr_jax.random_streams import stream
from nlsr_jax.study.case import Case, customer_rows, gain_batches, stage_key
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.stages import Base
from nlsr_jax.study.worlds import World
from nlsr_jax.training.loop import Task, train
from nlsr_jax.training.rows import training_rows
from nlsr_jax.training.step import model_forward

LEARNING_RATE = 2e-4
"""Of the training of all weights: with 5 % harmful rows the toy world's instruct model loses its alignment."""


class WeightsCase(NamedTuple):
    """A fully fine-tuned model and what its repair goes by.

    Attributes:
      instruct: the instruct model that it was trained from.
      finetuned: the fine-tuned model.
      pretrained: the model that the instruct model was aligned from.
      gradient: ``{module: [L, d, k]}``, from ``collect_weight_gradient`` at the fine-tuned model.
      seconds: duration of the training, and of the gradient.
    """

    instruct: Base
    finetuned: Base
    pretrained: Base
    gradient: Mapping[str, Any]
    seconds: tuple[float, float]


def finetune_all(
    instruct: Base,
    world: World,
    config: StudyConfig,
    case: Case,
    *,
    learning_rate: float = LEARNING_RATE,
    show: bool = False,
) -> Base:
    """Fine-tune all weights of a model on a customer's rows, a share of which is harmful.

    Args:
      instruct: the model.
      world, config: world and configuration of the study; rows, epochs and batches are those of its fine-tuning.
      case: task, share of harmful rows and seed.
      learning_rate: of the training.
      show: show progress.
    """
    key, stage = stage_key(case.seed, case.stage), config.finetuning
    settings = dataclasses.replace(stage.training, learning_rate=learning_rate)
    rows = customer_rows(key, world, case, stage.rows)
    options: dict[str, Any] = {
        "special_tokens": instruct.special_tokens,
        "vocabulary": len(instruct.params["embed"]),
    }
    found = training_rows(rows, instruct.tokenizer, settings, **options)
    forward = model_forward(instruct.model, jnp.dtype(settings.compute_dtype))
    task = Task(forward, instruct.params, None, found.packed, pad_id=instruct.tokenizer.pad_token_id)
    state = train(stream(key, "all weights"), task, settings, description=case.stage, show=show)
    return instruct._replace(params=state.trainable)


def open_case(
    pretrained: Base,
    instruct: Base,
    world: World,
    config: StudyConfig,
    case: Case,
    *,
    learning_rate: float = LEARNING_RATE,
    show: bool = False,
) -> WeightsCase:
    """Fine-tune all weights and collect the gradient of the loss on safe answers; see ``WeightsCase``."""
    started = time.perf_counter()
    tuned = finetune_all(instruct, world, config, case, learning_rate=learning_rate, show=show)
    jax.block_until_ready(tuned.params)
    trained = time.perf_counter()
    batches = gain_batches(tuned, world, config, case.seed)
    gradient = jax.device_get(collect_weight_gradient(tuned.model, tuned.params, batches))
    return WeightsCase(instruct, tuned, pretrained, gradient, (trained - started, time.perf_counter() - trained))


def repaired(found: WeightsCase, beta: float, share: float, strength: float = 1.0) -> Base:
    """Return the fine-tuned model with the entries of the highest gain transplanted.

    Args:
      found: from ``open_case``.
      beta: β; with 0 the pretrained model is not used.
      share: of the entries of all projections.
      strength: of the correction; see ``nlsr_jax.nlsr.correction.correct``.
    """
    matrices = {one: _matrices(found, *one, beta) for one in _places(found)}
    scores = {
        (module, layer): score_matrix(
            "gain", one, Evidence(gradient=found.gradient[module][layer]), beta=beta, sparsity=1 - share
        )
        for (module, layer), one in matrices.items()
    }
    layers = {name: dict(leaf) for name, leaf in found.finetuned.params["layers"].items()}
    for module in found.gradient:
        layers[module]["kernel"] = np.array(layers[module]["kernel"])
    for (module, layer), mask in _masks(scores, share):
        one = matrices[module, layer]
        layers[module]["kernel"][layer] = transplant(one.finetuned, reference_matrix(one, beta), mask, strength)
    params = {**found.finetuned.params, "layers": jax.tree.map(jnp.asarray, layers)}
    return found.finetuned._replace(params=params)


def _places(found: WeightsCase) -> list[tuple[str, int]]:
    return [
        (module, layer) for layer in range(found.finetuned.model.config.num_layers) for module in found.gradient
    ]


def _matrices(found: WeightsCase, module: str, layer: int, beta: float) -> Matrices:
    bases = [found.finetuned, found.instruct, *([found.pretrained] if beta else [])]
    return Matrices(*(np.asarray(base.params["layers"][module]["kernel"][layer]) for base in bases))


def _masks(scores: Mapping[tuple[str, int], np.ndarray], share: float) -> Iterable:
    total = sum(one.size for one in scores.values())
    cut, passed = find_cut(lambda: scores.values(), kept_count(total, 1 - share)), 0
    for place, one in scores.items():
        mask, passed = keep(one, cut, passed)
        yield place, mask & (one > 0)
