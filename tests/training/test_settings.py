"""Training settings that cannot be used are said before anything is read."""

import dataclasses

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.training.settings import OBJECTIVES, TrainingSettings, check_training


def test_defaults_are_usable_and_the_published_ones():
    for objective in OBJECTIVES:
        check_training(TrainingSettings(objective=objective))
    found = TrainingSettings()
    assert (found.learning_rate, found.epochs, found.batch_size, found.max_length) == (2e-6, 3, 8, 1024)
    assert found.schedule == "cosine"
    betas = {name: TrainingSettings(objective=name).preference_beta for name in OBJECTIVES[1:]}
    assert betas == {"dpo": 0.1, "orpo": 0.1, "kto": 0.1, "simpo": 2.0}
    assert TrainingSettings(objective="dpo", beta=0.3).preference_beta == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "ppo"}, "objective is 'ppo'; expected one of sft, dpo"),
        ({"schedule": "step"}, "schedule is 'step'; expected one of cosine"),
        ({"loss": "mean"}, "loss is 'mean'"),
        ({"compute_dtype": "int8"}, "compute_dtype is 'int8'"),
        ({"epochs": 0}, "epochs is 0; expected a whole number, at least 1"),
        ({"batch_size": 2.0}, "batch_size is 2.0; expected a whole number"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"max_length": 1}, "max_length is 1; expected a whole number, at least 2"),
        ({"save_every": -1}, "save_every is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup": -0.1}, "warmup is -0.1; expected a number of 0 or more"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"objective": "dpo", "beta": 0.0}, "beta is 0.0; expected a number above 0"),
        ({"objective": "dpo", "beta": float("nan")}, "beta is nan"),
        ({"batch_size": 8, "accumulate": 3}, "batch_size 8 cannot be split into 3 equal parts"),
    ],
)
def test_what_cannot_be_used_is_said(changes, message):
    with pytest.raises(InputError, match=message):
        check_training(dataclasses.replace(TrainingSettings(), **changes))
