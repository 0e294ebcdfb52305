"""The flags that realign and identify share; each is a field of ``nlsr_jax.pipeline.Settings``."""

from absl import flags

from nlsr_jax.commands import path_flags
from nlsr_jax.nlsr.settings import PUBLISHED

IDENTIFICATION = (
    "base", "aligned", "weak", "calibration", "seed", "beta", "amplification_space", "rank", "sparsity",
    "method", "granularity", "batch_size", "max_length", "template", "dtype", "prompt_field", "response_field",
    "rejected_field",
)  # fmt: skip


def define_identification_flags() -> None:
    """Define the flags of reference and masks."""
    number, whole, choice = flags.DEFINE_float, flags.DEFINE_integer, flags.DEFINE_string
    path_flags.define_input(
        "base", None, "Base model: Hugging Face directory or hub id (for methods that need data)."
    )
    path_flags.define_input("aligned", None, "PEFT directory of the aligned adapter.")
    path_flags.define_input(
        "weak", None, "PEFT directory of the weak adapter; leave out when it was merged into the base."
    )
    path_flags.define_input(
        "calibration",
        None,
        "Rows of prompt and safe response: JSONL, JSON, CSV, Parquet or a hub data set.",
    )
    path_flags.define_output("output", None, "Folder to write; it appears whole or not at all.")
    path_flags.define_overwrite()
    whole("seed", 0, "Seed of the PRNG key.")
    number("beta", PUBLISHED.beta, "Pre-amplification coefficient.")
    choice(
        "amplification_space",
        PUBLISHED.amplification_space,
        "Pre-amplification of 'factors' or of their 'product'.",
    )
    whole("rank", None, "Truncate the reference to this rank.")
    number("sparsity", PUBLISHED.sparsity, "P_SR: share of entries that are not safety-critical, between 0 and 1.")
    choice("method", PUBLISHED.method, "low_rank, wanda, snip, preference_snip, random, magnitude or gain.")
    choice("granularity", PUBLISHED.granularity, "Mask threshold per 'tensor', per 'row' or one for the 'adapter'.")
    whole("batch_size", 16, "Calibration rows in one batch.")
    whole("max_length", 512, "Longest calibration sequence in tokens.")
    choice("template", "none", "Prompt template: none, alpaca or chat.")
    choice("prompt_field", None, "Column of the rows' prompts or conversations; by default it is found.")
    choice("response_field", None, "Column of their safe answers; by default it is found.")
    choice("rejected_field", None, "Column of their rejected answers, for preference_snip; by default it is found.")
    choice("dtype", "float32", "Number type of the base weights: float32, bfloat16 or float16.")
