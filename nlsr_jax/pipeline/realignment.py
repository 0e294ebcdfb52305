"""From files to files: realign one PEFT adapter and write it with its record and its report.

The way runs down: settings and paths → sources → reference → evidence → masks → decision → written output.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.apart import Inputs
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.output import check_free, whole_directory, write_text
from nlsr_jax.formats import record as records
from nlsr_jax.formats.checkpoint import save_checkpoint
from nlsr_jax.formats.companions import Companions, copy_companions
from nlsr_jax.formats.mask_files import FILE as MASKS_FILE
from nlsr_jax.formats.model_matrices import is_model_folder
from nlsr_jax.nlsr.pruning import unclipped_probability
from nlsr_jax.nlsr.realign import repaired_layers
from nlsr_jax.nlsr.settings import NEEDS_FINETUNED, PRESETS
from nlsr_jax.parallel import is_first
from nlsr_jax.pipeline.accompanying import INPUT as COMPANIONS
from nlsr_jax.pipeline.accompanying import open_companions, write_card
from nlsr_jax.pipeline.base_names import check_trained_on, note_base_names, note_place, with_named_base
from nlsr_jax.pipeline.checking import CHECK, OutputCheck, adapters_of, open_check
from nlsr_jax.pipeline.checks import check_realignment, check_stream
from nlsr_jax.pipeline.choosing import Choice, Refinement, asked_for, settle, with_choice
from nlsr_jax.pipeline.decision import Decision, compare, decide
from nlsr_jax.pipeline.descent import Descent, check_lineage, judge_descent
from nlsr_jax.pipeline.evidence import CalibrationData
from nlsr_jax.pipeline.hub_inputs import ADAPTERS, DATA, MODELS, with_hub_folders
from nlsr_jax.pipeline.identification import Masks, obtain_masks, write_found
from nlsr_jax.pipeline.lifting import lift_of, open_lifted
from nlsr_jax.pipeline.recording import record_realignment, write_record
from nlsr_jax.pipeline.reference import Reference
from nlsr_jax.pipeline.restoration import Restoration, write_restored
from nlsr_jax.pipeline.run import Run, start
from nlsr_jax.pipeline.settings import Settings, name_inputs, with_absolute_paths
from nlsr_jax.pipeline.shared import Shared
from nlsr_jax.pipeline.sources import Sources, check_base, open_sources, source_notes
from nlsr_jax.pipeline.templating import describe_template, settled_template
from nlsr_jax.pipeline.trimming import trim
from nlsr_jax.pipeline.weights_realignment import realign_weights
from nlsr_jax.progress import Stages
from nlsr_jax.random_streams import stream
from nlsr_jax.report import draw_figures, render_report

_DRAWING = concurrent.futures.ThreadPoolExecutor(1)
"""One thread for all figures of a process: matplotlib keeps its fonts open for every thread that ever drew."""


def realign_files(
    settings: Settings,
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    recorded: dict | None = None,
    automatic: float | Mapping[str, float] | None = None,
    chosen: Mapping[str, Any] | None = None,
    refine: bool | Refinement = False,
    refined: Mapping[str, Any] | None = None,
    preset: str | None = None,
    stages: Stages | None = None,
    mesh: Mesh | None = None,
    read: Inputs | None = None,
    draw: Callable[[dict], dict] = draw_figures,
    cache: str | None = None,
    check: OutputCheck | None = None,
    shared: Shared | None = None,
) -> dict:
    """Realign a fine-tuned adapter on disk, or a fully fine-tuned model (see ``realign_weights``).

    Args:
      settings: inputs and settings.
      output: the folder to write: ``adapter_config.json``, ``adapter_model.safetensors``,
        ``masks.safetensors``, ``checkpoint/`` (Orbax), ``realignment.json``, ``report.html``, a model card
        ``README.md``, and the files that lie beside the fine-tuned adapter. It appears whole or not at all.
      overwrite: replace an output of this project that exists.
      recorded: the ``inputs`` of a record that this run repeats; the digests must be equal.
      automatic: choose β and the sparsity of ``gain`` by the calibration data with this aim, or with these of the
        arguments ``aim``, ``headroom`` and ``share`` of ``choose_settings``. The record's settings hold what was
        chosen, its ``automatic`` how.
      chosen: the ``automatic`` of a record that this run repeats.
      refine: refine the sparsity of ``gain`` by what the repaired model answers, within bounds; see ``Refinement``
        and ``nlsr_jax.calibration.refinement``. The record's settings hold the sparsity that was found,
        its ``refinement`` how.
      refined: the ``refinement`` of a record that this run repeats; ``settings`` are then that record's.
      preset: the name of the preset that the settings were taken from, for the record; None records none.
      stages: where to report progress.
      mesh: lay the base over these devices; None for one. Of several processes, the first one writes.
      read: what else has been read, by the name for messages, such as the record that is repeated.
      draw: draws the figures of the report from the record, in a thread.
      cache: folder of directions base − pretrained that were factored before; the bytes are the same without.
      check: asks the fine-tuned and the repaired model before the output is in its place, and writes its figures
        into the output, the record, the card and the report; see ``nlsr_jax.gate.attached.AttachedCheck``.
      shared: what other runs of this process have made; the bytes are the same without.

    Returns:
      The record, as written to ``realignment.json``.

    Raises:
      InputError: any input or setting that cannot be used, or an output that is, holds or lies in an input; nothing
        is written then.
      NotPassed: ``check`` does not publish the output; nothing is written then.
    """
    if preset not in (None, *PRESETS):
        raise InputError(f"{argument('preset')} is {preset!r}; expected one of {', '.join(PRESETS)}")
    check_stream(settings.stream, mesh)
    stages = stages or Stages(show=False)
    settings = with_hub_folders(settings, ADAPTERS, stages)
    if is_model_folder(settings.finetuned):
        asked = refine if refine is True else getattr(refine, "if_possible", True) is False
        _check_model(settings.finetuned, {"automatic": automatic or chosen, "refine": asked or refined})
        for given, whose in ((settings.harmless, "the harmless"), (settings.keep, "the task's")):
            if given is not None:
                stages.say(f"note: a full model's share of entries is not refined; {whose} prompts are not read")
        return realign_weights(
            settings,
            output,
            overwrite=overwrite,
            recorded=recorded,
            preset=preset,
            stages=stages,
            mesh=mesh,
            read=read,
            draw=draw,
            check=check,
            shared=shared,
        )
    refinement = refine if isinstance(refine, Refinement) else Refinement() if refine else None
    choice = Choice(None if automatic is None else asked_for(automatic), chosen, refinement, refined)
    settings = _checked(settings, choice, stages, repeats=recorded is not None, asked=check is not None)
    inputs = {**name_inputs(settings), **(read or {})}
    place = check_free(output, overwrite, inputs=inputs)
    publish = functools.partial(whole_directory, place, overwrite=overwrite, inputs=inputs)
    with start(
        settings.seed, stages, mesh=mesh, recorded=recorded, output=place, cache=cache, shared=shared
    ) as run:
        open_check(check, settings.base, run, streams=settings.stream)
        sources = _open(settings, run)
        if settings.needs_base:
            prompts = {"harmless": settings.harmless, "keep": settings.keep}
            named = settled_template(settings.template, settings.base, run, settings.calibration, prompts)
            settings = dataclasses.replace(settings, template=named)
        descent = judge_descent(settings, sources, run)
        data = CalibrationData(settings, sources, run)
        settings, told = settle(settings, choice, data, run)
        reference = Reference(sources, settings)
        masks = obtain_masks(settings, reference, data, run)
        settings = dataclasses.replace(settings, answers=data.settings.answers)  # those that were chosen
        run.notes.add(data.notes)
        told |= describe_template(settings.template, data.tokenizer) if settings.needs_base else {}
        companions = open_companions(sources.target.path, run)
        told |= {} if companions is None else {COMPANIONS: companions.describe()}
        told |= {} if preset is None else {"preset": preset}

        def decided() -> tuple[Restoration, dict[str, Any]]:
            made, lineage = _decide(settings, reference, masks, descent, run)
            return made, record_realignment(settings, made, lineage, told, run)

        if not is_first():
            return decided()[1]
        with publish() as folder, _kept_meanwhile(folder, masks, sources, settings.sparsity, run) as kept:
            made, record = decided()
            _write(folder, record, made, companions, kept, draw, run, functools.partial(_ask, check, folder, data))
    return record


def _ask(
    check: OutputCheck | None, folder: pathlib.Path, data: CalibrationData, written: Mapping[str, str]
) -> dict[str, Any]:
    """Check the written adapter; returns what the record says of it."""
    if check is None:
        return {}
    base, finetuned = data.settings.base, data.sources.target.path
    assert base is not None
    return {CHECK: check.run(folder, adapters_of(folder, finetuned, base, data, written), data.run)}


def _check_model(finetuned: str | None, choices: Mapping[str, Any]) -> None:
    """Check that nothing is to be chosen for a full model."""
    for name, asked in choices.items():
        if asked:
            raise InputError(
                f"{argument(name)} chooses for adapters, and {finetuned} is a full model: leave "
                f"{argument(name)} out"
            )


def _checked(settings: Settings, choice: Choice, stages: Stages, *, repeats: bool, asked: bool) -> Settings:
    """Return the settings as the run takes them, checked as far as no input has to be opened."""
    settings = with_named_base(with_choice(settings, choice), stages, asked=asked)
    check_realignment(settings)
    if not repeats:  # whose record may have no digests of a model that was given by its name
        settings = with_hub_folders(settings, (*MODELS, *DATA), stages)
    if not (settings.allow_unrelated or repeats):
        check_trained_on(settings)
    return with_absolute_paths(settings)


def _open(settings: Settings, run: Run) -> Sources:
    """Open the adapters and check that they fit each other, the base and the settings."""
    if settings.aligned is None:
        run.stages.say("no --aligned: the base itself is the aligned model, on which the adapter was trained")
    with run.stages("read adapters"):
        sources = open_lifted(settings, run) if settings.lifts else open_sources(settings, run)
        Reference(sources, settings).check_rank()
        check_base(sources, settings)
        if settings.layers is not None:
            repaired_layers(sources.target.shapes(), settings.layers)
    run.notes.add(source_notes(sources))
    bases = note_base_names(settings, sources) + note_place(settings, sources)
    run.notes.add(bases)
    run.notes.say(bases)  # at once: what follows may be refused
    return sources


def _decide(
    settings: Settings, reference: Reference, masks: Masks, descent: Descent | None, run: Run
) -> tuple[Restoration, Descent]:
    """Compare the fine-tuned adapter with the reference and choose the modules to repair."""
    sources, key = reference.sources, stream(run.key, "pruning")
    with run.stages("compare"):
        known = None if descent is None else descent.lineage
        measured = settings.lifts or (masks.method in NEEDS_FINETUNED and settings.space == "factors")
        found = compare(masks, reference, sources, known, strength=settings.given_strength if measured else None)
        if descent is None:
            verdict = check_lineage(settings, sources.target.shapes(), found.lineage, run)
            descent = Descent(found.lineage, verdict)
        decision = decide(key, settings, found, reference, sources)
        lift = lift_of(sources)
        trimmed = None if lift is None else trim(lift, masks.masks, decision.pruned, settings.max_rank)
    zero = sum(int(np.sum(z)) for z in decision.zero_norm.values())
    if zero and not settings.lifts:  # whose aligned adapter is zero
        run.notes.add([f"{zero} modules have a masked product of zero; their similarity is set to 0"])
    if settings.rule == "probability":
        run.notes.add(_odd_probabilities(decision, settings.base_probability, settings.increment))
    how = settings.space, settings.given_strength
    return Restoration(sources, reference, masks, key, decision, *how, trimmed), descent


def _odd_probabilities(decision: Decision, base_probability: float, increment: float) -> list[str]:
    """Say where the probabilities of the rule are not what they look like."""
    raw = unclipped_probability(decision.similarity, base_probability, increment)
    values = np.concatenate([np.asarray(p) for p in raw.values()])
    outside, notes = int(np.sum((values < 0) | (values > 1))), []
    if outside:
        notes.append(f"{outside} probabilities were outside [0, 1] and have been clipped")
    if increment < 0:
        notes.append("the increment is negative: the more similar a module, the more likely its repair")
    return notes


@contextlib.contextmanager
def _kept_meanwhile(
    folder: pathlib.Path, masks: Masks, sources: Sources, sparsity: float, run: Run
) -> Iterator[concurrent.futures.Future[dict[str, str]]]:
    """Write masks and checkpoint in a thread: the disk takes them while the processor compares.

    Yields:
      The future digest of the masks by file name.
    """

    def keep() -> dict[str, str]:
        digest = write_found(masks, folder / MASKS_FILE, sources.target.shapes(), sparsity)
        save_checkpoint(folder / "checkpoint", masks.masks, stream(run.key, "pruning"))
        return {MASKS_FILE: digest}

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(keep)


def _write(
    folder: pathlib.Path,
    record: dict[str, Any],
    made: Restoration,
    companions: Companions | None,
    kept: concurrent.futures.Future[dict[str, str]],
    draw: Callable[[dict], dict],
    run: Run,
    ask: Callable[[Mapping[str, str]], dict[str, Any]],
) -> None:
    """Write adapter, what goes beside it, report and record."""
    run.notes.say()
    if kept.done():
        kept.result()  # an error, before the rest is written for nothing
    with run.stages("write"):
        figures = _DRAWING.submit(draw, record)
        digests, notes = write_restored(folder, made)
        if made.trimmed is not None:
            record["lift"] |= made.trimmed.describe_compression()
        digests |= kept.result()
        if companions is not None:
            digests |= copy_companions(companions, folder)
        run.notes.add(notes)
        run.notes.say()
    record |= ask(digests)
    if companions is not None:
        base = made.sources.target.layout.config.get("base_model_name_or_path")
        write_card(folder, companions, record, base=base, digests=digests)
    with run.stages("digest outputs"):
        record["outputs"] = records.digest_folder(folder, digests)
    with run.stages("report"):
        # Without the seconds and Orbax's files, which hold the time: the same run gives the same page.
        fixed = {name: digest for name, digest in record["outputs"].items() if "/" not in name}
        page = render_report({**record, "outputs": fixed}, figures.result())
        write_text(folder / "report.html", page)
        record["outputs"]["report.html"] = sha256(folder / "report.html")
    write_record(folder / records.FILE, record, run.stages)
