"""What a realigned folder holds beside weights, masks and record: the customer's files and a model card.

Records of former versions know neither: a run that repeats one writes neither.
"""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from nlsr_jax.files.output import write_text
from nlsr_jax.formats.adapter_folder import WEIGHTS
from nlsr_jax.formats.companions import CARD, Companions, card_fields, find_companions
from nlsr_jax.pipeline.run import Run
from nlsr_jax.report.model_card import realignment_card

INPUT = "companions"
"""The name of these files among the inputs of a record."""


def open_companions(source: pathlib.Path, run: Run, without: Collection[str] = ()) -> Companions | None:
    """Choose the files to carry and start to digest them.

    Args:
      source: the folder of the fine-tuned adapter or model.
      run: the context.
      without: names of files that are not carried.

    Returns:
      None where the run repeats a record that has none.
    """
    if run.recorded is not None and INPUT not in run.recorded:
        return None
    found = find_companions(source)
    found = found._replace(carried=tuple(one for one in found.carried if one.name not in without))
    run.digests.add(INPUT, source, found.sources(), root=source)
    return found


def write_card(
    folder: pathlib.Path,
    companions: Companions,
    record: Mapping[str, Any],
    *,
    base: Any,
    digests: Mapping[str, str],
) -> None:
    """Write the model card of an output.

    Args:
      folder: the output.
      companions: from ``open_companions``, whose card says the licence.
      record: of the run, as far as it is known.
      base: what the output names as its base model.
      digests: of what has been written.
    """
    card = realignment_card(
        record,
        base=base if isinstance(base, str) and base.strip() else None,
        weights=digests.get(WEIGHTS),
        licence=card_fields(companions),
    )
    write_text(folder / CARD, card)
