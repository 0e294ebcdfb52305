"""What the flags of the training programs change of a config."""

import pytest
from absl import flags
from absl.testing import flagsaver

from nlsr_jax import configs
from nlsr_jax.adapter import MODULES
from nlsr_jax.commands import study_flags, training_flags

flags_of_programs = flags.FLAGS
if "rank" not in flags_of_programs:
    study_flags.define_study_flags("a folder")
    training_flags.define_training_flags()
    training_flags.define_adapter_flags()


@pytest.fixture
def parse():
    """Parses flags as a program does, for one test."""
    with flagsaver.flagsaver():

        def given(*arguments):
            flags_of_programs.unparse_flags()
            flags_of_programs(["program", *map(str, arguments)])

        yield given


def test_without_flags_the_config_stays(parse):
    parse("--config", "llama3_8b")
    config = configs.get("llama3_8b")
    assert training_flags.changed_study().config == config
    assert training_flags.changed_stage(config.finetuning) == config.finetuning


def test_every_flag_changes_its_field(parse):
    parse("--config", "llama3_8b", "--dtype", "float32", "--rows", 7, "--learning_rate", 0.5, "--epochs", 2,
          "--batch_size", 6, "--loss", "sequence", "--max_length", 99, "--noremat", "--compute_dtype", "float16",
          "--save_every", 0, "--rank", 8, "--modules", "q_proj, v_proj")  # fmt: skip
    config = training_flags.changed_study().config
    assert config.dtype == "float32"
    assert (config.lora.rank, config.lora.alpha, config.lora.modules) == (8, 16, ("q_proj", "v_proj"))
    stage = training_flags.changed_stage(config.finetuning)
    found = stage.training
    assert stage.rows == 7
    assert (found.learning_rate, found.epochs, found.batch_size, found.save_every) == (0.5, 2, 6, 0)
    assert (found.loss, found.max_length, found.remat, found.compute_dtype) == ("sequence", 99, False, "float16")
    assert config.finetuning == configs.get("llama3_8b").finetuning


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 4), (6, 2), (7, 1), (1, 1), (16, 4)])
def test_another_batch_is_taken_in_as_many_parts_as_fit(parse, batch_size, parts):
    parse("--batch_size", batch_size)
    stage = configs.get("llama3_8b").finetuning
    assert stage.training.accumulate == 4
    assert training_flags.changed_stage(stage).training.accumulate == parts


def test_a_new_adapters_alpha_may_be_given(parse):
    parse("--rank", 4, "--alpha", 3)
    lora = training_flags.changed_study().config.lora
    assert (lora.rank, lora.alpha, lora.modules) == (4, 3, MODULES)
    parse("--alpha", 3)
    assert training_flags.changed_study().config.lora.rank == configs.get("tiny").lora.rank
