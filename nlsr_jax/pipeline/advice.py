"""What messages advise, where several say the same."""

from nlsr_jax.errors import argument

FRESH_ADVICE = (
    "An adapter that was trained as a fresh LoRA on an aligned model, such as an instruct model, descends from no "
    f"aligned adapter: leave {argument('aligned')} out and give that model as {argument('base')}, and the model "
    f"that it was aligned from as {argument('pretrained')} where it is at hand"
)
"""What to do with the adapters that most people hold. The one place that says it."""
TURNED_ADVICE = (
    f"{argument('basis')} turned lifts what was added to the aligned adapter and needs no common lineage, rank or "
    "scaling"
)
"""What to do with adapters on one base whose factors cannot be compared entry by entry."""
SMALLER = (
    f"give a smaller {argument('beta')}, or the adapters in a type that holds more, such as bfloat16 or float32"
)
"""What to do where amplification goes beyond what a type holds."""
