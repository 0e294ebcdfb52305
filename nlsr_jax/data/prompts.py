"""Task prompts: the paper's instruction for each task, and prompts that are already rendered in the rows."""

from collections.abc import Callable

from nlsr_jax.data.templates import alpaca, apply_template
from nlsr_jax.types import Tokenizer

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


def make_render(template: str, tokenizer: Tokenizer | None = None) -> Render:
    """Return the function that renders an instruction with its context.

    Templates that have no place for a context have it on a line behind the instruction.

    Args:
      template: see ``apply_template``.
      tokenizer: a transformers tokenizer, required by chat templates.

    Raises:
      InputError: if the template is unknown, or the tokenizer has no chat template.
    """
    apply_template(template, "hello", tokenizer)

    def render(instruction: str, context: str = "") -> str:
        return apply_template(template, instruction, tokenizer, context=context)

    return render


def looks_rendered(instruction: str) -> bool:
    """Return whether an instruction begins like an Alpaca prompt."""
    return instruction.startswith(_OPENING)


def parse_alpaca(prompt: str) -> tuple[str, str] | None:
    """Return instruction and context of a rendered Alpaca prompt; None if it is not exactly one.

    >>> parse_alpaca(alpaca("Say yes", "softly"))
    ('Say yes', 'softly')
    """
    _, _, body = prompt.removesuffix(_END).partition(_BEGIN)
    instruction, _, context = body.partition(_INPUT)
    # Rendering again decides, because the two forms differ in their first sentence.
    for found in ((body, ""), (instruction, context)):
        if alpaca(*found) == prompt:
            return found
    return None
