"""Flags and inputs shared by pretrain, align, finetune and evaluate."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags

from nlsr_jax.commands import data_flags, mesh_flags, path_flags
from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.study.config import StudyConfig
    from nlsr_jax.study.config_files import Study
    from nlsr_jax.study.stages import Base
    from nlsr_jax.study.worlds import World

FLAGS = flags.FLAGS


def define_study_flags(output: str) -> None:
    """Define the flags of all stages.

    Args:
      output: help text of ``--output``.
    """
    define_config_flag()
    define_template_flag()
    path_flags.define_input(
        "base", None, "Base model, a Hugging Face directory or hub id; by default the config's."
    )
    flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16", "float16"], "Dtype of the base's weights; by default the config's."
    )
    data_flags.define_data_flag()
    path_flags.define_output("output", None, output)
    path_flags.define_overwrite()
    flags.DEFINE_integer("seed", 0, "Seed of all randomness.")


def define_config_flag() -> None:
    """Define the flag of the study."""
    path_flags.define_name_or_input(
        "config", "tiny", "The study: tiny, smollm2, llama3_8b, qwen2_7b, mistral_7b, or a file (.toml, .json)."
    )


def define_template_flag() -> None:
    """Define the flag of the prompts' template."""
    path_flags.define_name_or_input(
        "template",
        None,
        "How prompts of real data are rendered: auto (the tokenizer's chat template, if it has one), the name of a "
        "template, or a Jinja file; by default the config's.",
    )


def open_study() -> "Study":
    """Return the study of the flags, with dtype, template, data and task from the flags.

    Raises:
      InputError: if the config, the seed, or data and task are invalid.
    """
    from nlsr_jax import configs

    if "seed" in FLAGS and not 0 <= FLAGS.seed < 2**32:
        raise InputError(f"--seed is {FLAGS.seed}; expected 0 to {2**32 - 1}")
    study = configs.open_study(FLAGS.config)
    changes: dict[str, Any] = {
        name: FLAGS[name].value for name in ("dtype", "template") if name in FLAGS and FLAGS[name].value
    }
    if "template" in changes:
        _check_template(changes["template"], study.config)
    return study._replace(config=dataclasses.replace(study.config, **changes), given=data_flags.given_of(study))


def get_config() -> "StudyConfig":
    """Return the config of ``open_study``."""
    return open_study().config


def _check_template(template: str, config: "StudyConfig") -> None:
    from nlsr_jax.data.templates import AUTO, open_template

    if config.world != "real":
        raise InputError(f"--template is for real data; the {config.world} world renders its prompts by itself")
    if template != AUTO:
        open_template(template)


def inputs(config: "StudyConfig") -> dict[str, str]:
    """Return the inputs of a command by flag; without ``--base`` this includes the config's base."""
    found = path_flags.inputs()
    return found if FLAGS.base else {**found, f"base of --config {config.name}": config.base}


def say(text: str) -> None:
    """Print a line for the user."""
    print(text, file=sys.stderr)


def open_world(study: "Study", **options: Any) -> tuple[Tokenizer, "World"]:
    """Open the base's tokenizer and the world of a study.

    Args:
      study: the study.
      options: options for real data; see ``RealWorld``.

    Returns:
      ``(tokenizer, World)``.

    Raises:
      InputError: if the tokenizer cannot be used or belongs to another world.
    """
    from nlsr_jax import configs

    config = study.config
    place = configs.base_of(config, FLAGS.base)
    template = None if config.world in ("policy", "toy") else functools.partial(template_of, config)
    return configs.open_world(config, place, template=template, given=study.given, note=say, **options)


def template_of(config: "StudyConfig", tokenizer: Tokenizer) -> str:
    """Return the name of a config's template, and say which it is."""
    from nlsr_jax.data.templates import AUTO, default_template

    name = default_template(tokenizer) if config.template == AUTO else config.template
    words = {"chat": "the tokenizer's chat template", "none": "none, prompts are unchanged"}
    say(f"template: {words.get(name, name)}")
    return name


def describe_study(study: "Study", tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a record says of a study of real data: template, files that were read, config of the user's."""
    from nlsr_jax.data.templates import AUTO, default_template
    from nlsr_jax.pipeline.templating import describe_template

    if study.config.world == "toy":
        return {} if study.digest is None else {"config_sha256": study.digest}
    name = default_template(tokenizer) if study.config.template == AUTO else study.config.template
    return {
        **describe_template(name, tokenizer),
        **({"data": files} if (files := study.given.files()) else {}),
        **({"hub": sorted(study.given.pinned.values())} if study.given.pinned else {}),
        **({} if study.digest is None else {"config_sha256": study.digest}),
    }


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


def open_base(study: "Study", judge: Any = None) -> tuple["Base", "World"]:
    """Load the base and the world of a study.

    Args:
      study: the study.
      judge: judge for real data; see ``RealWorld``.

    Returns:
      ``(Base, World)``.

    Raises:
      InputError: if the base or tokenizer cannot be used or belongs to another world.
    """
    tokenizer, world = open_world(study, **({} if judge is None else {"judge": judge}))
    return load_base(study.config, tokenizer, world), world
