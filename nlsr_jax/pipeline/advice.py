"""What messages advise, where several say the same."""

FRESH_ADVICE = (
    "An adapter that was trained as a fresh LoRA on an aligned model, such as an instruct model, descends from no "
    "aligned adapter: leave --aligned out and give that model as --base, and the model that it was aligned from as "
    "--pretrained where it is at hand"
)
"""What to do with the adapters that most people hold. The one place that says it."""
SMALLER = "give a smaller --beta, or the adapters in a type that holds more, such as bfloat16 or float32"
"""What to do where amplification goes beyond what a type holds."""
