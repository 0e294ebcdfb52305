"""Print how far every family agrees with transformers, as a Markdown table.

    python -m tests.parity.table [--page docs/families.md] [VARIANT ...]

With --page the table replaces what is between the marks of a page. Small random models, float32, prompts of 12 and
20 tokens in batches of 3. Differences are the largest of any logit, relative to the largest logit; rows are padded
by 0, 3 and 7 tokens. Generation is greedy, with a cache, 24 tokens.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Iterator

import transformers

import nlsr_jax
from tests.parity.comparison import Agreement, compare, load_pair
from tests.parity.outer import OUTER, save_outer
from tests.parity.peers import VARIANTS

BEGIN, END = "<!-- parity -->", "<!-- end of parity -->"
_SEES = "_with_images"
HEADS = ("model", "family", "logits", "padded left", "padded right", "row alone", "generated", "generated, padded")


def row(variant: str, family: str, found: Agreement) -> str:
    """Return a line of the table."""
    parts = [f"{value / found.scale:.1e}" for value in (found.plain, found.left, found.right, found.alone)]
    same = ["equal" if one else "DIFFERENT" for one in (found.generated, found.generated_padded)]
    return f"| {' | '.join([variant, family, *parts, *same])} |"


def lines(variants: list[str]) -> Iterator[str]:
    """Yield the lines of the table of these variants; models that see are compared by their text."""
    yield f"transformers {transformers.__version__}:"
    yield ""
    yield f"| {' | '.join(HEADS)} |"
    yield f"|{' --- |' * len(HEADS)}"
    for variant in variants:
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            if variant.endswith(_SEES):
                pair = save_outer(variant.removesuffix(_SEES), place), *nlsr_jax.load_model(place)
                family = f"{pair[0].config.model_type} ({pair[1].config.family})"
            else:
                pair = load_pair(variant, place)
                family = pair[1].config.family
            yield row(variant, family, compare(pair))


def main() -> None:
    """Print the table of some variants or of all, and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=pathlib.Path)
    parser.add_argument("variants", nargs="*")
    args = parser.parse_args()
    made = []
    for line in lines(args.variants or [*VARIANTS, *(name + _SEES for name in OUTER)]):
        print(line, flush=True)
        made.append(line)
    if args.page:
        before, rest = args.page.read_text().split(BEGIN)
        args.page.write_text("\n".join([before + BEGIN, *made, END + rest.split(END)[1]]))


if __name__ == "__main__":
    main()
