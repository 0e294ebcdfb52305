r"""Realign a fine-tuned PEFT adapter with an aligned one, or with the aligned model that it was trained on.

  nlsr realign --base DIR_OR_ID --aligned DIR --finetuned DIR [--weak DIR] \
      --calibration FILE.jsonl --output DIR
  nlsr realign --base ALIGNED_MODEL --finetuned DIR [--pretrained MODEL] \
      --calibration FILE.jsonl --output DIR

Without --aligned the base is the aligned model, such as an instruct model, and the adapter was trained on it. With
--pretrained, the model that it was aligned from, the repair may go beyond it. The defaults are fixed then: the gain
of 2 % of the entries, with --pretrained of 1 % and beta 1. The base may be left out where the adapter names it.

With --aligned the defaults are the published settings, with which the tables are made (nlsr_jax.PUBLISHED).
--automatic chooses amplification and sparsity by the calibration data. No base and no calibration data are needed
with --masks FILE or with --method magnitude or random.

The output folder receives the realigned adapter (PEFT), masks.safetensors, an Orbax copy of masks and pruning key,
realignment.json and report.html. To repeat a run to the same bytes:

  nlsr realign --from_record DIR/realignment.json --output NEW_DIR
"""

import pathlib
from typing import Any

from absl import flags

from nlsr_jax.commands import command, mesh_flags, method_flags, path_flags
from nlsr_jax.commands.digesting import digesting
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.settings import AIM, HEADROOM, LIFTED, LIFTED_ALONE, PUBLISHED

method_flags.define_identification_flags()
mesh_flags.define_mesh_flag()
mesh_flags.define_host_flags()
path_flags.define_input("finetuned", None, "PEFT directory of the fine-tuned adapter.")
path_flags.define_input(
    "pretrained",
    None,
    "Without --aligned, where the base is the aligned model: the model that the base was aligned from.",
)
flags.DEFINE_integer(
    "direction_rank", None, "Rank of the difference base - pretrained; by default the fine-tuned adapter's."
)
path_flags.define_input("masks", None, "Use these masks (masks.safetensors or its folder) and identify none.")
flags.DEFINE_float(
    "base_probability", PUBLISHED.base_probability, "Probability of being left alone before the rank term."
)
flags.DEFINE_float("increment", PUBLISHED.increment, "What the most similar module's probability is higher by.")
flags.DEFINE_string("rule", PUBLISHED.rule, "probability, threshold, least_similar, all or layers.")
flags.DEFINE_float("tau", PUBLISHED.tau, "Rule threshold: repair modules with a similarity below this.")
flags.DEFINE_float("share", PUBLISHED.share, "Rule least_similar: the share of modules to repair, 0 to 1.")
flags.DEFINE_list("layers", None, "Rule layers: decoder layers to repair, such as 8,9,10,11 or 8-11.")
flags.DEFINE_string("space", PUBLISHED.space, "Correction of 'factors' or of their 'product' (rank 2r).")
flags.DEFINE_string(
    "basis", PUBLISHED.basis, "Compare in the rank axis 'as_is', turned by 'procrustes', or 'linear'."
)
flags.DEFINE_bool("automatic", False, "Choose beta and sparsity of gain by the calibration data alone.")
flags.DEFINE_float("aim", AIM, "With --automatic: how likely answers are to begin as safe ones do, 0 to 1.")
flags.DEFINE_float(
    "headroom",
    HEADROOM,
    "With --automatic: how much nearer to 1 a share of entries must be able to come than its target.",
)
flags.DEFINE_float("automatic_share", None, "With --automatic: the only share of entries to try, such as 0.03.")
flags.DEFINE_bool("allow_unrelated", False, "Go on although modules share no lineage with the aligned ones.")
path_flags.define_input("from_record", None, "Repeat the run of this realignment.json to the same bytes.")

FLAGS = flags.FLAGS
_REALIGNMENT = (
    "finetuned",
    "pretrained",
    "direction_rank",
    "masks",
    "base_probability",
    "increment",
    "rule",
    "tau",
    "share",
    "layers",
    "space",
    "basis",
    "allow_unrelated",
)
_CHOICE = ("aim", "headroom", "automatic_share")
_AUTOMATIC = (
    "beta", "amplification_space", "rank", "sparsity", "method", "granularity", "rule", "tau", "share", "layers",
    "space", "masks",
)  # fmt: skip


def main(_) -> None:
    """Run one realignment from flags."""
    with digesting(_large_inputs()) as digests:
        _realign(digests)


def _large_inputs() -> list[pathlib.Path]:
    """The files of the flags that take long to digest."""
    adapters = [pathlib.Path(path) for name in ("aligned", "weak", "finetuned") if (path := FLAGS[name].value)]
    masks = [pathlib.Path(FLAGS.masks)] if FLAGS.masks else []
    weights = ("adapter_model.safetensors", "adapters.safetensors")
    files = [path / name for path in adapters for name in weights]
    return [*files, *masks, *(path / "masks.safetensors" for path in masks)]


def _realign(digests) -> None:
    from nlsr_jax.commands.drawing import draw
    from nlsr_jax.parallel import is_first, wait_for_all
    from nlsr_jax.pipeline import Stages, realign_files

    if not FLAGS.output:
        raise InputError("--output is missing; name the folder to write")
    options: dict[str, Any] = {
        "overwrite": FLAGS.overwrite,
        "automatic": _choice(),
        "digests": digests,
        "draw": draw,
        "read": path_flags.inputs(),
    }
    if FLAGS.from_record:
        settings, before = _recorded_settings()
        options |= {"recorded": before["inputs"], "chosen": before.get("automatic")}
    else:
        settings = _settings()
    mesh = mesh_flags.open_mesh()
    first = is_first()
    record = realign_files(settings, FLAGS.output, stages=Stages(show=first), mesh=mesh, **options)
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


def _choice() -> dict[str, float] | None:
    """What the automatic choice is asked for; None where there is none."""
    if not FLAGS.automatic:
        given = [name for name in _CHOICE if FLAGS[name].present]
        if given:
            raise InputError(f"--{given[0]} is of --automatic, which is missing")
        return None
    given = [name for name in _AUTOMATIC if FLAGS[name].present]
    if given or FLAGS.from_record:
        name = given[0] if given else "from_record"
        raise InputError(f"--{name} is given together with --automatic, which chooses it; leave one of them out")
    asked = {"aim": FLAGS.aim, "headroom": FLAGS.headroom}
    return asked if FLAGS.automatic_share is None else asked | {"share": FLAGS.automatic_share}


def _settings():
    import dataclasses

    from nlsr_jax.pipeline import Settings

    values: dict[str, Any] = {name: FLAGS[name].value for name in method_flags.IDENTIFICATION + _REALIGNMENT}
    values["layers"] = _layers(values["layers"])
    if not FLAGS.aligned:
        defaults = dataclasses.asdict(LIFTED if FLAGS.pretrained else LIFTED_ALONE)
        values |= {name: value for name, value in defaults.items() if name in values and not FLAGS[name].present}
    return Settings(**values)


def _layers(texts):
    """Read layer numbers and ranges: ``["8-11", "20"]`` → (8, 9, 10, 11, 20)."""
    if texts is None:
        return None
    layers = set()
    for text in texts:
        first, dash, last = text.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(text) > 20:
            raise InputError(f"--layers has {text!r}; expected numbers or ranges such as 8,9 or 8-11")
        span = range(int(first), int(last if dash else first) + 1)
        if not span or span[-1] > 10_000:
            raise InputError(f"--layers has {text!r}; expected a range that rises, such as 8-11")
        layers |= set(span)
    return tuple(sorted(layers))


def _recorded_settings():
    """Settings of the record, and the record; paths given as flags replace the recorded ones."""
    import dataclasses

    from nlsr_jax.formats.record import read_record
    from nlsr_jax.pipeline.settings import PATHS, from_record

    record = read_record(FLAGS.from_record)
    for name in method_flags.IDENTIFICATION + _REALIGNMENT:
        if FLAGS[name].present and name not in PATHS:
            raise InputError(f"--{name} is given together with --from_record, which holds all settings")
    moved: dict[str, Any] = {name: FLAGS[name].value for name in PATHS if FLAGS[name].present}
    return dataclasses.replace(from_record(record["settings"], FLAGS.from_record), **moved), record


if __name__ == "__main__":
    command.run(main)
