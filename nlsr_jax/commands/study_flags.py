"""Flags and inputs shared by pretrain, align, finetune and evaluate."""

import dataclasses
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import mesh_flags, path_flags
from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.study.config import StudyConfig
    from nlsr_jax.study.stages import Base
    from nlsr_jax.study.worlds import World

FLAGS = flags.FLAGS


def define_study_flags(output: str) -> None:
    """Define the flags of all stages.

    Args:
      output: help text of ``--output``.
    """
    flags.DEFINE_string("config", "tiny", "The study: tiny, smollm2, llama3_8b, qwen2_7b or mistral_7b.")
    path_flags.define_input(
        "base", None, "Base model, a Hugging Face directory or hub id; by default the config's."
    )
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16", "float16"], "Dtype of the base's weights; by default the config's."
    )
    path_flags.define_named_inputs("data", "NAME=PATH: read a data set from a local file or folder.")
    path_flags.define_output("output", None, output)
    path_flags.define_overwrite()
    flags.DEFINE_integer("seed", 0, "Seed of all randomness.")


def get_config() -> "StudyConfig":
    """Return the config named by the flags, with the dtype from the flags.

    Raises:
      InputError: if the config or the seed is invalid.
    """
    from nlsr_jax import configs

    if not 0 <= FLAGS.seed < 2**32:
        raise InputError(f"--seed is {FLAGS.seed}; expected 0 to {2**32 - 1}")
    config = configs.get(FLAGS.config)
    return config if FLAGS.dtype is None else dataclasses.replace(config, dtype=FLAGS.dtype)


def inputs(config: "StudyConfig") -> dict[str, str]:
    """Return the inputs of a command by flag; without ``--base`` this includes the config's base."""
    found = path_flags.inputs()
    return found if FLAGS.base else {**found, f"base of --config {config.name}": config.base}


def sources() -> dict[str, str]:
    """Parse ``--data NAME=PATH``."""
    from nlsr_jax.data.sources import DATA_SETS

    found = {}
    for text in FLAGS.data:
        name, sign, place = text.partition("=")
        if not sign or not place or name not in DATA_SETS:
            raise InputError(f"--data has {text!r}; expected NAME=PATH with NAME one of {', '.join(DATA_SETS)}")
        found[name] = place
    return found


def say(text: str) -> None:
    """Print a line for the user."""
    print(text, file=sys.stderr)


def open_world(config: "StudyConfig", **options: Any) -> tuple[Tokenizer, "World"]:
    """Open the base's tokenizer and the world of a config.

    Args:
      config: the study.
      options: options for real data; see ``RealWorld``.

    Returns:
      ``(tokenizer, World)``.

    Raises:
      InputError: if the tokenizer cannot be used or belongs to another world.
    """
    from nlsr_jax import configs

    return configs.open_world(config, configs.base_of(config, FLAGS.base), sources=sources(), note=say, **options)


def note(text: str) -> None:
    """Print a note about something unusual that is not an error."""
    say(f"note: {text}")


def noted(found: list[str]) -> Callable[[str], None]:
    """Return a function that prints a note and appends it to a list."""

    def keep(text: str) -> None:
        found.append(text)
        note(text)

    return keep


def note_other_base(flag: str, layout: Any, place: str, note: Callable[[str], None] = note) -> None:
    """Report if an adapter names a different base from the one it will run with.

    Args:
      flag: the flag that gave the adapter.
      layout: layout of the adapter's file.
      place: the base, a folder or a hub id.
      note: called with the line.
    """
    from nlsr_jax.pipeline.base_names import note_bases

    for text in note_bases({"--base": place, flag: layout.config.get("base_model_name_or_path")}):
        note(text)


def load_base(
    config: "StudyConfig", tokenizer: Tokenizer, world: "World", note: Callable[[str], None] = note
) -> "Base":
    """Load the base of a config.

    Args:
      config: the study.
      tokenizer, world: from ``open_world``.
      note: called with one line about each peculiarity of the base or its tokenizer.

    Raises:
      InputError: if the base cannot be used.
    """
    import jax.numpy as jnp

    from nlsr_jax.configs import base_of
    from nlsr_jax.data.encoding import note_surplus
    from nlsr_jax.models import load_model
    from nlsr_jax.study.stages import Base

    mesh = mesh_flags.open_mesh() if "mesh" in FLAGS else None
    attention = FLAGS.attention if "attention" in FLAGS else "plain"
    place = base_of(config, FLAGS.base)
    model, params = load_model(place, dtype=jnp.dtype(config.dtype), mesh=mesh, attention=attention, note=note)
    for text in note_surplus(tokenizer, model.config.vocab_size):
        note(f"{place}: {text}")
    return Base(model, params, tokenizer, world.special_tokens)


def open_base(config: "StudyConfig", judge: Any = None) -> tuple["Base", "World"]:
    """Load the base and the world of a config.

    Args:
      config: the study.
      judge: judge for real data; see ``RealWorld``.

    Returns:
      ``(Base, World)``.

    Raises:
      InputError: if the base or tokenizer cannot be used or belongs to another world.
    """
    tokenizer, world = open_world(config, **({} if judge is None else {"judge": judge}))
    return load_base(config, tokenizer, world), world
