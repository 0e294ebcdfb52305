r"""Realign a fine-tuned PEFT adapter or full model with the aligned adapter or model that it was trained on.

  nlsr realign --base DIR_OR_ID --aligned DIR --finetuned DIR [--weak DIR] \
      --calibration FILE.jsonl --output DIR
  nlsr realign --base ALIGNED_MODEL --finetuned DIR [--pretrained MODEL] \
      --calibration FILE.jsonl --output DIR
  nlsr realign --base ALIGNED_MODEL --finetuned MODEL_DIR [--pretrained MODEL] [--as_adapter RANK] \
      --calibration FILE.jsonl --output DIR

Without --aligned the base is the aligned model, such as an instruct model, and the adapter was trained on it. With
--pretrained, the model that it was aligned from, the repair may go beyond it. The base may be left out where the
adapter names it.

The defaults are the recommended settings (--preset recommended): one threshold on the gain of all entries. The
share of the entries is refined by what the repaired model answers: the smallest one with which it refuses the
calibration prompts, as long as it refuses no more --harmless prompts. --keep names prompts of the fine-tuned task,
without labels: the repair then also keeps the fine-tuned model's own answers to them. Without --pretrained and
--aligned the entries of such a repair go beyond the aligned model (--strength 2), and the search begins at 0.4 %.
--norefine takes the fixed share with strength 1: 2 %, with --pretrained 1 % and beta 1, with --aligned 0.5 % and
beta 1. The share of a full model is not refined: it is 10 %, with --pretrained 3 % and beta 1.

Flags beside a preset change it; a given --sparsity is not refined. --preset published takes the paper's settings,
which are also those of another --method than gain, of --masks and of --automatic.

With --aligned the recommended basis is turned: what the fine-tuning added to the aligned adapter is factored anew,
so that adapters need no common lineage, rank or scaling. The output's rank grows; --max_rank compresses it and
reports the error.

A full model as --finetuned is repaired entry by entry of its projections' matrices. OUT is then a model in the same
shards and types, or with --as_adapter an adapter of that rank on the base; embeddings, norms, biases and heads are
copied.

--stream reads the base layer by layer, for one that does not fit in memory: once forward, once back. The output is
the same, but for snip in bfloat16 or float16, which differs by roundings. Activations that memory does not take go
to a file beside the output, which no interrupted run leaves.

--automatic chooses amplification and sparsity by likelihood, for adapters of one lineage. No base and no
calibration data are needed with --masks FILE or with --method magnitude or random.

--config FILE holds settings by the names of flags (.toml, .json); flags that are given come first. --template
renders the prompts: by default the tokenizer's chat template, where it has one.

--check asks the fine-tuned and the repaired model before the output is in its place, as nlsr check does, and adds
the figures to OUT, the record, the card and the report:

  nlsr realign ... --output OUT --check --harmful ROWS --harmless ROWS --max_hs 5 --max_over_refusal 3

The status is then that of the check: 0 passes, 1 fails, 3 too few rows to tell. With --only_if_passed OUT is
written only where the check passes. Without --harmful the calibration prompts are asked, which the repair has seen;
without --harmless everyday questions in English; --config tiny takes the toy world's requests.

--push_to_hub ORG/NAME pushes OUT to the Hugging Face hub once it is written, with --private into a private
repository. An output whose check does not pass is not pushed.

The output folder receives the realigned adapter (PEFT), masks.safetensors, an Orbax copy of masks and pruning key,
realignment.json and report.html. To repeat a run to the same bytes:

  nlsr realign --from_record DIR/realignment.json --output NEW_DIR
"""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import check_flags, command, helping, mesh_flags, method_flags, path_flags, settings_file
from nlsr_jax.commands.checked import end_with, print_check
from nlsr_jax.commands.pushed import push_output
from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.settings import AUTO, GAIN, PRESETS, AutomaticSettings, preset, preset_defaults
from nlsr_jax.pipeline.settings import COMPUTING, PATHS, Settings

if TYPE_CHECKING:
    from nlsr_jax.gate.attached import AttachedCheck
    from nlsr_jax.pipeline.choosing import Refinement

PUBLISHED_WITH_ALIGNED = bool(globals().get("PUBLISHED_WITH_ALIGNED"))
"""Whether the published settings are the default where there is an aligned adapter, as for the paper's tables."""
FLAGS = flags.FLAGS
CACHE = "NLSR_CACHE"
"""Environment variable with the default of ``--cache``."""
FIXING = ("sparsity", "method", "granularity", "rule", "masks", "automatic", "basis", "space")
"""Flags with which the share of entries is not refined unless ``--refine`` is given."""
_SETTINGS = method_flags.names_of(Settings)
_CHOICE = {"aim": "aim", "headroom": "headroom", "automatic_share": "share"}
"""Flags of the automatic choice, and the fields of ``AutomaticSettings`` that they are."""

settings_file.define_settings_file("realign")
method_flags.define_flags(Settings, _SETTINGS)
for _name, _text in preset_defaults().items():
    helping.tell_default(_name, _text)
helping.tell_default("answers", "'auto' with the recommended settings and an adapter, otherwise 'rows'")
path_flags.define_output("output", None, "Folder to write; it appears whole or not at all.")
path_flags.define_overwrite()
mesh_flags.define_mesh_flag()
mesh_flags.define_host_flags()
flags.DEFINE_enum(
    "preset",
    None,
    PRESETS,
    "The settings that hold where no flag says otherwise; by default recommended, with --aligned and another "
    "method than gain published.",
)
flags.DEFINE_bool("automatic", False, "Choose beta and sparsity of gain by the calibration data alone.")
flags.DEFINE_bool(
    "refine",
    None,
    "Refine the sparsity of gain by the repaired model's answers; by default with the recommended settings.",
)
method_flags.define_flags(AutomaticSettings, ("aim", "headroom"))
method_flags.define_flags(AutomaticSettings, ("share",), prefix="automatic_")
path_flags.define_output(
    "cache",
    None,
    "Folder of directions base - pretrained that were factored before, to take them from and keep them in; by "
    f"default that of the environment variable {CACHE}, where it is set.",
)
flags.DEFINE_bool("check", False, "Ask the repaired and the fine-tuned model, and check the bounds that are given.")
flags.DEFINE_bool("only_if_passed", False, "With --check: write the output only where every bound holds.")
check_flags.define_check_flags([name for name in check_flags.OWN if name != "config"])
flags.DEFINE_string(
    "push_to_hub", None, "Push the output to this repository of the Hugging Face hub, ORG/NAME, once it is written."
)
flags.DEFINE_bool("private", False, "With --push_to_hub: make a private repository; one that is public is refused.")
path_flags.define_input("from_record", None, "Repeat the run of this realignment.json to the same bytes.")


def main(_) -> None:
    """Run one realignment from flags."""
    from nlsr_jax.parallel import is_first, wait_for_all
    from nlsr_jax.pipeline import Stages, realign_files
    from nlsr_jax.pipeline.checking import NotPassed

    if not FLAGS.output:
        raise InputError(f"{argument('output')} is missing; name the folder to write")
    settings, options = asked()
    _check_push()
    check = options["check"]
    mesh = mesh_flags.open_mesh()
    first = is_first()
    try:
        record = realign_files(settings, FLAGS.output, stages=Stages(show=first), mesh=mesh, **options)
    except NotPassed as refused:
        print(refused.summary)
        end_with(refused.status)
        return
    wait_for_all()
    if not first:
        return
    summary = record["summary"]
    for doubt in record.get("automatic", {}).get("doubts", []):
        print(f"warning: {doubt}")
    print(
        f"repaired {summary['repaired']} of {summary['modules']} modules, "
        f"{summary['changed_entries']} of {summary['total_entries']} entries; wrote {FLAGS.output} "
        f"(see {FLAGS.output}/report.html)"
    )
    status = 0
    if check is not None:
        print_check(check.record)
        status = check.record["status"]
    if FLAGS.push_to_hub:
        push_output(FLAGS.output, FLAGS.push_to_hub, private=FLAGS.private, status=status)
    end_with(status)


def _check_push() -> None:
    """Check, before anything is computed, that the output can be pushed."""
    from nlsr_jax.pipeline.pushing import check_destination

    if FLAGS.push_to_hub:
        check_destination(FLAGS.push_to_hub, private=FLAGS.private)
    elif FLAGS.private:
        raise InputError(f"{argument('private')} needs {argument('push_to_hub')}, which is missing")


def _attached(
    calibration: str | None, template: str | None, dtype: str, seed: int, refines: bool
) -> "AttachedCheck | None":
    """Return the check of the output; None where none is asked for.

    Args:
      calibration: rows whose prompts are asked where no harmful ones are given.
      template, dtype, seed: of the run.
      refines: whether the run may read the harmless prompts to refine the share of entries.
    """
    study = None if FLAGS.config is None or settings_file.is_settings_file(FLAGS.config) else FLAGS.config
    given = [name for name in check_flags.given() if name != "config" or study is not None]
    given += ["only_if_passed"] if FLAGS.only_if_passed else []
    if not FLAGS.check:
        if given:
            raise InputError(f"{argument(given[0])} needs {argument('check')}, which is missing")
        return None
    from nlsr_jax.data.templates import AUTO
    from nlsr_jax.gate.attached import AttachedCheck

    changes: dict[str, Any] = {"template": template or AUTO, "dtype": dtype, "seed": seed, "config": study}
    if not FLAGS["batch_size"].present:
        changes["batch_size"] = None
    seen = ["harmless"] if refines and study is None else []
    if study is not None:  # whose requests are asked; the harmless prompts are those of the refinement
        changes |= {"harmless": None, "harmless_field": None}
    if study is None and FLAGS.harmful is None and calibration is not None:
        changes |= {"harmful": calibration, "harmful_field": FLAGS.prompt_field}
        seen.insert(0, "harmful")
    return AttachedCheck(check_flags.get_settings(**changes), only_if_passed=FLAGS.only_if_passed, seen=seen)


def asked() -> tuple[Settings, dict[str, Any]]:
    """Return the settings of the flags, and the other arguments of ``realign_files``.

    The file of settings is read first, where the flags name one.
    """
    from nlsr_jax.pipeline.hub_inputs import names_model

    settings_file.apply_settings_file("realign")
    options: dict[str, Any] = {
        "overwrite": FLAGS.overwrite,
        "automatic": _choice(),
        "refine": _refine(),
        "preset": FLAGS.preset or (None if _preset() == "published" else _preset()),
        "read": path_flags.inputs(),
        "cache": FLAGS.cache or os.environ.get(CACHE) or None,
    }
    if FLAGS.from_record:
        settings, before = _recorded_settings()
        told = {"chosen": "automatic", "refined": "refinement", "preset": "preset"}
        options |= {"recorded": before["inputs"], **{name: before.get(key) for name, key in told.items()}}
    else:
        settings = _settings()
    refines = bool(options["refine"]) and not names_model(settings.finetuned)
    check = _attached(settings.calibration, settings.template, settings.dtype, settings.seed, refines)
    if check is not None and not (refines or FLAGS.from_record):  # harmless prompts are of the check alone
        settings = dataclasses.replace(settings, harmless=None, harmless_field=None)
    return settings, options | {"check": check}


def _choice() -> dict[str, float] | None:
    """What the automatic choice is asked for; None where there is none."""
    from nlsr_jax.pipeline.choosing import CHOSEN

    if not FLAGS.automatic:
        given = [name for name in _CHOICE if FLAGS[name].present]
        if given:
            raise InputError(f"{argument(given[0])} needs {argument('automatic')}, which is missing")
        return None
    given = [name for name in (*CHOSEN, "masks", "preset", "from_record") if FLAGS[name].present]
    if given:
        raise InputError(
            f"{argument(given[0])} is given together with {argument('automatic')}, which chooses it; leave one of "
            "them out"
        )
    asked = {field: FLAGS[flag].value for flag, field in _CHOICE.items()}
    return {field: value for field, value in asked.items() if value is not None}


def _preset() -> str:
    """The name of the preset that holds: without one, recommended, which is about gain and lifted adapters."""
    if FLAGS.preset:
        return FLAGS.preset
    others = FLAGS.automatic or FLAGS.masks or (FLAGS["method"].present and FLAGS.method != GAIN.method)
    return "published" if FLAGS.aligned and (PUBLISHED_WITH_ALIGNED or others) else "recommended"


def _refine() -> "bool | Refinement":
    """Whether the share of entries is refined: as asked for, and by default where nothing speaks against it."""
    from nlsr_jax.pipeline.choosing import Refinement

    if FLAGS.refine is not None or FLAGS.from_record:
        return bool(FLAGS.refine)
    if _preset() == "published" or any(FLAGS[name].present for name in FIXING):
        return False
    return Refinement(if_possible=True)


def _settings() -> Settings:
    """The settings of the flags; where one is not given, those of the preset."""
    from nlsr_jax.pipeline.hub_inputs import names_model

    holds = {"direction": bool(FLAGS.pretrained), "aligned": bool(FLAGS.aligned)}
    model = names_model(FLAGS.finetuned)
    defaults = dataclasses.asdict(preset(_preset(), **holds, model=model))
    given = method_flags.values_of(Settings, _SETTINGS)
    found = Settings(**given | {name: value for name, value in defaults.items() if not FLAGS[name].present})
    chosen = _preset() != "published" and found.needs_finetuned and not (model or found.masks)
    return dataclasses.replace(found, answers=AUTO) if chosen and not FLAGS["answers"].present else found


def _recorded_settings() -> tuple[Settings, dict[str, Any]]:
    """Settings of the record, and the record; flags of paths and of the way of computing replace its own."""
    from nlsr_jax.formats.record import read_record
    from nlsr_jax.pipeline.settings import from_record

    for name in (*_SETTINGS, "preset", "refine"):
        if FLAGS[name].present and name not in (*PATHS, *COMPUTING):
            raise InputError(
                f"{argument(name)} is given together with {argument('from_record')}, which holds all settings"
            )
    record = read_record(FLAGS.from_record)
    moved: dict[str, Any] = {name: FLAGS[name].value for name in (*PATHS, *COMPUTING) if FLAGS[name].present}
    return dataclasses.replace(from_record(record["settings"], FLAGS.from_record), **moved), record


if __name__ == "__main__":
    command.run(main)
