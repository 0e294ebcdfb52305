"""The prompt template of a run: the user's or the tokenizer's own, kept in the record with its digest."""

import itertools
import pathlib
import types
from collections.abc import Mapping
from typing import Any

from nlsr_jax.data.templates import (
    CHAT,
    NONE,
    default_template,
    digest_of,
    is_template_file,
    looks_rendered,
    open_template,
)
from nlsr_jax.errors import InputError, argument
from nlsr_jax.pipeline.recording import TEMPLATE
from nlsr_jax.pipeline.run import Run
from nlsr_jax.types import Tokenizer

JINJA = "chat_template.jinja"


def settled_template(
    template: str | None,
    model: str | None,
    run: Run,
    calibration: str | None,
    asked: Mapping[str, str | None] = types.MappingProxyType({}),
) -> str | None:
    """Return the name of a run's template, and digest its file.

    Without a name it is the tokenizer's chat template, where there is one and the prompts are not rendered with it
    already.

    Args:
      template: as the user names it, if he does.
      model: the model whose tokenizer renders the prompts; None for a run that reads none.
      run: the context; its user is told which template was taken.
      calibration: the rows whose prompts are rendered; None for a run that reads none.
      asked: rows of prompts that are rendered too, by the flag that names them.

    Raises:
      InputError: if there is no such template, or prompts of one file are rendered and those of another are not.
    """
    if model is None or not calibration:
        return template
    name = template or _found(model, run, {"calibration": calibration, **asked})
    open_template(name)
    own = pathlib.Path(model) / JINJA
    if is_template_file(name):
        run.digests.add(TEMPLATE, name, [pathlib.Path(name)])
    elif name.partition(":")[0] == CHAT and own.is_file():
        run.digests.add(TEMPLATE, own, [own])
    return name


def describe_template(template: str | None, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return a template for a record: its name and the SHA-256 of its text; empty where no rows were read."""
    if template in (None, NONE):
        return {} if template is None else {TEMPLATE: {"name": template}}
    return {TEMPLATE: {"name": template, "sha256": digest_of(template, tokenizer)}}


def _found(model: str, run: Run, places: Mapping[str, str | None]) -> str:
    """Return the template where the user names none, and say which it is."""
    from nlsr_jax.data.calibration import load_tokenizer

    tokenizer = load_tokenizer(model)
    name = default_template(tokenizer)
    if name == NONE:
        run.stages.say("template: none, because the tokenizer has no chat template; --template names one")
        return name
    rendered = {flag: is_rendered(place, tokenizer) for flag, place in places.items() if place}
    if len(set(rendered.values())) > 1:
        words = {True: "are rendered with the chat template", False: "are not rendered"}
        found = " and ".join(f"those of {argument(flag)} {words[value]}" for flag, value in rendered.items())
        raise InputError(f"prompts differ: {found}; render all or none, or name the {argument(TEMPLATE)}")
    if rendered["calibration"]:
        run.stages.say("template: none, because the prompts already have the form of the tokenizer's chat template")
        return NONE
    run.stages.say("template: the tokenizer's chat template; --template names another")
    return CHAT


def is_rendered(source: str, tokenizer: Tokenizer) -> bool:
    """Return whether a text of the first of some rows begins like the tokenizer's chat template."""
    from nlsr_jax.data.rows import source_rows

    if default_template(tokenizer) == NONE:
        return False
    for _, row in itertools.islice(source_rows(source), 1):
        texts = row.values() if isinstance(row, dict) else [row]
        return any(isinstance(one, str) and one.strip() and looks_rendered(one, tokenizer) for one in texts)
    return False
