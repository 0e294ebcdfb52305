"""One target for every parser that reads files of others."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from tests.reliability import fuzz_models as models
from tests.reliability import fuzz_records as records
from tests.reliability import fuzz_rows as rows
from tests.reliability.fuzz_cases import Case


class Target(NamedTuple):
    """One parser.

    Attributes:
      name: of the target.
      weight: its share of the cases; slow parsers have less.
      prepare: writes valid files into a folder, and returns what makes cases of them.
    """

    name: str
    weight: float
    prepare: Callable[[pathlib.Path], Case]


_PARSERS: dict[Callable[[pathlib.Path], Case], float] = {
    models.adapter_config: 1,
    models.adapter_weights: 1,
    models.mlx_config: 0.5,
    models.base_config: 1,
    models.base_index: 1,
    models.base_weights: 1,
    models.classifier_config: 0.5,
    models.patterns: 0.7,
    models.masks: 1,
    records.record: 1,
    records.verified_record: 0.7,
    records.names: 0.5,
    records.report: 0.3,
    records.report_figures: 0.003,
    rows.rows_jsonl: 1,
    rows.rows_json: 1,
    rows.rows_csv: 1,
    rows.rows_parquet: 0.7,
    rows.data_sets: 1,
    rows.calibration: 0.7,
    models.tokenizer: 0.05,
    records.cells: 1,
    records.cell_rows: 1,
    records.training_run: 0.5,
    rows.bank_pickle: 1,
    rows.bank_arrays: 0.5,
}
TARGETS = {prepare.__name__: Target(prepare.__name__, weight, prepare) for prepare, weight in _PARSERS.items()}
