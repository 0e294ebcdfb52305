"""Prompt templates: how an instruction or a conversation is rendered for the model.

A template is one of

- ``none``, the text unchanged, and ``alpaca``, the Alpaca instruction format,
- ``chat``, the tokenizer's own chat template, or ``chat:NAME`` where a tokenizer has several,
- a chat template by name, see ``nlsr_jax.data.chat_templates``,
- a Jinja file (``.jinja``, ``.j2``): a chat template, which reads ``messages``, or the form of a single prompt,
  which reads ``prompt`` (or ``instruction`` and ``input``).

Chat templates write a model's special tokens themselves; the tokenizer adds them to prompts of the other kinds.
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nlsr_jax.data.chat_templates import CHAT_TEMPLATES
from nlsr_jax.errors import InputError, reason_of
from nlsr_jax.files.paths import check_file, expand, expand_text
from nlsr_jax.types import Tokenizer

NONE, ALPACA, CHAT, AUTO = "none", "alpaca", "chat", "auto"
TEMPLATES = (NONE, ALPACA, CHAT, *CHAT_TEMPLATES)
"""Names of templates, beside those of files. ``auto`` is ``default_template`` and no template itself."""
SUFFIXES = (".jinja", ".jinja2", ".j2")

_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""Markers of turns in most chat templates: ``<|im_start|>``, ``<start_of_turn>``, ``[INST]``."""
_CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_VARIABLES = ("messages", "prompt", "instruction")

_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
    "### Input:\n{input}\n\n### Response:"
)


class Template(NamedTuple):
    """A template, read and checked.

    Attributes:
      name: as it was given.
      text: its Jinja text; None for ``none``, ``alpaca`` and the tokenizer's own, whose text the tokenizer has.
      turns: whether it is a chat template: it renders conversations, and writes special tokens itself.
    """

    name: str
    text: str | None
    turns: bool


def alpaca(instruction: str, context: str = "") -> str:
    """Return the Alpaca prompt of an instruction, with its input if there is one."""
    if context:
        return _ALPACA_INPUT.format(instruction=instruction, input=context)
    return _ALPACA.format(instruction=instruction)


def is_template_file(name: str) -> bool:
    """Return whether a template's name is that of a file."""
    return pathlib.Path(name).suffix.lower() in SUFFIXES


def open_template(name: str) -> Template:
    """Return a template by name or file.

    Raises:
      InputError: if the name is unknown, or the file cannot be read or is not a template.
    """
    if name in (NONE, ALPACA):
        return Template(name, None, turns=False)
    if name == CHAT or name.startswith(f"{CHAT}:"):
        return Template(name, None, turns=True)
    if name in CHAT_TEMPLATES:
        return Template(name, CHAT_TEMPLATES[name], turns=True)
    if is_template_file(name):
        return _read(expand_text(name))
    raise InputError(f"template is {name!r}; expected one of {', '.join(TEMPLATES)}, or a Jinja file (.jinja, .j2)")


@functools.lru_cache(maxsize=8)
def _read(path: str) -> Template:
    """Read a Jinja file; it is read once in a process."""
    from nlsr_jax.files.limits import LIMITS

    file = expand(path)
    if check_file(file, "the template") > LIMITS.row_characters:
        raise InputError(f"{path}: the template is too long; expected at most {LIMITS.row_characters} bytes")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the template is not UTF-8 text (byte {error.start})") from error
    names = {name for code in _CODE.findall(text) for name in re.findall(r"\w+", code)}
    if not names & set(_VARIABLES):
        raise InputError(
            f"{path}: the template reads none of {', '.join(_VARIABLES)}; a chat template reads messages, the form "
            "of a single prompt reads prompt"
        )
    return Template(path, text, turns="messages" in names)


def renders_turns(name: str) -> bool:
    """Return whether a template is a chat template; see ``Template``."""
    return open_template(name).turns


def digest_of(name: str, tokenizer: Tokenizer | None = None) -> str:
    """Return the SHA-256 of a template's text.

    Args:
      name: of the template.
      tokenizer: has the text of ``chat``.
    """
    template = open_template(name)
    text = template.text
    if text is None and template.turns:
        text = _own_text(name, tokenizer)
    if text is None:
        text = alpaca("{instruction}", "{input}") + alpaca("{instruction}") if name == ALPACA else ""
    return hashlib.sha256(text.encode()).hexdigest()


def default_template(tokenizer: Tokenizer) -> str:
    """Return the template where none is named: ``chat`` if the tokenizer has a chat template, else ``none``."""
    return CHAT if getattr(tokenizer, "chat_template", None) is not None else NONE


def apply_template(template: str, prompt: str, tokenizer: Tokenizer | None = None, *, context: str = "") -> str:
    """Render one prompt.

    Args:
      template: name or file of a template.
      prompt: the instruction; with a chat template it is the user's turn.
      tokenizer: a transformers tokenizer, required by chat templates.
      context: the input of the instruction. Templates without a place for it have it on a line behind.

    Raises:
      InputError: if the template is unknown, missing or fails, or the prompt has already been rendered with it.
    """
    if template == NONE:
        return _whole(prompt, context)
    if template == ALPACA:
        return alpaca(prompt, context)
    found = open_template(template)
    if found.turns:
        turns = [{"role": "user", "content": _whole(prompt, context)}]
        return render_turns(turns, tokenizer, shown=False, template=template)
    assert found.text is not None
    return _form(found, prompt, context)


def _whole(prompt: str, context: str) -> str:
    return f"{prompt}\n{context}" if context else prompt


def _form(template: Template, prompt: str, context: str) -> str:
    """Render the form of a single prompt."""
    try:
        text = _program(template.text or "").render(
            prompt=_whole(prompt, context), instruction=prompt, input=context
        )
    except Exception as error:  # a template is a program and may raise anything
        raise _failed(template.name, "the template", error) from error
    if prompt.strip() not in text:
        raise InputError(f"template {template.name!r}: the template omits the prompt")
    return text


@functools.lru_cache(maxsize=8)
def _program(text: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)


def render_turns(
    turns: Sequence[Mapping[str, str]],
    tokenizer: Tokenizer,
    *,
    shown: bool = True,
    template: str = CHAT,
) -> str:
    """Render a conversation up to the next answer with a chat template.

    Args:
      turns: ``{"role", "content"}`` of each turn; the last is the user's.
      tokenizer: a transformers tokenizer.
      shown: check that the rendered text contains every turn.
      template: the chat template, by default the tokenizer's.

    Raises:
      InputError: if the tokenizer has no chat template, the template fails or omits a turn, or a turn has
        already been rendered with it.
    """
    text = _chat(list(turns), tokenizer, template)
    for number, turn in enumerate(turns, 1):
        if shown and turn["content"].strip() not in text:
            raise InputError(f"template {template!r}: the chat template omits turn {number} ({turn['role']})")
    marks = [_mark(turn, turns, text, tokenizer) for turn in turns if turn["role"] == "user"]
    if mark := next(filter(None, marks), None):
        raise InputError(
            f"template {template!r}: a prompt begins with {mark[:40]!r}, like the chat template itself, so it "
            "seems to be rendered already; use template none, or give plain questions"
        )
    return text


def looks_rendered(prompt: str, tokenizer: Tokenizer, template: str = CHAT) -> bool:
    """Return whether a prompt begins like a chat template, so that rendering it would render it twice."""
    turns = [{"role": "user", "content": prompt}]
    return _mark(turns[0], turns, _chat(turns, tokenizer, template), tokenizer) is not None


def _mark(
    turn: Mapping[str, str], turns: Sequence[Mapping[str, str]], text: str, tokenizer: Tokenizer
) -> str | None:
    """Return the mark of the template that a turn begins with."""
    bos = getattr(tokenizer, "bos_token", None) or ""
    before = text[: max(0, text.find(turns[0]["content"].strip()))].strip().removeprefix(bos).strip()
    marks = [mark for mark in _MARK.findall(before) if mark != bos]
    if not marks and before and not before[-1].isalnum():
        marks = [before]
    said = turn["content"].strip().removeprefix(bos).strip()
    return next((mark for mark in marks if said.startswith(mark)), None)


def _chat(turns: list, tokenizer: Tokenizer, name: str) -> str:
    template = open_template(name)
    own = template.text is None
    given = {"chat_template": template.text or _own_text(name, tokenizer)} if ":" in name or not own else {}
    if tokenizer is None or (own and getattr(tokenizer, "chat_template", None) is None):
        raise InputError(f"template {name!r}: the tokenizer has no chat template; use alpaca or none")
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **given)
    except Exception as error:  # a template is a program and may raise anything
        raise _failed(name, "the tokenizer's chat template" if own else "the template", error) from error


def _own_text(name: str, tokenizer: Tokenizer) -> str:
    """Return the text of a tokenizer's chat template: the only one, the default, or that of ``chat:NAME``."""
    own: Any = getattr(tokenizer, "chat_template", None)
    known = own if isinstance(own, Mapping) else {"default": own or ""}
    variant = name.partition(":")[2] or "default"
    if variant not in known:
        raise InputError(
            f"template {name!r}: the tokenizer has no chat template of this name; it has {', '.join(known)}"
        )
    return known[variant]


def _failed(name: str, what: str, error: Exception) -> InputError:
    reason = reason_of(error)
    return InputError(f"template {name!r}: {what} fails ({reason[:200]})")
