r"""Gather results of lm-evaluation-harness and inspect_ai in one table.

  nlsr harness results_2026-11-30.json logs/task.eval --output table.json
  nlsr harness logs --method repaired --column hs --output table.json

The arguments name results files of lm-evaluation-harness (results_*.json), logs of inspect_ai (.eval or .json), or
folders that hold them. The table is a list of rows as the studies of this project write them: the accuracy of a
task stands in per cent in the column fa, or in the one that --column names. Every metric of a log has a row, with
its value, standard error and number of items.
"""

from collections.abc import Sequence

from absl import flags

from nlsr_jax.commands import command, path_flags
from nlsr_jax.errors import InputError

path_flags.define_output("output", None, "JSON file for the rows; without it they are printed alone.")
flags.DEFINE_string("method", None, "Name of the method in the table; by default that of the adapter's folder.")
flags.DEFINE_string("column", "fa", "Column that receives accuracies: fa, hs or over_refusal.")
path_flags.define_overwrite()
FLAGS = flags.FLAGS
_MOST = 10_000


def main(arguments: Sequence[str]) -> None:
    """Read logs and write one table."""
    import json

    from nlsr_jax.files.output import check_free_file, whole_file, write_text
    from nlsr_jax.harnesses.logs import read_logs

    if len(arguments) < 2:
        raise InputError("name the logs: nlsr harness LOG...")
    inputs = {f"log {number}": path for number, path in enumerate(arguments[1:], 1)}
    options = {"overwrite": FLAGS.overwrite, "inputs": inputs, "foreign": _foreign}
    if FLAGS.output:
        check_free_file(FLAGS.output, **options)
    rows = read_logs(arguments[1:], method=FLAGS.method, column=FLAGS.column)
    if FLAGS.output:
        with whole_file(FLAGS.output, **options) as file:
            write_text(file, json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _print(rows)
    if FLAGS.output:
        print(f"wrote {FLAGS.output}")


def _foreign(path) -> str | None:
    """Say whether a file is not a table of this command."""
    from nlsr_jax.files.json_files import read_json
    from nlsr_jax.harnesses.logs import COLUMNS

    if not path.stat().st_size:
        return None
    try:
        rows = read_json(path, "table")
    except InputError:
        rows = None
    known = isinstance(rows, list) and all(isinstance(row, dict) and {*COLUMNS} <= {*row} for row in rows)
    return None if known else "this file is not a table of nlsr harness"


def _print(rows) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "task", "metric", "value", "stderr", "rows")
    for row in rows:
        error = "" if row["stderr"] is None else f"{row['stderr']:.4g}"
        name = row["metric"] if row["filter"] in (None, "none") else f"{row['metric']}, {row['filter']}"
        table.add_row(row["method"], row["task"], name, f"{row['value']:.4g}", error, str(row["rows"]))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    command.run(main, positional=_MOST)
