"""A random base with the toy world's tokenizer: small, and every program of the tiny study takes it."""

import dataclasses
import functools
import pathlib

import jax

from nlsr_jax import configs
from nlsr_jax.study.pretraining import new_model, save_base
from nlsr_jax.study.stages import Base
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.training.initial import new_params

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}

QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
"""Environment of commands whose steps are few: they compile in a fifth of the time."""

toy_world = functools.cache(ToyWorld)


def save_toy_base(folder: pathlib.Path, seed: int = 0, **fields) -> pathlib.Path:
    """Save a base that has learnt nothing; ``fields`` change its architecture."""
    pretraining = configs.get("tiny").pretraining
    architecture = {**dict(pretraining.architecture), **SMALL, **fields}
    model = new_model(
        dataclasses.replace(pretraining, architecture=tuple(architecture.items())), toy_world().tokenizer
    )
    folder.mkdir(parents=True)
    save_base(Base(model, new_params(jax.random.key(seed), model), toy_world().tokenizer), folder)
    return folder
