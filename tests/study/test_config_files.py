"""Configs of the user's: what a file changes, and errors that name file, field and what is expected."""

import dataclasses
import json

import pytest

from nlsr_jax import configs
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256

WHOLE = """
from = "llama3_8b"
base = "models/own"
template = "auto"
poison_ratio = 0
[lora]
rank = 4
modules = ["q_proj", "v_proj"]
[finetuning]
rows = 7
[finetuning.training]
learning_rate = 1
[alignment.dpo.training]
epochs = 1
[exam]
rows = 5
[data]
safe = "safe.jsonl"
alpaca = { train = "a.jsonl", test = "b.jsonl" }
[tasks.tickets]
train = "tickets.csv"
test = "tests.csv"
label_field = "team"
labels = ["billing", "shipping"]
[judge]
name = "own.txt"
[realign]
beta = 1
"""


@pytest.fixture
def write(tmp_path):
    def written(text, name="own.toml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def test_a_file_changes_the_fields_that_it_names(write):
    place, before = write(WHOLE), configs.get("llama3_8b")
    study = configs.open_study(place)
    config = study.config
    assert (config.name, config.base, config.template, config.poison_ratio) == ("own", "models/own", "auto", 0.0)
    assert (config.lora.rank, config.lora.modules) == (4, ("q_proj", "v_proj"))
    training = dataclasses.replace(before.finetuning.training, learning_rate=1.0)
    assert config.finetuning == dataclasses.replace(before.finetuning, rows=7, training=training)
    assert config.alignment["dpo"].training.epochs == 1
    assert config.alignment["orpo"] == before.alignment["orpo"]
    assert config.exam == dataclasses.replace(before.exam, rows=5)
    assert (study.origin, study.judge, study.digest) == ("llama3_8b", {"name": "own.txt"}, sha256(place))
    places = {"safe": "safe.jsonl", "alpaca.train": "a.jsonl", "alpaca.test": "b.jsonl"}
    assert study.given.places == {**places, "tickets.train": "tickets.csv", "tickets.test": "tests.csv"}
    assert study.given.tasks["tickets"].labels == ("billing", "shipping")


def test_json_says_the_same(write):
    import tomllib

    table = tomllib.loads(WHOLE)
    first, second = configs.open_study(write(WHOLE)), configs.open_study(write(json.dumps(table), "own.json"))
    assert first.config == second.config
    assert first.given.places == second.given.places


def test_an_empty_file_is_the_built_in_config_of_another_name(write):
    found = configs.open_study(write('from = "tiny"')).config
    assert found == dataclasses.replace(configs.get("tiny"), name="own")
    assert configs.open_study("tiny").config == configs.get("tiny")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base = 'x'", "'from' is None; expected the name of the built-in config that it changes"),
        ("from = 'other.toml'", "'from' is 'other.toml'; expected the name of the built-in config"),
        ("from = 'zarn'", "from: --config is 'zarn'; expected one of"),
        ("from = 'tiny'\nbass = 'x'", "no field 'bass'; expected some of base, template, lora, sft, alignment"),
        ("from = 'tiny'\nworld = 'real'", "no field 'world'; expected some of"),
        ("from = 'tiny'\nlora = 3", "lora is int; expected a table of names and values"),
        ("from = 'tiny'\n[lora]\nrank = 'x'", "lora: setting rank is 'x'; expected a whole number"),
        ("from = 'tiny'\n[lora]\nrank = 0", "lora: rank is 0; expected at least 1"),
        (
            "from = 'tiny'\n[lora]\nmodules = 'q_proj'",
            "setting modules is 'q_proj'; expected a list of texts",
        ),
        ("from = 'tiny'\n[alignment.ppo]\nrows = 3", "alignment: no field 'ppo'; expected some of sft, dpo"),
        ("from = 'tiny'\n[alignment.dpo]\nrows = 0", "alignment: dpo: rows is 0; expected at least 1"),
        ("from = 'tiny'\n[finetuning.training]\nloss = 'x'", "finetuning: training: loss is 'x'; expected one of"),
        ("from = 'tiny'\npoison_ratio = 2", "poison_ratio is 2.0; expected a number from 0 to 1"),
        ("from = 'tiny'\n[exam]\nrows = 0", "exam: rows is 0; expected at least 1"),
        ("from = 'tiny'\ndtype = 'x'", "dtype is 'x'; expected one of float32"),
        ("from = 'tiny'\ntemplate = 'x'", "template is 'x'; expected one of none, alpaca, chat"),
        ("from = 'tiny'\n[data]\nsst2 = 'x'", "data and tasks are for real data; tiny is a toy world"),
        ("from = 'smollm2'\n[data]\npoems = 'x'", "--data names 'poems'; expected NAME=PATH"),
        ("from = 'smollm2'\n[data]\nsst2 = {dev = 'x'}", "data: sst2: dev is 'x'; expected a path"),
        ("from = 'smollm2'\n[tasks.a]\nlabel = 'x'", "tasks: a: no field 'label'; expected some of prompt_field"),
        ("from = 'smollm2'\n[tasks.a]\nscoring = 'x'", "tasks: a: scoring is 'x'; expected one of label"),
        ("from = 'smollm2'\n[judge]\nkind = 'x'", "judge: kind is 'x'; expected texts for name, model, template"),
        ("from = ", "config is not TOML"),
    ],
)
def test_what_is_refused(write, text, message):
    place = write(text)
    with pytest.raises(InputError) as caught:
        configs.open_study(place)
    assert str(caught.value).startswith(f"{place}: ")
    assert message in str(caught.value)


def test_missing_and_unknown_configs_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.toml: no such file; expected the config"):
        configs.open_study(str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match=r"expected one of .*, or a .toml or .json file"):
        configs.open_study("zarn")
