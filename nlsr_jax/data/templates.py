"""Prompt templates: how an instruction becomes the text that the model reads."""

import re
from collections.abc import Mapping, Sequence

from nlsr_jax.errors import InputError

TEMPLATES = ("none", "alpaca", "chat")

_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""What marks turns in most chat templates: ``<|im_start|>``, ``<start_of_turn>``, ``[INST]``."""

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
    """Return the Alpaca prompt of an instruction, with its input where there is one."""
    if context:
        return _ALPACA_INPUT.format(instruction=instruction, input=context)
    return _ALPACA.format(instruction=instruction)


def apply_template(template: str, prompt: str, tokenizer=None) -> str:
    """Render one prompt.

    Args:
      template: ``"none"`` (the text as it is), ``"alpaca"``, or ``"chat"`` (the tokenizer's own chat
        template, with the prompt as the user's turn).
      prompt: the instruction.
      tokenizer: a transformers tokenizer, needed by ``"chat"``.

    Raises:
      InputError: an unknown template, or a tokenizer without a chat template or with one that fails; or a prompt
        that the chat template has rendered already.
    """
    if template == "none":
        return prompt
    if template == "alpaca":
        return alpaca(prompt)
    if template != "chat":
        raise InputError(f"template is {template!r}; expected one of {', '.join(TEMPLATES)}")
    return render_turns([{"role": "user", "content": prompt}], tokenizer, shown=False)


def render_turns(turns: Sequence[Mapping[str, str]], tokenizer, *, shown: bool = True) -> str:
    """Render a conversation that an answer follows, by the tokenizer's chat template.

    Args:
      turns: ``{"role", "content"}`` of each, the last one the user's.
      tokenizer: a transformers tokenizer.
      shown: check that the text holds every turn.

    Raises:
      InputError: a tokenizer without a chat template, or with one that fails or leaves a turn out; or a turn that
        the chat template has rendered already.
    """
    text = _chat(list(turns), tokenizer)
    for number, turn in enumerate(turns, 1):
        if shown and turn["content"].strip() not in text:
            raise InputError(
                f"template 'chat': the tokenizer's chat template leaves out turn {number}, of the {turn['role']}"
            )
    if turns:
        _check_plain(turns, text, getattr(tokenizer, "bos_token", None) or "")
    return text


def _check_plain(turns: Sequence[Mapping[str, str]], text: str, bos: str) -> None:
    """Refuse turns of the user that begin as the template does: rendered twice they are another text."""
    before = text[: max(0, text.find(turns[0]["content"].strip()))].strip().removeprefix(bos).strip()
    marks = [mark for mark in _MARK.findall(before) if mark != bos]
    if not marks and before and not before[-1].isalnum():
        marks = [before]
    for turn in turns:
        said = turn["content"].strip().removeprefix(bos).strip()
        found = next((mark for mark in marks if said.startswith(mark)), None)
        if found is not None and turn["role"] == "user":
            raise InputError(
                f"template 'chat': a prompt begins with {found[:40]!r}, as the chat template does, which has "
                "rendered it already; take the template none, or the plain questions"
            )


def _chat(turns: list, tokenizer) -> str:
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError("template 'chat': the tokenizer has no chat template; use alpaca or none")
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"template 'chat': the tokenizer's chat template fails ({reason[:200]})") from error
