"""The flags that realign and identify share; each is a field of ``nlsr_jax.pipeline.Settings``."""

from absl import flags

from nlsr_jax.nlsr.settings import PUBLISHED

IDENTIFICATION = (
    "base", "aligned", "weak", "calibration", "seed", "beta", "amplification_space", "rank", "sparsity",
    "method", "granularity", "batch_size", "max_length", "template", "dtype", "prompt_field", "response_field",
    "rejected_field",
)  # fmt: skip


def define_identification_flags() -> None:
    """Define the flags of reference and masks."""
    text, number, whole, choice = (
        flags.DEFINE_string,
        flags.DEFINE_float,
        flags.DEFINE_integer,
        flags.DEFINE_string,
    )
    text("base", None, "Base model: Hugging Face directory or hub id (for methods that need data).")
    text("aligned", None, "PEFT directory of the aligned adapter.")
    text("weak", None, "PEFT directory of the weak adapter; leave out when it was merged into the base.")
    text(
        "calibration",
        None,
        "Rows of prompt and safe response: JSONL, JSON, CSV, Parquet or a hub data set.",
    )
    text("output", None, "Folder to write; it appears whole or not at all.")
    flags.DEFINE_bool("overwrite", False, "Replace an output that exists.")
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
    text("prompt_field", None, "Column of the calibration rows' prompts or conversations; by default it is found.")
    text("response_field", None, "Column of their safe answers; by default it is found.")
    text("rejected_field", None, "Column of their rejected answers, for preference_snip; by default it is found.")
    choice("dtype", "float32", "Number type of the base weights: float32, bfloat16 or float16.")
