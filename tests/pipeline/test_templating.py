"""The template of a run: the tokenizer's by default, whether rows are rendered or not, and kept in the record."""

import hashlib
import json
import re

import pytest

from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.errors import InputError
from nlsr_jax.pipeline import Stages, identify_files, realign_files
from nlsr_jax.pipeline.run import start
from nlsr_jax.pipeline.settings import Settings, from_record
from nlsr_jax.pipeline.templating import settled_template

CHAT = (SHIPPED / "base" / "chat_template.jinja").read_text()


def rows(count=8):
    lines = (SHIPPED / "calibration.jsonl").read_text().splitlines()[:count]
    return [json.loads(line) for line in lines]


def write(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def plain(row):
    return {**row, "prompt": re.sub(r"<[^>]*>", "", row["prompt"]).strip()}


class Lines(Stages):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(show=False)
        self.said = []

    def say(self, text):
        self.said.append(text)


def realigned(place, output, **changes):
    options = {"method": "wanda", "aligned": str(SHIPPED / "dpo"), "finetuned": str(SHIPPED / "finetuned_sst2")}
    settings = Settings(base=str(SHIPPED / "base"), calibration=place, **options, **changes)
    stages = Lines()
    record = realign_files(settings, output, stages=stages, draw=lambda _: {})
    return record, [line for line in stages.said if line.startswith("template")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same rows rendered, plain, and plain with the template as a file."""
    folder = tmp_path_factory.mktemp("templates")
    (folder / "own.jinja").write_text(CHAT)
    ready, bare = write(folder / "ready.jsonl", rows()), write(folder / "bare.jsonl", map(plain, rows()))
    found = {
        "rendered": realigned(ready, folder / "rendered"),
        "plain": realigned(bare, folder / "plain"),
        "file": realigned(bare, folder / "file", template=str(folder / "own.jinja")),
        "none": realigned(bare, folder / "none", template="none"),
    }
    return folder, found


def test_rendered_and_plain_rows_give_the_same_adapter(runs):
    _, found = runs
    weights = {name: record["outputs"]["adapter_model.safetensors"] for name, (record, _) in found.items()}
    assert weights["rendered"] == weights["plain"] == weights["file"] != weights["none"]


def test_one_line_says_which_template_was_taken(runs):
    said = {name: lines for name, (_, lines) in runs[1].items()}
    assert said["rendered"] == [
        "template: none, because the prompts already have the form of the tokenizer's chat template"
    ]
    assert said["plain"] == ["template: the tokenizer's chat template; --template names another"]
    assert said["file"] == said["none"] == []


def test_the_record_keeps_the_template_with_its_digest(runs):
    folder, found = runs
    digest = hashlib.sha256(CHAT.encode()).hexdigest()
    own = str(folder / "own.jinja")
    kept = {name: (record["settings"]["template"], record["template"]) for name, (record, _) in found.items()}
    assert kept["rendered"] == kept["none"] == ("none", {"name": "none"})
    assert kept["plain"] == ("chat", {"name": "chat", "sha256": digest})
    assert kept["file"] == (own, {"name": own, "sha256": digest})
    assert found["file"][0]["inputs"]["template"]["files"] == {"own.jinja": digest}


def test_a_repetition_compares_the_file_of_the_template(runs):
    folder, found = runs
    record = found["file"][0]
    (folder / "own.jinja").write_text(CHAT + " ")
    try:
        with pytest.raises(InputError, match=r"template file own.jinja is not the one of the record"):
            realign_files(from_record(record["settings"], "record"), folder / "again", recorded=record["inputs"])
    finally:
        (folder / "own.jinja").write_text(CHAT)


def test_identification_keeps_its_template_too(tmp_path):
    place = write(tmp_path / "bare.jsonl", map(plain, rows()))
    settings = Settings(str(SHIPPED / "base"), str(SHIPPED / "dpo"), calibration=place, method="wanda")
    record = identify_files(settings, tmp_path / "out")
    assert record["settings"]["template"] == record["template"]["name"] == "chat"


def test_files_that_differ_are_refused(tmp_path):
    ready = write(tmp_path / "ready.jsonl", rows())
    bare = write(tmp_path / "harmless.jsonl", map(plain, rows()))
    message = "those of calibration are rendered with the chat template and those of harmless are not rendered"
    with start(0, Lines()) as run, pytest.raises(InputError, match=message):
        settled_template(None, str(SHIPPED / "base"), run, ready, {"harmless": bare})


def test_unknown_templates_are_refused_before_rows_are_read(tmp_path):
    with pytest.raises(InputError, match="template is 'zarn'; expected one of none, alpaca, chat"):
        realigned(write(tmp_path / "bare.jsonl", rows()), tmp_path / "out", template="zarn")
