"""The evidence of a run: calibration rows, the base that reads them, and what its pass over them gives."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError, argument
from nlsr_jax.formats.peft import AdapterFile
from nlsr_jax.nlsr.settings import NEEDS_STATISTICS, OWN, ROWS
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.pipeline.answering import safe_rows
from nlsr_jax.pipeline.base_model import load_shared_base
from nlsr_jax.pipeline.reference import Reference
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import EvidenceSettings
from nlsr_jax.pipeline.shared import stamp
from nlsr_jax.pipeline.sources import AdapterSource, Sources
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.calibration.loss import LossSums
    from nlsr_jax.data.calibration import Calibration
    from nlsr_jax.data.examples import Encoded

_ANSWERS = "answers"
_OWN_ANSWERS = (
    "the repair restores the aligned model's own answers to the calibration prompts, not those of the rows"
)


class Evidence(NamedTuple):
    """What identification goes by, beside the reference; None for what the method does not need.

    Attributes:
      statistics: of the reference on the calibration data.
      gradients: factors tree; see ``nlsr_jax.identify``.
      finetuned: the fine-tuned adapter, where the method compares with it.
    """

    statistics: Statistics | None = None
    gradients: Any = None
    finetuned: Adapter | None = None


class CalibrationData:
    """The calibration rows and the base model of a run, each read when it is first asked for, and digested then.

    Args:
      settings: ``base``, ``calibration``, the method and how rows are read.
      sources: the open adapter files; the one that the method runs with may carry an embedding of another size.
      run: the context.

    Attributes:
      settings: the argument; its ``answers`` say which were chosen once the rows have been used.
      sources, run: the arguments.
      notes: what a user should know of the base, its tokenizer and the passes over the data so far.
      in_halves: every second row comes first, then the others, as a refinement reads them: sums depend on the
        order.
    """

    def __init__(self, settings: EvidenceSettings, sources: Sources, run: Run):
        self.settings, self.sources, self.run = settings, sources, run
        self._with: dict[str, tuple] = {}
        self._first_half: LossSums | None = None
        self._refines: Adapter | None = None
        self._guessed: tuple[Any, LossSums] | None = None
        self._whole: tuple[tuple, Adapter] | None = None
        self.notes: list[str] = []
        self.in_halves = False

    @functools.cached_property
    def rows(self) -> "Calibration":
        """The encoded rows and their counts."""
        from nlsr_jax.formats.hugging_face import read_config, resolve

        base = self.settings.base
        assert base is not None
        with self.run.stages("read calibration data"):
            vocabulary = self._vocabulary(read_config(resolve(base)))
            data, notes = read_calibration(self.settings, base, vocabulary, self.run)
            self.notes += notes
        return data

    def _vocabulary(self, config) -> int:
        """Return how many rows the embedding has that the rows will meet."""
        from nlsr_jax.formats.carried_fit import vocabulary

        return vocabulary(self.model_of.carried, config)

    @property
    def model_of(self) -> AdapterSource:
        """The adapter that the method runs the base with."""
        return self.sources.target if self.settings.needs_finetuned else self.sources.aligned

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The base's tokenizer."""
        from nlsr_jax.data.calibration import load_tokenizer

        base = self.settings.base
        assert base is not None
        return self.run.shared.once("tokenizer", stamp(base), lambda: load_tokenizer(base))

    @functools.cached_property
    def base(self) -> tuple[Any, Any]:
        """``(model, params)``; see ``load_base``."""
        settings = self.settings
        assert settings.base is not None
        with self.run.stages("read base model"):
            found, notes = load_shared_base(settings.base, settings, self.run)
            self.notes += notes
            self.run.digests.add("base", settings.base, base_files(settings.base))
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
            with self.run.stages("apply carried tensors"):
                self._with[where] = apply_carried(model, params, file.carried)
        return self._with[where]

    def release(self) -> None:
        """Let go of the base; it is read again where it is asked for again."""
        self.__dict__.pop("base", None)
        self._with.clear()

    def whole(self, reference: Reference, *, keep: bool = False) -> Adapter:
        """Make a whole reference, or return the one that was kept.

        Args:
          reference: what is made.
          keep: for the next call, which asks for the same one.
        """
        key, known = (reference.beta, reference.space, reference.rank), self._whole
        made = known[1] if known is not None and known[0] == key else reference.whole()
        self._whole = (key, made) if keep else None
        return made

    def batches(self) -> list[tuple]:
        """Return the batches of all rows."""
        return self.half(0) + self.half(1) if self.in_halves else self._batches(self._answered)

    @functools.cached_property
    def _answered(self) -> list[tuple]:
        """The rows of the passes: those that were read, or their prompts with the aligned model's own answers."""
        rows = self.rows.rows
        found = safe_rows(self, rows)
        self.settings = dataclasses.replace(self.settings, answers=self._kind(found))
        self.run.shared.guesses[_ANSWERS] = self._kind(found)
        if self._guessed is not None and self._guessed[0] is found:
            self._first_half = self._guessed[1]
        self._guessed = None
        if found is not rows:
            self.notes.append(_OWN_ANSWERS)
        return found

    def _kind(self, rows: list[tuple]) -> str:
        return ROWS if rows is self.rows.rows else OWN

    def finetuned_loss(self, rows: "list[tuple[Encoded, ...]]", batches: list[tuple]) -> float:
        """Return the mean loss of the fine-tuned model on every second row.

        Runs mostly choose the answers that the last one in the process chose, and the first one those of the rows.
        For these the pass gives the gradient of a refinement too, which begins with these batches.

        Args:
          rows: all rows, with answers that may be chosen.
          batches: of every second one.
        """
        from nlsr_jax.calibration.loss import collect_loss

        if self._refines is not None and self.run.shared.guesses.get(_ANSWERS, ROWS) == self._kind(rows):
            sums = self._sum_gradients(self._refines, batches)
            self._guessed, found = (rows, sums), sums.loss()
            if found is not None:
                return found
        model, params = self.base_with(self.sources.target)
        return float(collect_loss(model, params, self.sources.whole_finetuned(), batches))

    def read_rows(self) -> None:
        """Use the answers of the rows from now on; sums of other answers are dropped."""
        if self._answered is self.rows.rows:
            return
        self.settings = dataclasses.replace(self.settings, answers=ROWS)
        self.notes = [note for note in self.notes if note != _OWN_ANSWERS]
        self._answered, self._first_half = self.rows.rows, None

    def half(self, first: int) -> list[tuple]:
        """Return the batches of every second row, from row 0 or 1 on."""
        return self._batches(self._answered[first::2])

    def _batches(self, rows) -> list[tuple]:
        from nlsr_jax.data.calibration import batches

        settings = self.settings
        return list(batches(rows, settings.batch_size, settings.max_length, among=self._answered))

    def half_gradient(self, finetuned: Adapter) -> Any:
        """Return the gradient of the loss on safe answers of every second row; its sums are kept for all rows.

        Args:
          finetuned: the whole fine-tuned adapter.
        """
        self._refines = finetuned
        batches = self.half(0)
        if self._first_half is None:
            self._first_half = self._sum_gradients(finetuned, batches)
        return self._first_half.gradient()

    def gradient(self, finetuned: Adapter) -> Any:
        """Return the gradient of all rows; see ``half_gradient``."""
        known = self._first_half if self.in_halves else None
        batches = self.batches() if known is None else self.half(1)
        return self._sum_gradients(finetuned, self.tracked(batches), known).gradient()

    def _sum_gradients(self, finetuned: Adapter, batches: Iterable, known: "LossSums | None" = None) -> "LossSums":
        model, params = self.base_with(self.model_of)
        return self.run.shared.passes.sum_loss_gradients(model, params, finetuned, batches, known)

    def tracked(self, batches: list[tuple]) -> Iterator[tuple]:
        """Yield batches and show how many are done."""
        return self.run.stages.track(batches, "calibration", len(batches))


def read_calibration(settings: EvidenceSettings, model: str, vocabulary: int, run: Run) -> Any:
    """Read, encode and digest the calibration rows.

    Args:
      settings: where they are and how they are read.
      model: the model whose tokenizer encodes them.
      vocabulary: number of rows of its embedding.
      run: the context.

    Returns:
      ``(Calibration, notes)``.

    Raises:
      InputError: rows or a tokenizer that cannot be used.
    """
    from nlsr_jax.data.calibration import load_calibration, load_tokenizer
    from nlsr_jax.data.encoding import note_surplus
    from nlsr_jax.data.row_shapes import Fields
    from nlsr_jax.data.templates import NONE

    source = settings.calibration
    assert source is not None
    options: dict[str, Any] = {
        "max_length": settings.max_length,
        "template": settings.template or NONE,
        "preference": settings.method == "preference_snip",
        "vocabulary": vocabulary,
        "fields": Fields(settings.prompt_field, settings.response_field, settings.rejected_field),
        "end_token": settings.end_token,
    }
    tokenizer = run.shared.once("tokenizer", stamp(model), lambda: load_tokenizer(model))
    data = run.shared.once(
        "calibration rows",
        (stamp(source), stamp(model), *options.values()),
        lambda: load_calibration(source, tokenizer, note=run.stages.say, **options),
    )
    run.digests.add_data("calibration", source)
    run.stages.say(_counted(data.counts))
    return data, [f"{model}: {text}" for text in note_surplus(tokenizer, vocabulary)]


def gather_evidence(data: CalibrationData, reference: Adapter, beta: float) -> Evidence:
    """Run the reference, or the fine-tuned adapter, over the calibration data for what the method needs.

    Args:
      data: calibration rows and base; its settings say the method.
      reference: the whole reference adapter.
      beta: that it was amplified with, for messages.

    Raises:
      InputError: base or calibration data that cannot be used, or activations beyond what the base's type holds.
    """
    run = data.run
    finetuned = data.sources.whole_finetuned() if data.settings.needs_finetuned else None
    model, params = data.base_with(data.model_of)
    batches = data.batches()
    with run.stages("calibrate"):
        if finetuned is not None:
            found = Evidence(gradients=data.gradient(finetuned), finetuned=finetuned)
        elif isinstance(data.sources.aligned, AdapterFile):  # of which the reference is made, whatever is repaired
            key = _decides(data, reference, batches)
            found = run.shared.once("evidence", key, lambda: _measure(data, model, params, reference, batches))
        else:
            found = _measure(data, model, params, reference, batches)
        check_evidence((found.statistics, found.gradients), data.settings.dtype, beta)
    return found


def _decides(data: CalibrationData, reference: Adapter, batches: list[tuple]) -> tuple:
    """Return all that the evidence of a reference depends on."""
    from nlsr_jax.training.identity import digest

    settings, places = data.settings, (data.settings.base, data.settings.aligned)
    content = digest([dict(reference.factors), batches])
    way = (settings.method, settings.dtype, settings.stream, data.run.mesh)
    return *map(stamp, places), *way, repr(reference.scaling), repr(reference.layers), content


def _measure(data: CalibrationData, model: Any, params: Any, reference: Adapter, batches: list[tuple]) -> Evidence:
    """Run the reference over the calibration data."""
    from nlsr_jax.calibration import collect_gradients, collect_statistics

    method, tracked = data.settings.method, data.tracked(batches)
    if method in NEEDS_STATISTICS:
        return Evidence(statistics=collect_statistics(model, params, reference, tracked))
    return Evidence(gradients=collect_gradients(model, params, reference, tracked, objective=method))


def check_evidence(found: Any, dtype: str, beta: float) -> None:
    """Refuse evidence that holds NaN or infinite numbers, because its masks would mean nothing.

    Raises:
      InputError: naming the module.
    """
    for path, finite in jax.tree_util.tree_flatten_with_path(_are_finite(found))[0]:
        if not finite:
            names = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
            raise InputError(
                f"the calibration pass gives NaN or infinite numbers in {'.'.join(names) or 'its sums'}: "
                f"activations go beyond what {argument('dtype')} {dtype} holds, or {argument('beta')} {beta:g} is "
                f"too large; take {argument('dtype')} float32 or bfloat16, or a smaller {argument('beta')}"
            )


@jax.jit
def _are_finite(tree):
    return jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), tree)


def _counted(counts: Mapping[str, int]) -> str:
    return (
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
