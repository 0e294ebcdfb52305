"""From files to masks: take the masks that were given, or find the safety-critical entries."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.formats.mask_files import MaskFile
from nlsr_jax.formats.record import Digests
from nlsr_jax.nlsr.identify import NEEDS_FINETUNED, NEEDS_STATISTICS, identify
from nlsr_jax.nlsr.similarity import check_masks
from nlsr_jax.pipeline.adapters import (
    AdapterSource,
    Chunk,
    Sources,
    amplify_pieces,
    read_pieces,
    reference_shapes,
    whole_finetuned,
    whole_reference,
)
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.stages import Stages
from nlsr_jax.random_streams import stream


class Masks(NamedTuple):
    """Masks, where they came from, and the counts of the calibration data.

    Attributes:
      masks: ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool; a mapping that may read a module from its
        file each time it is asked for.
      method: the score that made them.
      calibration: what was read, used, skipped and cut; None without calibration data.
    """

    masks: Mapping[str, Any]
    method: str
    calibration: dict[str, int] | None


class CalibrationData:
    """The calibration rows and the base model of a run, each read when it is first asked for, and digested then.

    Args:
      settings: ``base``, ``calibration`` and how rows are read.
      digests: where the files are added.
      stages: where to report progress.
      mesh: what the base is laid over; None for one device.
      sources: the open adapter files; the one that the method runs with may carry an embedding of another size.

    Attributes:
      notes: what a user should know of the base, its tokenizer and the passes over the data so far.
    """

    def __init__(
        self,
        settings: Settings,
        digests: Digests,
        stages: Stages,
        mesh: Mesh | None = None,
        sources: Sources | None = None,
    ):
        self._sources = sources
        self._settings, self._digests, self._stages, self._mesh = settings, digests, stages, mesh
        self._with: dict[str, tuple] = {}
        self.notes: list[str] = []

    @functools.cached_property
    def rows(self):
        """The encoded rows and their counts."""
        from nlsr_jax.data.calibration import load_calibration, load_tokenizer
        from nlsr_jax.data.encoding import note_surplus
        from nlsr_jax.data.row_shapes import Fields
        from nlsr_jax.formats.hugging_face import read_config, resolve

        settings = self._settings
        assert settings.base is not None
        assert settings.calibration is not None
        with self._stages("read calibration data"):
            tokenizer = load_tokenizer(settings.base)
            vocabulary = self._vocabulary(read_config(resolve(settings.base)))
            self.notes += [f"{settings.base}: {text}" for text in note_surplus(tokenizer, vocabulary)]
            data = load_calibration(
                settings.calibration,
                tokenizer,
                max_length=settings.max_length,
                template=settings.template,
                preference=settings.method == "preference_snip",
                vocabulary=vocabulary,
                fields=Fields(settings.prompt_field, settings.response_field, settings.rejected_field),
                note=self._stages.say,
                end_token=settings.end_token,
            )
            path = pathlib.Path(settings.calibration)
            self._digests.add("calibration", settings.calibration, [path] if path.is_file() else [])
            _say_counts(data.counts, self._stages)
        return data

    def _vocabulary(self, config) -> int:
        """Return how many rows the embedding has that the rows will meet."""
        from nlsr_jax.formats.carried_fit import vocabulary

        if self._sources is None:
            return config.vocab_size
        finetuned = self._settings.method in NEEDS_FINETUNED
        return vocabulary((self._sources.target if finetuned else self._sources.aligned).carried, config)

    @functools.cached_property
    def base(self):
        """``(model, params)``."""
        from nlsr_jax.models import load_model

        settings = self._settings
        assert settings.base is not None
        with self._stages("read base model"):
            dtype = jnp.dtype(settings.dtype)
            found = load_model(settings.base, dtype=dtype, mesh=self._mesh, note=self.notes.append)
            self._digests.add("base", settings.base, base_files(settings.base))
        return found

    def base_with(self, file: AdapterSource) -> tuple:
        """Return ``(model, params)`` with what an adapter's file carries besides its factors.

        ``notes`` receives what of it the base has no place for.
        """
        from nlsr_jax.formats.carried_fit import note_left_out
        from nlsr_jax.models.carried import apply_carried

        where = str(file.path)
        if not file.carried:
            return self.base
        if where not in self._with:
            model, params = self.base
            self.notes += note_left_out(file.carried, model.config, where)
            with self._stages("apply carried tensors"):
                self._with[where] = apply_carried(model, params, file.carried)
        return self._with[where]

    def batches(self) -> list[tuple]:
        """Return the batches of all rows."""
        from nlsr_jax.data.calibration import batches

        return list(batches(self.rows.rows, self._settings.batch_size, self._settings.max_length))


def obtain_masks(
    settings: Settings,
    sources: Sources,
    key: jax.Array,
    digests: Digests,
    stages: Stages,
    data: CalibrationData | None = None,
) -> Masks:
    """Open the masks that were given, or identify them.

    Args:
      settings: the settings.
      sources: the open adapter files.
      key: the run's key.
      digests: of the inputs.
      stages: where to report progress.
      data: calibration rows and base, where they may have been read before.

    Raises:
      InputError: masks, base or calibration data that cannot be used.
    """
    if settings.masks is not None:
        file = MaskFile(settings.masks)
        check_masks(reference_shapes(sources, settings), file.shapes(), str(file.path))
        digests.add("masks", settings.masks, [file.path])
        return Masks(file, file.metadata.get("method", "given"), None)
    key = stream(key, "identification")
    if not settings.needs_base:
        return Masks(_identify_by_module(settings, sources, key, stages), settings.method, None)
    with stages("amplify"):
        reference = jax.block_until_ready(whole_reference(sources, settings))
    finetuned = whole_finetuned(sources, settings) if settings.method in NEEDS_FINETUNED else None
    data = data or CalibrationData(settings, digests, stages, sources=sources)
    base = data.base_with(sources.aligned if finetuned is None else sources.target)
    statistics, gradients = _calibrate(settings, reference, finetuned, base, data.batches(), stages)
    with stages("identify"):
        masks = _identify(settings, reference, key, statistics, gradients, finetuned)
    return Masks(masks, settings.method, data.rows.counts)


def _identify(settings, reference, key, statistics=None, gradients=None, finetuned=None):
    masks = identify(
        reference,
        statistics,
        sparsity=settings.sparsity,
        method=settings.method,
        granularity=settings.granularity,
        key=key,
        gradients=gradients,
        finetuned=finetuned,
    )
    return jax.block_until_ready(masks)


def _identify_by_module(settings, sources, key, stages):
    """Scores that need no data: one module name of the reference in memory at a time."""
    if settings.granularity == "adapter":  # one threshold needs all scores
        with stages("identify"):
            return _identify(settings, whole_reference(sources, settings), key)
    shapes = sources.aligned.shapes()
    masks: dict[str, Any] = {}
    with stages("identify"):
        for module in module_names(shapes.factors):
            every = Chunk(module, slice(0, shapes.factors[module]["a"].shape[0]))
            reference = amplify_pieces(read_pieces(sources, every), settings, layer_indices(shapes, module))
            masks |= _identify(settings, reference, key)
    return masks


def _calibrate(
    settings: Settings,
    reference: Adapter,
    finetuned: Adapter | None,
    base: tuple,
    batches: list[tuple],
    stages: Stages,
):
    """Run the reference (or the fine-tuned) model over the calibration data; returns statistics and gradients."""
    from nlsr_jax.calibration import collect_gradients, collect_loss_gradient, collect_statistics

    model, params = base
    tracked = stages.track(batches, "calibration", len(batches))
    statistics = gradients = None
    with stages("calibrate"):
        if settings.method in NEEDS_STATISTICS:
            statistics = collect_statistics(model, params, reference, tracked)
        elif finetuned is not None:
            gradients = collect_loss_gradient(model, params, finetuned, tracked)
        else:
            gradients = collect_gradients(model, params, reference, tracked, objective=settings.method)
        _check_pass((statistics, gradients), settings)
    return statistics, gradients


def _check_pass(found, settings: Settings) -> None:
    """Refuse what a calibration pass gives where it is no number; masks of it would mean nothing.

    Raises:
      InputError: naming the module.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(found)[0]:
        if not bool(jnp.all(jnp.isfinite(leaf))):
            names = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
            raise InputError(
                f"the calibration pass gives NaN or infinite numbers in {'.'.join(names) or 'its sums'}: "
                f"activations go beyond what --dtype {settings.dtype} holds, or --beta {settings.beta:g} is too "
                "large; take --dtype float32 or bfloat16, or a smaller --beta"
            )


def _say_counts(counts, stages):
    stages.say(
        f"calibration: {counts['used']} of {counts['rows']} rows used, "
        f"{counts['response_positions']} response positions; "
        f"{counts['skipped_long_prompt']} prompts longer than --max_length skipped, "
        f"{counts['cut_responses']} responses cut"
    )


def base_files(base: str) -> list[pathlib.Path]:
    """Return the files of a local model directory that are digested; none of a hub id."""
    folder = pathlib.Path(base)
    if not folder.is_dir():
        return []
    kept = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return [file for file in sorted(folder.iterdir()) if file.name in kept or file.suffix == ".safetensors"]


def mask_piece(masks: Mapping[str, Any], chunk: Chunk) -> dict[str, Any]:
    """Return the masks of one chunk, read from their file where they are in one."""
    if isinstance(masks, MaskFile):
        return masks.read_layers(chunk.module, chunk.rows)
    return {f: leaf[chunk.rows] for f, leaf in masks[chunk.module].items()}


def count_kept(mask) -> dict[str, np.ndarray]:
    """Return how many entries of each layer the masks of one module name keep: ``{"a": [L], "b": [L]}``."""
    return {f: np.array([np.count_nonzero(one) for one in np.asarray(leaf)]) for f, leaf in mask.items()}
