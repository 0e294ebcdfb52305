"""The settings of a run: what it reads, how it reads calibration data, its seed, and those of the method.

A ``Settings`` is flat and is each of its parts, so that a stage names the part that it reads and takes the whole.
"""

import dataclasses
import os
import pathlib
from typing import Any

from nlsr_jax.data.templates import TEMPLATES, is_template_file
from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import exists, expand_text
from nlsr_jax.files.values import convert
from nlsr_jax.nlsr.settings import ANSWERS, ROWS, UPDATE_BASES, Identification, MethodSettings, Strength, setting

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Paths:
    """What a run reads.

    Attributes:
      base: Hugging Face directory or hub id; needed unless masks are given or the method needs no data.
      aligned, finetuned, weak: PEFT directories.
      calibration: rows with ``prompt`` and ``response`` (and ``rejected`` for preference SNIP), or in another shape
        that ``nlsr_jax.data.answered`` reads.
      pretrained: the model that the base was aligned from, where ``aligned`` is None: then the base is the aligned
        model, and the adapters are lifted; see ``nlsr_jax.lift``.
      direction_rank: rank of the direction base − pretrained; None for the fine-tuned adapter's.
      masks: a ``masks.safetensors`` to use in place of identification.
    """

    base: str | None = setting(
        None, "Base model: Hugging Face directory or hub id (for methods that need data).", kind="path"
    )
    aligned: str | None = setting(None, "PEFT directory of the aligned adapter.", kind="path")
    finetuned: str | None = setting(
        None, "PEFT directory of the fine-tuned adapter, or directory of a full model.", kind="path", realigns=True
    )
    weak: str | None = setting(
        None, "PEFT directory of the weak adapter; leave out when it was merged into the base.", kind="path"
    )
    calibration: str | None = setting(
        None, "Rows of prompt and safe response: JSONL, JSON, CSV, Parquet or a hub data set.", kind="path"
    )
    pretrained: str | None = setting(
        None,
        "Without --aligned, where the base is the aligned model: the model that the base was aligned from.",
        kind="path",
        realigns=True,
    )
    direction_rank: int | None = setting(
        None,
        "Rank of the difference base - pretrained; by default the fine-tuned adapter's.",
        least=1,
        realigns=True,
    )
    masks: str | None = setting(
        None,
        "Use these masks (masks.safetensors or its folder) and identify none.",
        kind="path",
        realigns=True,
    )


@dataclasses.dataclass(frozen=True)
class Draws:
    """What a run draws by.

    Attributes:
      seed: of the run's PRNG key.
    """

    seed: int = setting(0, "Seed of the PRNG key.", least=0, most=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class CalibrationPass:
    """How the base reads calibration data.

    Attributes:
      batch_size: rows in one batch.
      max_length: of a row, in tokens.
      template: of prompts, a name or a file; see ``nlsr_jax.data.templates``. None for the tokenizer's chat
        template, where it has one.
      dtype: number type of the base's weights.
      end_token: calibration responses end with the end token, as they do in training; without in older records.
    """

    batch_size: int = setting(16, "Calibration rows in one batch.", least=1)
    max_length: int = setting(512, "Longest calibration sequence in tokens.", least=2)
    template: str | None = setting(
        None,
        f"Prompt template: {', '.join(TEMPLATES)}, or a Jinja file; by default the tokenizer's chat template, if "
        "it has one and prompts are not rendered yet.",
    )
    dtype: str = setting(
        "float32", "Number type of the base weights: float32, bfloat16 or float16.", choices=DTYPES
    )
    end_token: bool = setting(True, "Calibration responses end with the end token.", flag=False)


@dataclasses.dataclass(frozen=True)
class LineageAllowance:
    """What of a doubtful lineage is accepted.

    Attributes:
      allow_unrelated: go on although modules do not share a lineage.
    """

    allow_unrelated: bool = setting(
        False, "Go on although modules share no lineage with the aligned ones.", realigns=True
    )


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of the calibration rows; None for those to be found.

    Attributes:
      prompt_field, response_field, rejected_field: see ``nlsr_jax.data.row_shapes.Fields``.
    """

    prompt_field: str | None = setting(
        None, "Column of the rows' prompts or conversations; by default it is found.", kind="column"
    )
    response_field: str | None = setting(
        None, "Column of their safe answers; by default it is found.", kind="column"
    )
    rejected_field: str | None = setting(
        None,
        "Column of their rejected answers, for preference_snip; by default it is found.",
        kind="column",
    )


@dataclasses.dataclass(frozen=True)
class Compression:
    """The rank of the written adapter.

    Attributes:
      max_rank: of a lifted adapter, whose rank grows with the slots that it needs; None for all of it.
    """

    max_rank: int | None = setting(
        None,
        "Compress a lifted adapter to this rank (without --aligned, or with --basis turned, svd or own).",
        least=1,
        realigns=True,
    )


@dataclasses.dataclass(frozen=True)
class ModelOutput:
    """What is written of a full model.

    Attributes:
      as_adapter: rank of an adapter on the base to write in place of a model; None for a model.
    """

    as_adapter: int | None = setting(
        None,
        "With a full model as --finetuned: write an adapter of this rank on the base in place of a model.",
        least=1,
        realigns=True,
    )


@dataclasses.dataclass(frozen=True)
class HarmlessPrompts:
    """What a refinement must not make the model refuse.

    Attributes:
      harmless: rows of harmless prompts, whose answers are not read; None for everyday questions in English.
      harmless_field: their column; None for the one to be found.
    """

    harmless: str | None = setting(
        None,
        "With --refine: rows of harmless prompts, such as your users'; by default everyday questions in English.",
        kind="path",
        realigns=True,
    )
    harmless_field: str | None = setting(
        None, "Column of the harmless prompts; by default it is found.", kind="column", realigns=True
    )


@dataclasses.dataclass(frozen=True)
class TaskPrompts:
    """What a refinement must not make the model answer otherwise.

    Attributes:
      keep: rows of prompts of the task that the model was fine-tuned for; answers and labels beside them are not
        read. None to ask none.
      keep_field: their column; None for the one to be found.
    """

    keep: str | None = setting(
        None,
        "With --refine: rows of unlabelled prompts of the fine-tuned task; the repair keeps the fine-tuned model's "
        "own answers to them.",
        kind="path",
        realigns=True,
    )
    keep_field: str | None = setting(
        None, "Column of the task's prompts; by default it is found.", kind="column", realigns=True
    )


@dataclasses.dataclass(frozen=True)
class Streaming:
    """How much of the base is in memory.

    Attributes:
      stream: read the base's decoder layers one at a time instead of holding all in memory. Results are the same.
    """

    stream: bool = setting(
        False,
        "Read the base layer by layer, for one that does not fit in memory; equal settings give equal results.",
    )


@dataclasses.dataclass(frozen=True)
class SafeAnswers:
    """Which safe answers a repair brings back.

    Attributes:
      answers: one of ``ANSWERS``; see ``nlsr_jax.calibration.own_answers``.
    """

    answers: str = setting(
        ROWS,
        "With --method gain: restore the safe answers of the calibration 'rows', the aligned model's 'own' answers "
        "to their prompts, or those of the two that fine-tuning has made less likely ('auto').",
        choices=ANSWERS,
        realigns=True,
    )


@dataclasses.dataclass(frozen=True)
class SourceSettings(Identification, Paths):
    """What decides which files a run reads: its paths, and what the method needs."""

    @property
    def needs_base(self) -> bool:
        """Whether the base model and calibration data are read."""
        return self.masks is None and self.needs_data


@dataclasses.dataclass(frozen=True)
class EvidenceSettings(SafeAnswers, Streaming, Columns, CalibrationPass, SourceSettings):
    """What calibration data are read by."""


@dataclasses.dataclass(frozen=True)
class Settings(
    Strength,
    TaskPrompts,
    EvidenceSettings,
    SafeAnswers,
    Streaming,
    HarmlessPrompts,
    ModelOutput,
    Compression,
    Columns,
    LineageAllowance,
    CalibrationPass,
    MethodSettings,
    SourceSettings,
    Draws,
    Paths,
):
    """All that decides the result of a run; every field is kept in the record. For the fields see the parts.

    The order of the parts, read from the right, is that of the fields in a record.
    """

    @property
    def lifts(self) -> bool:
        """Whether the adapters of the run are lifted: the base is the aligned model, or the update is factored."""
        return self.aligned is None or self.basis in UPDATE_BASES


COMPUTING = tuple(field.name for field in dataclasses.fields(Streaming))
"""Settings that decide how a run computes and not what: a repetition may have others."""
PATHS = tuple(field.name for field in dataclasses.fields(Settings) if field.metadata.get("kind") == "path")


def name_inputs(settings: Settings) -> dict[str, str | None]:
    """Return the inputs by the flags that give them."""
    return {f"--{name}": getattr(settings, name) for name in PATHS}


def with_absolute_paths(settings: Settings) -> Settings:
    """Return the settings with absolute local paths, so that a record can be repeated from anywhere."""
    values = {name: getattr(settings, name) for name in PATHS}
    given = {name: expand_text(os.fspath(value)) for name, value in values.items() if value}
    if settings.template and is_template_file(settings.template):
        given["template"] = expand_text(settings.template)
    local: dict[str, Any] = {n: str(pathlib.Path(v).absolute()) if exists(v) else v for n, v in given.items()}
    return dataclasses.replace(settings, **local)


def from_record(stored: dict, where: str) -> Settings:
    """Rebuild settings from a record.

    Raises:
      InputError: a setting that this version does not know, or of another type.
    """
    known = {field.name: field.type for field in dataclasses.fields(Settings)}
    unknown = sorted(set(stored) - set(known))
    if unknown:
        raise InputError(f"{where}: unknown setting {unknown[0]!r}; the record is of another version")
    stored = {"end_token": False, **stored}  # records made before there was this setting
    try:
        return Settings(**{name: convert(repr(name), value, known[name]) for name, value in stored.items()})
    except InputError as error:
        raise InputError(f"{where}: {error.marked}") from None
