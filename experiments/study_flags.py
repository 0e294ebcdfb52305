"""Flags and inputs that pretrain, align, finetune and evaluate share."""

import dataclasses
import hashlib
import pathlib
import shutil
import sys
from typing import Any

import jax
from absl import flags

FLAGS = flags.FLAGS
RUNS = "checkpoints/runs"


def define_study_flags(output: str) -> None:
    """Define the flags that every stage takes.

    Args:
      output: what ``--output`` is.
    """
    flags.DEFINE_string("config", "tiny", "Which study: tiny, llama3_8b, qwen2_7b or mistral_7b.")
    flags.DEFINE_string("base", None, "Base model, a Hugging Face directory or hub id; by default the config's.")
    flags.DEFINE_multi_string("data", [], "NAME=PATH: read a data set from a local file or folder.")
    flags.DEFINE_string("output", None, output)
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists.")
    flags.DEFINE_integer("seed", 0, "Seed of everything random.")


def define_training_flags() -> None:
    """Define the flags that change how a stage trains."""
    flags.DEFINE_float("learning_rate", None, "Highest learning rate; by default the config's.")
    flags.DEFINE_integer("epochs", None, "Times to go through the rows; by default the config's.")
    flags.DEFINE_integer("batch_size", None, "Rows of one step; by default the config's.")
    flags.DEFINE_integer("accumulate", None, "Parts that a batch is taken in; by default the config's.")
    flags.DEFINE_integer("rows", None, "How many rows to train on; by default the config's.")
    flags.DEFINE_enum("loss", None, ["token", "sequence"], "SFT's mean; by default the config's.")
    flags.DEFINE_integer("max_length", None, "Longest text in tokens; by default the config's.")
    flags.DEFINE_bool("remat", None, "Keep no activations for the backward pass; by default the config's.")
    flags.DEFINE_enum("compute_dtype", None, ["float32", "bfloat16", "float16"], "Number type of the passes.")
    flags.DEFINE_integer("save_every", None, "Steps between checkpoints; by default the config's.")


TRAINING = (
    "learning_rate", "epochs", "batch_size", "accumulate", "loss", "max_length", "remat", "compute_dtype",
    "save_every",
)  # fmt: skip


def get_config():
    """Return the config that the flags name."""
    from experiments import configs

    return configs.get(FLAGS.config)


def changed_stage(stage):
    """Return a stage with what the flags change."""
    from nlsr_jax.errors import InputError

    changes: dict[str, Any] = {name: FLAGS[name].value for name in TRAINING if FLAGS[name].value is not None}
    if changes.get("batch_size") and not changes.get("accumulate"):
        changes["accumulate"] = min(stage.training.accumulate, changes["batch_size"])
    rows = stage.rows if FLAGS.rows is None else FLAGS.rows
    if rows < 1:
        raise InputError(f"--rows is {rows}; expected at least 1")
    return dataclasses.replace(stage, rows=rows, training=dataclasses.replace(stage.training, **changes))


def sources() -> dict[str, str]:
    """Read ``--data NAME=PATH``."""
    from nlsr_jax.data.sources import DATA_SETS
    from nlsr_jax.errors import InputError

    found = {}
    for text in FLAGS.data:
        name, sign, place = text.partition("=")
        if not sign or not place or name not in DATA_SETS:
            raise InputError(f"--data has {text!r}; expected NAME=PATH with NAME one of {', '.join(DATA_SETS)}")
        found[name] = place
    return found


def say(text: str) -> None:
    """Print a line for people."""
    print(text, file=sys.stderr)


def open_base(config, judge=None):
    """Load the base and the world of a config.

    Args:
      config: the study.
      judge: for real data; see ``RealWorld``.

    Returns:
      ``(Base, World)``.

    Raises:
      InputError: a base or a tokenizer that cannot be used, or one of another world.
    """
    import jax.numpy as jnp

    from nlsr_jax.data.calibration import load_tokenizer
    from nlsr_jax.errors import InputError
    from nlsr_jax.laboratory.real import RealWorld
    from nlsr_jax.laboratory.stages import Base
    from nlsr_jax.laboratory.toy import ToyWorld
    from nlsr_jax.models import load_model

    place = FLAGS.base or config.base
    tokenizer = load_tokenizer(place)
    world: Any
    if config.world == "toy":
        world = ToyWorld()
        if tokenizer.get_vocab() != world.tokenizer.get_vocab():
            raise InputError(
                f"{place}: its tokenizer is not the toy world's; give a base made by experiments.pretrain"
            )
    else:
        options = {} if judge is None else {"judge": judge}
        world = RealWorld(tokenizer, config.template, sources=sources(), note=say, **options)
    model, params = load_model(place, dtype=jnp.dtype(config.dtype))
    return Base(model, params, tokenizer, world.special_tokens), world


def run_folder() -> pathlib.Path:
    """Return where a run keeps its state until its output is complete: beside the output."""
    output = pathlib.Path(FLAGS.output)
    return output.with_name(output.name + ".training")


def digest(tree) -> str:
    """Return a SHA-256 of the arrays of a tree."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        found.update(f"{leaf.dtype}{leaf.shape}".encode())
        found.update(leaf.tobytes())
    return found.hexdigest()


def check_output() -> pathlib.Path:
    """Return ``--output``, checked to be free before anything is trained."""
    from nlsr_jax.errors import InputError
    from nlsr_jax.formats.output import check_free

    if not FLAGS.output:
        raise InputError("--output is missing; name the folder to write")
    return check_free(FLAGS.output, FLAGS.overwrite)


def train_and_write(key, base, config, training, rows, description: str) -> None:
    """Train an adapter and write it with its metrics; a killed run goes on from its own folder.

    Args:
      key: of the stage.
      base: the base.
      config: the study.
      training: settings of the stage.
      rows: training rows.
      description: of the stage.
    """
    import jax.numpy as jnp

    from nlsr_jax.formats.output import whole_directory
    from nlsr_jax.formats.peft import load_adapter, write_adapter_files
    from nlsr_jax.laboratory.stages import train_adapter
    from nlsr_jax.random_streams import stream
    from nlsr_jax.training.initial import new_adapter
    from nlsr_jax.training.settings import check_training

    check_training(training)
    if FLAGS.start:
        start = load_adapter(FLAGS.start, base.model.config)
    else:
        start = new_adapter(stream(key, "lora"), base.model.config, config.lora)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
    work = run_folder()
    text = "\0".join("\0".join(map(str, row)) for row in rows)
    identity = {
        "stage": description,
        "seed": FLAGS.seed,
        "settings": dataclasses.asdict(training),
        "base": digest(base.params),
        "start": digest(start),
        "rows": hashlib.sha256(text.encode()).hexdigest(),
    }
    adapter = train_adapter(
        key, base, start, rows, training, folder=work, identity=identity, description=description, show=True
    )
    with whole_directory(FLAGS.output, overwrite=FLAGS.overwrite) as folder:
        write_adapter_files(adapter, folder, base_model_name_or_path=FLAGS.base or config.base)
        shutil.copyfile(work / "metrics.jsonl", folder / "metrics.jsonl")
        shutil.copyfile(work / "run.json", folder / "training.json")
    shutil.rmtree(work)
    print(f"wrote {FLAGS.output}")
