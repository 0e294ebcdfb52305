"""What messages advise, where several say the same."""

FRESH_ADVICE = (
    "An adapter that was trained as a fresh LoRA, on an instruct model for instance, has no aligned adapter that "
    "it descends from: it must be lifted first, that is stacked with the weight change of the alignment into one "
    "adapter for either side (nlsr_jax.truncate, nlsr_jax.concatenate)"
)
"""What to do with the adapters that most people hold. The one place that says it."""
SMALLER = "give a smaller --beta, or the adapters in a type that holds more, such as bfloat16 or float32"
"""What to do where amplification goes beyond what a type holds."""
