"""Prompt templates: how an instruction is rendered for the model."""

import re
from collections.abc import Mapping, Sequence

from nlsr_jax.errors import InputError
from nlsr_jax.types import Tokenizer

TEMPLATES = ("none", "alpaca", "chat")

_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""Markers of turns in most chat templates: ``<|im_start|>``, ``<start_of_turn>``, ``[INST]``."""

_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
    "### Input:\n{input}\n\n### Response:"
)


def alpaca(instruction: str, context: str = "") -> str:
    """Return the Alpaca prompt of an instruction, with its input if there is one."""
    if context:
        return _ALPACA_INPUT.format(instruction=instruction, input=context)
    return _ALPACA.format(instruction=instruction)


def apply_template(template: str, prompt: str, tokenizer: Tokenizer | None = None) -> str:
    """Render one prompt.

    Args:
      template: ``"none"`` (the text unchanged), ``"alpaca"``, or ``"chat"`` (the tokenizer's own chat template,
        with the prompt as the user's turn).
      prompt: the instruction.
      tokenizer: a transformers tokenizer, required by ``"chat"``.

    Raises:
      InputError: if the template is unknown, the tokenizer's chat template is missing or fails, or the prompt
        has already been rendered with it.
    """
    if template == "none":
        return prompt
    if template == "alpaca":
        return alpaca(prompt)
    if template != "chat":
        raise InputError(f"template is {template!r}; expected one of {', '.join(TEMPLATES)}")
    return render_turns([{"role": "user", "content": prompt}], tokenizer, shown=False)


def render_turns(turns: Sequence[Mapping[str, str]], tokenizer: Tokenizer, *, shown: bool = True) -> str:
    """Render a conversation up to the next answer with the tokenizer's chat template.

    Args:
      turns: ``{"role", "content"}`` of each turn; the last is the user's.
      tokenizer: a transformers tokenizer.
      shown: check that the rendered text contains every turn.

    Raises:
      InputError: if the tokenizer has no chat template, the template fails or omits a turn, or a turn has
        already been rendered with it.
    """
    text = _chat(list(turns), tokenizer)
    for number, turn in enumerate(turns, 1):
        if shown and turn["content"].strip() not in text:
            raise InputError(f"template 'chat': the tokenizer's chat template omits turn {number} ({turn['role']})")
    if turns:
        _check_plain(turns, text, getattr(tokenizer, "bos_token", None) or "")
    return text


def _check_plain(turns: Sequence[Mapping[str, str]], text: str, bos: str) -> None:
    """Refuse user turns that begin like the template itself; rendering them twice would change the text."""
    before = text[: max(0, text.find(turns[0]["content"].strip()))].strip().removeprefix(bos).strip()
    marks = [mark for mark in _MARK.findall(before) if mark != bos]
    if not marks and before and not before[-1].isalnum():
        marks = [before]
    for turn in turns:
        said = turn["content"].strip().removeprefix(bos).strip()
        found = next((mark for mark in marks if said.startswith(mark)), None)
        if found is not None and turn["role"] == "user":
            raise InputError(
                f"template 'chat': a prompt begins with {found[:40]!r}, like the chat template itself, so it seems "
                "to be rendered already; use template none, or give plain questions"
            )


def _chat(turns: list, tokenizer) -> str:
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError("template 'chat': the tokenizer has no chat template; use alpaca or none")
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program and may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"template 'chat': the tokenizer's chat template fails ({reason[:200]})") from error
