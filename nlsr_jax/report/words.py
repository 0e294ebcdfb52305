"""What the settings and counts of a record mean, in one line each; how values are printed."""

from nlsr_jax.report.reading import number

SETTINGS = {
    "base": "The base model that all adapters sit on; it is read only to find the safety-critical entries.",
    "aligned": "The aligned adapter: safe behaviour before fine-tuning, and the source of the reference.",
    "finetuned": "The fine-tuned adapter that was repaired.",
    "pretrained": "The model that the base was aligned from; the base itself is the aligned model then.",
    "direction_rank": "Rank that holds the difference of base and pretrained model; not set means the adapter's.",
    "weak": "A less aligned adapter, from which the reference is extrapolated; not set means zero.",
    "calibration": "Harmful prompts with safe answers, used to find the safety-critical entries.",
    "masks": "Ready masks of safety-critical entries, used instead of finding them.",
    "seed": "Start of everything random in the run; the same seed gives the same result.",
    "beta": "How far the reference goes beyond the aligned adapter: aligned + beta · (aligned − weak).",
    "amplification_space": "Whether that formula is applied to the factors A and B or to their product.",
    "rank": "Rank that the reference is cut to; not set means that it stays as it is.",
    "sparsity": "Share of the entries that are not safety-critical.",
    "method": "How entries are scored for being safety-critical.",
    "granularity": "Whether the best entries are chosen from a whole factor (tensor) or from each of its rows.",
    "base_probability": "Probability of being left alone, before the part that depends on the similarity.",
    "increment": "How much more probable it is that the most similar module is left alone.",
    "rule": "How the modules to repair are chosen.",
    "tau": "Rule threshold: modules whose similarity is below this are repaired.",
    "share": "Rule least_similar: the share of the modules that is repaired.",
    "layers": "Rule layers: the decoder layers that are repaired.",
    "space": "Whether entries are replaced in the factors, or products are added (which doubles the rank).",
    "basis": "Whether the fine-tuned factors were turned towards the aligned ones before they were compared.",
    "batch_size": "Calibration rows that pass through the model at once.",
    "max_length": "Longest calibration row in tokens; longer answers are cut.",
    "template": "The frame put around each calibration prompt.",
    "prompt_field": "Column of the calibration rows that held the prompts; not set means that it was found.",
    "response_field": "Column of the calibration rows that held the safe answers; not set means that it was found.",
    "rejected_field": "Column of the calibration rows that held the rejected answers, where a method needs them.",
    "dtype": "Number type of the base model's weights while calibrating.",
    "end_token": "Whether calibration answers ended with the end token, as they do in training.",
    "allow_unrelated": "Whether to go on where a module does not descend from the aligned adapter.",
}

METHODS = {
    "low_rank": "entries that count most for what the reference does on the safe answers, read off the strongest "
    "directions of each factor's output",
    "wanda": "entries with a large value that meets large inputs on the safe answers",
    "snip": "entries whose removal would change the probability of the safe answers most",
    "preference_snip": "entries whose removal would change the preference for safe over unsafe answers most",
    "random": "entries drawn at random, a control that knows nothing of safety",
    "magnitude": "entries with the largest values, whatever the data",
    "gain": "entries whose replacement makes the fine-tuned model's safe answers more probable, by its gradient",
}

INPUTS = {
    "base": "base model",
    "aligned": "aligned adapter",
    "finetuned": "fine-tuned adapter",
    "weak": "weak adapter",
    "pretrained": "pretrained model",
    "calibration": "calibration data",
    "masks": "ready masks",
    "companions": "files beside the fine-tuned adapter",
}

CALIBRATION = {
    "rows": "rows read",
    "used": "rows used",
    "skipped_long_prompt": "rows skipped because the prompt left no room for an answer",
    "skipped_unsafe": "rows left out because they mark their answer as unsafe",
    "skipped_unpaired": "rows left out because they hold no pair of a safe and an unsafe answer",
    "skipped_no_tokens": "rows skipped because the answer had no tokens",
    "cut_responses": "answers cut to the longest length",
    "response_positions": "answer tokens that the statistics were summed over",
}

_LONGEST = 1000


def printable(text: str) -> str:
    """Return text that shows what it holds: control characters as pictures, the very long cut."""
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
    # C1 controls, marks that turn the reading direction, invisible marks, surrogates, noncharacters
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


def finalize(value):
    """Turn what the page prints into text; safe markup stays as it is."""
    if hasattr(value, "__html__"):
        return value
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return printable(", ".join(map(str, value)))
    return printable(str(value))


def count(value) -> str:
    """Format a whole number with separators; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else finalize(value)


def decimal(value, digits: int = 3) -> str:
    """Format a number with a fixed number of digits."""
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value) -> str:
    """Format a share as per cent with three digits at most, never a rounded 0 or 100."""
    if number(value) is None:
        return finalize(value)
    for digits in (1, 2, 3):
        text = f"{100 * value:.{digits}f}"
        if value in (0, 1) or text.rstrip("0").rstrip(".") not in ("0", "100"):
            break
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"
