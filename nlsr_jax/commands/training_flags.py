"""Flags of the training commands, and the steps from rows to an adapter on disk."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import mesh_flags, path_flags, study_flags
from nlsr_jax.errors import InputError

if TYPE_CHECKING:
    import jax

    from nlsr_jax.adapter import Adapter
    from nlsr_jax.study.config import Stage, StudyConfig
    from nlsr_jax.study.config_files import Study
    from nlsr_jax.training.settings import LoraSettings, TrainingSettings

FLAGS = flags.FLAGS
TRAINING = (
    "learning_rate", "epochs", "batch_size", "accumulate", "loss", "max_length", "remat", "compute_dtype",
    "save_every",
)  # fmt: skip
LORA = ("rank", "alpha", "modules")


def define_training_flags() -> None:
    """Define the flags that change how a stage trains."""
    flags.DEFINE_float("learning_rate", None, "Peak learning rate; by default the config's.")
    flags.DEFINE_integer("epochs", None, "Passes through the rows; by default the config's.")
    flags.DEFINE_integer("batch_size", None, "Rows per step; by default the config's.")
    flags.DEFINE_integer("accumulate", None, "Parts that a batch is split into; by default the config's.")
    flags.DEFINE_enum("loss", None, ["token", "sequence"], "Mean of the SFT loss; by default the config's.")
    flags.DEFINE_integer("max_length", None, "Longest text in tokens; by default the config's.")
    flags.DEFINE_bool("remat", None, "Recompute activations in the backward pass; by default the config's.")
    flags.DEFINE_enum("compute_dtype", None, ["float32", "bfloat16", "float16"], "Dtype of the passes.")
    flags.DEFINE_integer("save_every", None, "Steps between checkpoints; by default the config's.")


def define_adapter_flags() -> None:
    """Define the flags of the trained adapter and its rows."""
    flags.DEFINE_enum("attention", "plain", ["plain", "fused"], "fused: kernel of a GPU or TPU in half precision.")
    flags.DEFINE_integer("rows", None, "Number of training rows; by default the config's.")
    path_flags.define_input(
        "start", None, "PEFT directory of the adapter to continue from; without it, a new adapter is trained."
    )
    flags.DEFINE_integer("rank", None, "Rank of a new adapter; by default the config's.")
    flags.DEFINE_float(
        "alpha", None, "lora_alpha of a new adapter; by default twice the rank given, or the config's."
    )
    flags.DEFINE_list(
        "modules", None, "Projections of a new adapter, such as q_proj,v_proj; by default the config's."
    )


def changed_training(training: "TrainingSettings") -> "TrainingSettings":
    """Return training settings with the changes from the flags, checked.

    Raises:
      InputError: if a setting is invalid.
    """
    from nlsr_jax.training.settings import check_training

    changes: dict[str, Any] = {name: FLAGS[name].value for name in TRAINING if FLAGS[name].value is not None}
    if changes.get("batch_size", 0) > 0 and "accumulate" not in changes:
        changes["accumulate"] = math.gcd(training.accumulate, changes["batch_size"])
    changed = dataclasses.replace(training, **changes)
    check_training(changed)
    return changed


def changed_stage(stage: "Stage") -> "Stage":
    """Return a stage with the changes from the flags, checked.

    Raises:
      InputError: if a setting is invalid.
    """
    rows = stage.rows if FLAGS.rows is None else FLAGS.rows
    if rows < 1:
        raise InputError(f"--rows is {rows}; expected at least 1")
    return dataclasses.replace(stage, rows=rows, training=changed_training(stage.training))


def changed_lora(lora: "LoraSettings") -> "LoraSettings":
    """Return the settings of a new adapter with the changes from the flags, checked.

    Raises:
      InputError: if a setting is invalid, or is given together with ``--start``.
    """
    from nlsr_jax.training.settings import check_lora

    given = [name for name in LORA if FLAGS[name].value is not None]
    if FLAGS.start and given:
        raise InputError(f"--{given[0]} is for a new adapter, but --start continues an existing one")
    changes: dict[str, Any] = {name: FLAGS[name].value for name in given}
    if "rank" in changes and "alpha" not in changes:
        changes["alpha"] = 2.0 * changes["rank"]
    if "modules" in changes:
        changes["modules"] = tuple(name.strip() for name in changes["modules"])
    changed = dataclasses.replace(lora, **changes)
    check_lora(changed)
    return changed


def changed_study() -> "Study":
    """Return the study named by the flags, with their changes to a new adapter.

    Raises:
      InputError: if the config is unknown, or flags cannot be used with it.
    """
    study = study_flags.open_study()
    config = study.config
    if study.given.places and config.world == "toy":
        raise InputError(f"--data is for real data; --config {config.name} is a toy world that makes its own rows")
    return study._replace(config=dataclasses.replace(config, lora=changed_lora(config.lora)))


def output_folder() -> str:
    """Return ``--output``.

    Raises:
      InputError: if it is missing.
    """
    if not FLAGS.output:
        raise InputError("--output is missing; name the folder to write")
    return FLAGS.output


def open_start(config: "StudyConfig") -> "Adapter | None":
    """Return the adapter of ``--start``, checked against the base; None to train a new adapter.

    Raises:
      InputError: if there is no such base, or the adapter cannot be used or belongs to another base.
    """
    from nlsr_jax.configs import base_of
    from nlsr_jax.formats.hugging_face import read_config, resolve
    from nlsr_jax.formats.peft import load_adapter, open_adapter
    from nlsr_jax.formats.peft_carried_checks import summary

    place = base_of(config, FLAGS.base)
    model_config = read_config(resolve(place))
    if not FLAGS.start:
        return None
    file = open_adapter(FLAGS.start)
    study_flags.note_other_base("--start", file.layout, place)
    if carried := file.carried:
        raise InputError(
            f"--start: {FLAGS.start} has {summary(carried)} beside the factors of the decoder's projections, "
            "which training would lose; start from an adapter with only these factors"
        )
    return load_adapter(FLAGS.start, model_config)


def write_adapter(
    key: "jax.Array",
    study: "Study",
    training: "TrainingSettings",
    description: str,
    draw: Callable[[Any], Any],
) -> None:
    """Train an adapter and write it with its metrics; a killed run resumes from its run folder.

    Args:
      key: key of the stage.
      study: the study, with the changes from the flags.
      training: settings of the stage.
      description: name of the stage.
      draw: returns the rows of a world.
    """
    import jax
    import jax.numpy as jnp

    from nlsr_jax.configs import base_of
    from nlsr_jax.formats.peft import write_adapter_files
    from nlsr_jax.random_streams import stream
    from nlsr_jax.study.stages import train_adapter
    from nlsr_jax.training.initial import new_adapter
    from nlsr_jax.training.publishing import published, training_folder, write_run
    from nlsr_jax.training.training_data import training_data, united

    config = study.config
    mesh_flags.open_mesh()  # opened again with the base; this call fails early if it cannot be
    replacing: dict[str, Any] = {"overwrite": FLAGS.overwrite, "inputs": study_flags.inputs(config)}
    with training_folder(output_folder(), **replacing) as work:
        start = open_start(config)
        base, world = study_flags.open_base(study)
        rows = draw(world)
        if start is None:
            start = new_adapter(stream(key, "lora"), base.model.config, config.lora)
        adapter = train_adapter(
            key,
            base,
            jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start),
            rows,
            training,
            folder=work,
            identity={"stage": description, "seed": FLAGS.seed},
            description=description,
            show=True,
            note=study_flags.say,
        )
        with published(work, FLAGS.output, **replacing) as folder:
            write_adapter_files(adapter, folder, base_model_name_or_path=base_of(config, FLAGS.base))
            before = (training_data(FLAGS.start), training_data(base_of(config, FLAGS.base)))
            write_run(work, folder, united([study.given.files(), *before]))
    print(f"wrote {FLAGS.output}")
