"""Explanations of a record's settings and counts, one line each, and the formatting of values."""

from typing import Any

from nlsr_jax.report.reading import number

SETTINGS = {
    "base": "The base model, which is only read; without an aligned adapter it is the aligned model itself.",
    "aligned": "The aligned adapter: the safe behaviour before fine-tuning, and the source of the reference.",
    "finetuned": "The fine-tuned adapter or model that was repaired.",
    "harmless": "Harmless prompts that the refinement of the share must not make the model refuse.",
    "harmless_field": "Column of the harmless prompts.",
    "keep": "Prompts of the fine-tuned task; a repair keeps the fine-tuned model's own answers to them.",
    "keep_field": "Column of the task's prompts.",
    "pretrained": "The model that the base was aligned from; the base itself is then the aligned model.",
    "direction_rank": "Rank of the difference of base and pretrained model; not set means the adapter's rank.",
    "weak": "A less aligned adapter, from which the reference is extrapolated; not set means zero.",
    "calibration": "Harmful prompts with safe answers, used to find the safety-critical entries.",
    "masks": "Existing masks of safety-critical entries, used instead of finding them.",
    "seed": "Seed of all random choices of the run; the same seed gives the same result.",
    "beta": "How far the reference goes beyond the aligned adapter: aligned + beta · (aligned − weak).",
    "amplification_space": "Whether that formula is applied to the factors A and B or to their product.",
    "rank": "Rank to which the reference is truncated; not set means no truncation.",
    "sparsity": "Share of the entries that are not safety-critical.",
    "method": "How entries are scored to find the safety-critical ones.",
    "granularity": "Whether the best entries are chosen from a factor (tensor), each row, or the whole adapter.",
    "base_probability": "Probability that a module is left alone, before the part that depends on its similarity.",
    "increment": "How much higher this probability is for the most similar module.",
    "rule": "How the modules to repair are chosen.",
    "tau": "Rule threshold: modules whose similarity is below this are repaired.",
    "share": "Rule least_similar: the share of modules to repair.",
    "layers": "Rule layers: the decoder layers to repair.",
    "space": "Whether entries are replaced in the factors, or products are added (which doubles the rank).",
    "basis": "Rank axis of the comparison: as_is, rotated towards the aligned one, or that of a lifted update.",
    "strength": "How far a replaced entry moves: 1 is the reference's value, more goes beyond it.",
    "max_rank": "Rank to which the written adapter is compressed; not set means no compression.",
    "as_adapter": "Rank of the adapter that was written in place of a full model; not set means a full model.",
    "batch_size": "Calibration rows per batch.",
    "max_length": "Longest calibration row in tokens; longer answers are cut.",
    "template": "The template applied to each prompt; the record has the SHA-256 of its text.",
    "prompt_field": "Column of the prompts in the calibration rows; not set means that it was detected.",
    "response_field": "Column of the safe answers in the calibration rows; not set means that it was detected.",
    "rejected_field": "Column of the rejected answers in the calibration rows, if a method needs them.",
    "dtype": "Dtype of the base model's weights during calibration.",
    "end_token": "Whether calibration answers end with the end token, as in training.",
    "allow_unrelated": "Whether to continue if a module does not descend from the aligned adapter.",
}

COMPUTING = ("stream",)
"""Settings of how a run computes. They change nothing of what it writes, and so not its pages."""

METHODS = {
    "low_rank": "entries that contribute most to the reference's output on the safe answers, along the strongest "
    "directions of each factor's output",
    "wanda": "entries with large values and large inputs on the safe answers",
    "snip": "entries whose removal would change the probability of the safe answers most",
    "preference_snip": "entries whose removal would change the preference for safe over unsafe answers most",
    "random": "random entries, as a control that ignores safety",
    "magnitude": "entries with the largest values, regardless of the data",
    "gain": "entries whose replacement makes the fine-tuned model's safe answers more likely, by the gradient",
}

INPUTS = {
    "base": "base model",
    "aligned": "aligned adapter",
    "finetuned": "fine-tuned adapter",
    "weak": "weak adapter",
    "pretrained": "pretrained model",
    "calibration": "calibration data",
    "harmless": "harmless prompts",
    "keep": "prompts of the task",
    "masks": "existing masks",
    "template": "prompt template",
    "companions": "files beside the fine-tuned adapter",
}

CALIBRATION = {
    "rows": "rows read",
    "used": "rows used",
    "skipped_long_prompt": "rows skipped because the prompt left no room for an answer",
    "skipped_unsafe": "rows skipped because they mark their answer as unsafe",
    "skipped_unpaired": "rows skipped because they have no pair of a safe and an unsafe answer",
    "skipped_no_tokens": "rows skipped because the answer had no tokens",
    "cut_responses": "answers cut to the maximum length",
    "response_positions": "answer tokens in the statistics",
}

_LONGEST = 1000


def printable(text: str) -> str:
    """Return text with its control characters made visible, and very long text cut."""
    if len(text) > _LONGEST:
        left_out = len(text) - _LONGEST
        text = f"{text[: _LONGEST - 200]} … ({left_out} characters left out) … {text[-200:]}"
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    # C1 controls, marks that change the reading direction, invisible marks, surrogates, noncharacters
    hidden = (
        0x80 <= code < 0xA0
        or code in (0x061C, 0x200B, 0x200E, 0x200F, 0xFEFF)
        or 0x2028 <= code <= 0x202E
        or 0x2060 <= code <= 0x206F
        or 0xD800 <= code <= 0xDFFF
        or 0xFDD0 <= code <= 0xFDEF
        or code & 0xFFFE == 0xFFFE
    )
    return "\ufffd" if hidden else character


def finalize(value: Any) -> Any:
    """Convert a printed value to text; safe markup is returned unchanged."""
    if hasattr(value, "__html__"):
        return value
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return printable(", ".join(map(str, value)))
    return printable(str(value))


def count(value: Any) -> str:
    """Format a whole number with separators; return anything else as text."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else finalize(value)


def decimal(value: Any, digits: int = 3) -> str:
    """Format a number with a fixed number of digits."""
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: Any) -> str:
    """Format a share as per cent with at most three digits and a fixed space; never round it to 0 or 100."""
    if number(value) is None:
        return finalize(value)
    for digits in (1, 2, 3):
        text = f"{100 * value:.{digits}f}"
        if value in (0, 1) or text.rstrip("0").rstrip(".") not in ("0", "100"):
            break
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "\u00a0%"
