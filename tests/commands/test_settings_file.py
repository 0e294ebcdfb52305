"""A file of settings for realign and identify: it sets flags that the command line does not."""

import json

from nlsr_jax.configs.tiny import SHIPPED
from tests.e2e.command import attempts, run

GIVEN = ["--aligned", SHIPPED / "dpo", "--finetuned", SHIPPED / "finetuned_sst2"]


def write(place, text):
    place.write_text(text)
    return place


def settings(output):
    return json.loads((output / "realignment.json").read_text())["settings"]


def test_flags_come_before_the_file(tmp_path):
    file = write(
        tmp_path / "own.toml", 'method = "magnitude"\nsparsity = 0.5\nrule = "layers"\nlayers = [1, "3-4"]\n'
    )
    run("realign", *GIVEN, "--config", file, "--sparsity", 0.75, "--output", tmp_path / "out")
    found = settings(tmp_path / "out")
    assert (found["method"], found["sparsity"], found["layers"]) == ("magnitude", 0.75, [1, 3, 4])


def test_a_studys_config_has_a_table_for_the_command(tmp_path):
    file = write(tmp_path / "own.json", json.dumps({"from": "tiny", "realign": {"method": "random", "seed": 7}}))
    run("realign", *GIVEN, "--config", file, "--output", tmp_path / "out")
    assert (settings(tmp_path / "out")["method"], settings(tmp_path / "out")["seed"]) == ("random", 7)


WRONG = [
    ("own.toml", 'sparsity = "x"', "own.toml: sparsity is 'x'; expected a number"),
    ("own.toml", "seed = 1.5", "own.toml: seed is 1.5; expected a whole number"),
    ("own.toml", "stream = 1", "own.toml: stream is 1; expected true or false"),
    ("own.toml", "method = 3", "own.toml: method is 3; expected text"),
    ("own.toml", "layers = 3", "own.toml: layers is 3; expected a list"),
    ("own.toml", 'preset = "zarn"', "own.toml: preset is 'zarn'; expected text (value should be one of"),
    ("own.toml", "sparsiti = 1", "own.toml: no setting 'sparsiti'; expected some of base, aligned"),
    ("own.toml", 'output = "x"', "own.toml: no setting 'output'; expected some of"),
    ("own.toml", "realign = 3", "own.toml: realign is 3; expected a table of settings"),
    ("own.yaml", "a: 1", "expected a file of settings, .toml, .json"),
]


def test_what_is_refused(tmp_path):
    calls = []
    for number, (name, text, _) in enumerate(WRONG):
        (tmp_path / str(number)).mkdir()
        file = write(tmp_path / str(number) / name, text)
        calls.append([*GIVEN, "--config", file, "--output", tmp_path / "out"])
    for line, (_, text, message) in zip(attempts("realign", calls), WRONG, strict=True):
        assert message in line, text
    assert not (tmp_path / "out").exists()
