"""Task prompts: the paper's instruction of each task, and prompts that rows carry ready-made."""

from collections.abc import Callable

from nlsr_jax.data.templates import alpaca, apply_template

Render = Callable[[str, str], str]
"""``render(instruction, context)``: the prompt as the model reads it."""

SST2 = "Analyze the sentiment of the input, and respond only positive or negative"
AG_NEWS = (
    "Categorize the news article given in the input into one of the 4 categories:\n\n"
    "World\nSports\nBusiness\nSci/Tech\n"
)
GSM8K_SUFFIX = "\nFirst think step by step and then answer the final number.\n"

_OPENING = "Below is an instruction that describes a task"
_BEGIN, _INPUT, _END = "\n\n### Instruction:\n", "\n\n### Input:\n", "\n\n### Response:"


def make_render(template: str, tokenizer=None) -> Render:
    """Return the function that renders an instruction with its context.

    Under ``"chat"`` and ``"none"`` the context follows the instruction on a line of its own.

    Args:
      template: see ``apply_template``.
      tokenizer: a transformers tokenizer, needed by ``"chat"``.

    Raises:
      InputError: an unknown template, or a tokenizer without a chat template.
    """
    apply_template(template, "hello", tokenizer)

    def render(instruction: str, context: str = "") -> str:
        if template == "alpaca":
            return alpaca(instruction, context)
        return apply_template(template, f"{instruction}\n{context}" if context else instruction, tokenizer)

    return render


def looks_rendered(instruction: str) -> bool:
    """Say whether an instruction opens as an Alpaca prompt does."""
    return instruction.startswith(_OPENING)


def parse_alpaca(prompt: str) -> tuple[str, str] | None:
    """Return instruction and context of a rendered Alpaca prompt; None where it is not exactly one.

    >>> parse_alpaca(alpaca("Say yes", "softly"))
    ('Say yes', 'softly')
    """
    _, _, body = prompt.removesuffix(_END).partition(_BEGIN)
    instruction, _, context = body.partition(_INPUT)
    # Rendering again decides: the two forms differ in their first sentence.
    for found in ((body, ""), (instruction, context)):
        if alpaca(*found) == prompt:
            return found
    return None
