"""Prompt templates: how an instruction becomes the text that the model reads."""

from collections.abc import Mapping, Sequence

from nlsr_jax.errors import InputError

TEMPLATES = ("none", "alpaca", "chat")

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
      InputError: an unknown template, or a tokenizer without a chat template or with one that fails.
    """
    if template == "none":
        return prompt
    if template == "alpaca":
        return alpaca(prompt)
    if template != "chat":
        raise InputError(f"template is {template!r}; expected one of {', '.join(TEMPLATES)}")
    return _chat([{"role": "user", "content": prompt}], tokenizer)


def render_turns(turns: Sequence[Mapping[str, str]], tokenizer) -> str:
    """Render a conversation that an answer follows, by the tokenizer's chat template.

    Args:
      turns: ``{"role", "content"}`` of each, the last one the user's.
      tokenizer: a transformers tokenizer.

    Raises:
      InputError: a tokenizer without a chat template, or with one that fails or leaves a turn out.
    """
    text = _chat(list(turns), tokenizer)
    for number, turn in enumerate(turns, 1):
        if turn["content"].strip() not in text:
            raise InputError(
                f"template 'chat': the tokenizer's chat template leaves out turn {number}, of the {turn['role']}"
            )
    return text


def _chat(turns: list, tokenizer) -> str:
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError("template 'chat': the tokenizer has no chat template; use alpaca or none")
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"template 'chat': the tokenizer's chat template fails ({reason[:200]})") from error
