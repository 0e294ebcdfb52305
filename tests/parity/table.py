"""Print how far every family agrees with transformers, as a Markdown table.

    python -m tests.parity.table [VARIANT ...]

Small random models, float32, prompts of 12 and 20 tokens in batches of 3. Differences are the largest of any logit,
relative to the largest logit; rows are padded by 0, 3 and 7 tokens. Generation is greedy, with a cache, 24 tokens.
"""

import pathlib
import sys
import tempfile

import transformers

from tests.parity.comparison import Agreement, compare, load_pair
from tests.parity.peers import VARIANTS

HEADS = ("model", "family", "logits", "padded left", "padded right", "row alone", "generated", "generated, padded")


def row(variant: str, family: str, found: Agreement) -> str:
    """Return a line of the table."""
    parts = [f"{value / found.scale:.1e}" for value in (found.plain, found.left, found.right, found.alone)]
    same = ["equal" if one else "DIFFERENT" for one in (found.generated, found.generated_padded)]
    return f"| {' | '.join([variant, family, *parts, *same])} |"


def main(variants: list[str]) -> None:
    """Print the table of these variants, or of all."""
    print(f"transformers {transformers.__version__}\n")
    print(f"| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}")
    for variant in variants or list(VARIANTS):
        with tempfile.TemporaryDirectory() as folder:
            pair = load_pair(variant, pathlib.Path(folder))
            print(row(variant, pair[1].config.family, compare(pair)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
