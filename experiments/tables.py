r"""Make the paper's tables on a study: scores (tables 1 to 8), generations (9 to 11), and three more (12 to 14).

  python -m experiments.tables --table 3 [--seeds 5,6,7 --workers 2 --output checkpoints/runs/laboratory]
  python -m experiments.tables --table all

Runs each cell of a table that has no row yet, as experiments.sweep does, and prints the table as Markdown: ours as
mean and standard deviation over the seeds, with the paper's numbers in brackets. The output holds tables/table_N as
Markdown, CSV and JSON, and index.html, a page with all existing tables and figures. A killed run resumes when it is
started again. On two CPU cores a model takes about 2 seconds and a fine-tuning, which tables share, 15: 10 minutes
for table 5 with five seeds, hours for all tables.
"""

from absl import flags

from experiments import laboratory_flags
from nlsr_jax.commands import command
from nlsr_jax.errors import InputError

laboratory_flags.define_laboratory_flags("Folder of rows, tables and page; an existing one is continued.")
flags.DEFINE_list("table", None, "Numbers of the tables, such as 1,5, or all.", required=True)
flags.DEFINE_list("seeds", ["5", "6", "7", "8", "9"], "Seeds to average over.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Make the tables."""
    from nlsr_jax.paper import skills
    from nlsr_jax.paper.analyses import identification_seconds
    from nlsr_jax.paper.generations import GENERATIONS, generate
    from nlsr_jax.paper.publishing import (
        check_places,
        publish_generations,
        publish_page,
        publish_part,
        publish_table,
    )
    from nlsr_jax.paper.results import summarise
    from nlsr_jax.paper.tables import TABLES, get_table

    every = (*TABLES, *GENERATIONS, skills.NUMBER)
    numbers = every if FLAGS.table == ["all"] else command.numbers("table", int, FLAGS.table)
    seeds = laboratory_flags.seeds()
    for number in numbers:
        if number not in every:
            raise InputError(f"--table has {number}; expected some of {', '.join(map(str, sorted(every)))}, or all")
    tables = [get_table(number) for number in numbers if number in TABLES]
    cells = {table.number: table.cells(seeds) for table in tables}
    check_places(FLAGS.output, tables=numbers)
    runner = laboratory_flags.open_runner()
    for table in tables:
        laboratory_flags.run_all(runner, cells[table.number])
        rows = laboratory_flags.rows_by_cell(runner, cells[table.number])
        seconds = identification_seconds(runner, seeds[0]) if "seconds" in table.scores else None
        print(publish_table(FLAGS.output, table, summarise(table, rows, seeds, seconds), seeds))
    examples = generate(runner, seeds[0]) if set(numbers) & set(GENERATIONS) else []
    for number in sorted(set(numbers) & set(GENERATIONS)):
        print(publish_generations(FLAGS.output, GENERATIONS[number], examples))
    if skills.NUMBER in numbers:
        part = skills.gather(runner, seeds)
        print(publish_part(FLAGS.output, skills.NUMBER, skills.TITLE, skills.note(seeds), part))
    print(f"wrote {publish_page(FLAGS.output, laboratory_flags.describe_world())}")


if __name__ == "__main__":
    command.run(main)
