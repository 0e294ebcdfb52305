"""What the calibration data say of every matrix of a full model: gradients, or statistics of the inputs."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.nlsr.settings import NEEDS_STATISTICS
from nlsr_jax.nlsr.weights import Evidence, Matrices, amplified_update, as_factors
from nlsr_jax.pipeline.base_model import load_base
from nlsr_jax.pipeline.evidence import check_evidence, read_calibration
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.weights_sources import ModelSources, tokenizer_folder
from nlsr_jax.types import Tokenizer

Pieces = Iterator[tuple[str, int, Evidence]]
"""Yields ``(module, layer, evidence)`` of every matrix once, in any order."""


class ModelData:
    """The calibration rows and the passes over them.

    Args:
      settings, sources, run: of the run.

    Attributes:
      notes: what a user should know of models, tokenizer and rows so far.
    """

    def __init__(self, settings: Settings, sources: ModelSources, run: Run):
        self._settings, self._sources, self._run = settings, sources, run
        self.notes: list[str] = []

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the rows."""
        from nlsr_jax.data.calibration import load_tokenizer

        return load_tokenizer(tokenizer_folder(self._settings, self._sources.finetuned.folder))

    @functools.cached_property
    def rows(self) -> Any:
        """The encoded rows and their counts."""
        settings, sources = self._settings, self._sources
        measured = sources.finetuned if settings.needs_finetuned else sources.aligned
        with self._run.stages("read calibration data"):
            place = tokenizer_folder(settings, sources.finetuned.folder)
            data, notes = read_calibration(settings, place, measured.config.vocab_size, self._run)
        self.notes += notes
        return data

    def _batches(self) -> list[tuple]:
        from nlsr_jax.data.calibration import batches

        return list(batches(self.rows.rows, self._settings.batch_size, self._settings.max_length))

    def pieces(self) -> Pieces:
        """Yield what the method needs of every matrix; nothing is read for methods that need no data.

        Raises:
          InputError: models or rows that cannot be used, or activations beyond what ``dtype`` holds.
        """
        if self._settings.method in NEEDS_STATISTICS:
            yield from self._statistics()
        elif self._settings.needs_data:
            yield from self._gradients()
        else:
            for module, layer in self._sources.finetuned:
                yield module, layer, Evidence()

    def _gradients(self) -> Pieces:
        from nlsr_jax.calibration import collect_weight_gradient
        from nlsr_jax.calibration.weight_gradient import layer_by_layer, stream_weight_gradient

        batches = self._batches()
        if self._settings.stream:
            model, params = self._load(self._sources.finetuned.path)
            for module, layer, one in stream_weight_gradient(model, params, batches):
                self._check({module: one})
                yield module, layer, Evidence(gradient=one)
            return
        model, params = self._load(self._sources.finetuned.path)
        with self._run.stages("calibrate"):
            gradient = collect_weight_gradient(model, params, self._tracked(batches))
            del params
            self._check(gradient)
        for module, layer, one in layer_by_layer(gradient):
            yield module, layer, Evidence(gradient=one)

    def _statistics(self) -> Pieces:
        from nlsr_jax.calibration import collect_statistics

        batches = self._batches()
        if self._settings.stream:
            yield from self._streamed_statistics(batches)
            return
        model, params, adapter = self._reference()
        with self._run.stages("calibrate"):
            found = collect_statistics(model, params, adapter, self._tracked(batches))
            self._check(found)
        for module, layer in self._sources.finetuned:
            assert found.input_square is not None
            trees = (found.input_square, found.gram, found.root)
            square, gram, root = (tree[module][layer] for tree in trees)
            yield module, layer, Evidence(square=square, gram=gram, root=root)

    def _streamed_statistics(self, batches: list[tuple]) -> Pieces:
        """The same layer by layer; the reference's matrices of one layer are in memory at a time."""
        from nlsr_jax.calibration.capture import stream_layer_statistics

        beta, modules = self._sources.beta, self._sources.finetuned.modules
        model, params = self._load(self._sources.aligned.path)

        def source(layer: int, weights: Any) -> tuple[Any, Any]:
            weights, factors = dict(weights), {}
            for module in modules:
                update = self._update(module, layer, beta)
                kernel = (weights[module]["kernel"] + update).astype(params.dtype)
                weights[module] = {**weights[module], "kernel": kernel}
                leaf = as_factors(update)
                factors[module] = {**leaf, "b": leaf["b"] * jnp.float32(0)}
            return weights, factors

        for layer, found in stream_layer_statistics(model, params, batches, source):
            self._check(found)
            assert found.input_square is not None
            for module in modules:
                trees = (found.input_square, found.gram, found.root)
                square, gram, root = (tree[module][0] for tree in trees)
                yield module, layer, Evidence(square=square, gram=gram, root=root)

    def _check(self, found: Any) -> None:
        check_evidence(found, self._settings.dtype, self._settings.beta)

    def _reference(self) -> tuple[Any, Any, Adapter]:
        """Return the reference model, and the matrices of its updates as factors of scaling 0.

        The factors are there for the statistics of their products alone; all of it is in memory.
        """
        model, params = self._load(self._sources.aligned.path)
        dtype, beta = jnp.dtype(self._settings.dtype), self._sources.beta
        factors: dict[str, Mapping[str, jax.Array]] = {}
        layers = {name: dict(leaf) for name, leaf in params["layers"].items()}
        experts = model.config.expert_modules()
        with self._run.stages("amplify"):
            for module in self._sources.finetuned.modules:
                parts = [self._update(module, layer, beta) for layer in range(model.config.num_layers)]
                if module in experts:
                    (own, expert), _ = experts[module]
                    kernel = layers["experts"][own]
                    moved = (kernel[:, expert] + jnp.stack(parts)).astype(dtype)
                    layers["experts"][own] = kernel.at[:, expert].set(moved)
                else:
                    layers[module]["kernel"] = (layers[module]["kernel"] + jnp.stack(parts)).astype(dtype)
                factors[module] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(as_factors, parts))
        return model, {**params, "layers": layers}, Adapter(factors, 0.0)

    def _update(self, module: str, layer: int, beta: float) -> jax.Array:
        return amplified_update(Matrices(*self._sources.read(module, layer)), beta)

    def _load(self, path: str) -> tuple:
        with self._run.stages("read model"):
            return load_base(path, self._settings, self._run, self.notes.append)

    def _tracked(self, batches: list[tuple]):
        return self._run.stages.track(batches, "calibration", len(batches))
