r"""Run a sweep over many cells; each cell is one model that is made and evaluated once and then stored.

  python -m experiments.sweep --output checkpoints/runs/sweep --methods finetuned,nlsr \
      --vary beta=0,0.9,1.8 --vary sparsity=0.5,0.8 --seeds 0,1,2 [--workers 2]

The cells are all combinations of the flags; --vary changes a setting of the methods that have it. --cells reads a
JSON list of cells instead. A cell's name is a digest of its settings, the study's config and the base, so any sweep
finds an existing row; a killed run resumes with the missing cells. The output holds rows.jsonl (one row per line,
in the order of completion), table.parquet (in the order of the sweep) and the adapters that cells share. On two CPU
cores a model takes about 2 seconds (the published NLSR is the mean of five) and a fine-tuning, which cells share,
15.

On many machines, run the same command on each with --share 1/8, --share 2/8 … and an --output that all of them can
access; a SLURM array can use --share $((SLURM_ARRAY_TASK_ID + 1))/8. A last call without --share writes the table.
On a Ray cluster one call does all of it: --workers 8 --ray auto.
"""

from typing import Any

from absl import flags

from experiments import laboratory_flags
from nlsr_jax.commands import command, path_flags
from nlsr_jax.commands.processes import read_share
from nlsr_jax.errors import InputError

laboratory_flags.define_laboratory_flags("Folder of the rows; an existing one is continued.")
flags.DEFINE_list(
    "methods",
    ["nlsr"],
    "Methods that make the models: unaligned, aligned, finetuned, nlsr, nlsr_automatic, nlsr_refined or a defense.",
)
flags.DEFINE_multi_string("vary", [], "A setting and its values, such as beta=0,0.9; can be repeated.")
flags.DEFINE_list("tasks", ["sst2"], "The customers' tasks.")
flags.DEFINE_list("poison_ratios", ["0.05"], "Shares of harmful rows.")
flags.DEFINE_list("objectives", ["dpo"], "Objectives of the alignment.")
flags.DEFINE_list("architectures", ["own"], "Shapes of the base: llama, qwen2, mistral, or own, the study's.")
flags.DEFINE_list("seeds", ["0"], "Seeds.")
path_flags.define_input("cells", None, "JSON file with a list of cells, instead of the flags above.")
flags.DEFINE_string("share", None, "Run only this part of the cells, such as 2/8, and write no table.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Run the cells and write the table."""
    from nlsr_jax.files.output import check_free_file
    from nlsr_jax.sweep.runner import export_parquet, foreign_rows, read_cells, shares
    from nlsr_jax.sweep.workers import run_cells

    part = read_share(FLAGS.share) if FLAGS.share else None
    asked = _cells()
    runner = laboratory_flags.open_runner()
    check_free_file(runner.store.path / "table.parquet", True, foreign=foreign_rows)
    cells = [runner.whole(cell) for cell in asked]
    if part:
        number, count = part
        mine = set(list(shares(cells, count))[number - 1])
        run_cells(
            runner, cells, claimed=mine.__contains__, note=laboratory_flags.notes(), waiting=laboratory_flags.wait
        )
        return
    missing = len({runner.name(cell) for cell in cells} - set(runner.store.rows()))
    laboratory_flags.run_all(runner, cells)
    rows = read_cells(runner, cells)
    export_parquet(rows, runner.store.path / "table.parquet")
    print(f"{len(rows)} cells, {missing} of them new; wrote {FLAGS.output}")


def _cells():
    """Return the cells selected by the flags, in order."""
    import itertools

    from nlsr_jax.files.json_files import read_json
    from nlsr_jax.sweep.cells import cells_from_json, make_cell, settings_of

    tasks = laboratory_flags.tasks()
    if FLAGS.cells:
        return cells_from_json(read_json(FLAGS.cells, "list of cells"), FLAGS.cells, tasks)
    varied: dict[str, list] = {}
    for name, values in map(_setting, FLAGS.vary):
        varied.setdefault(name, []).extend(values)
    cells = []
    seeds = command.numbers("seeds", int, FLAGS.seeds)
    ratios = command.numbers("poison_ratios", float, FLAGS.poison_ratios)
    cases = itertools.product(FLAGS.architectures, seeds, FLAGS.objectives, FLAGS.tasks, ratios, FLAGS.methods)
    for architecture, seed, objective, task, ratio, method in cases:
        known = settings_of(method)
        names = [name for name in varied if name in known]
        for values in itertools.product(*(varied[name] for name in names)):
            case: dict[str, Any] = {"task": task, "poison_ratio": ratio, "seed": seed, "objective": objective}
            case |= {"architecture": architecture, "tasks": tasks}
            cells.append(make_cell(method, dict(zip(names, values, strict=True)), **case))
    unused = set(varied) - set().union(*(settings_of(method) for method in FLAGS.methods))
    if unused:
        raise InputError(f"--vary {sorted(unused)[0]}: none of {', '.join(FLAGS.methods)} has this setting")
    return cells


def _setting(text: str):
    """Parse ``"beta=0,0.9"`` as ``("beta", [0, 0.9])``."""
    import json

    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise InputError(f"--vary has {text!r}; expected a setting and its values, such as beta=0,0.9")

    def value(part):
        try:
            return json.loads(part)
        except ValueError:
            return part

    return name, [value(part) for part in values.split(",")]


if __name__ == "__main__":
    command.run(main)
