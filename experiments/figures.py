r"""Draw the paper's eleven figures on a study.

  python -m experiments.figures --figure 5 [--seeds 5,6,7 --workers 2 --output checkpoints/runs/laboratory]
  python -m experiments.figures --figure all

Runs the cells and analyses of a figure that are missing, and writes figures/figure_N as SVG and PNG with its data
and caption as JSON, and index.html, a page with all existing tables and figures. Rows, adapters and page are shared
with experiments.tables. A killed run resumes when it is started again. On two CPU cores ten minutes for figure 5
with five seeds, seconds if its rows exist.
"""

from absl import flags

from experiments import laboratory_flags
from nlsr_jax.commands import command

laboratory_flags.define_laboratory_flags("Folder of rows, figures and page; an existing one is continued.")
flags.DEFINE_list("figure", None, "Numbers of the figures, such as 3,5, or all.", required=True)
flags.DEFINE_list("seeds", ["5", "6", "7", "8", "9"], "Seeds to average over.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Draw the figures."""
    from nlsr_jax.paper.figures import FIGURES, Asked, get_figure
    from nlsr_jax.paper.publishing import check_places, publish_figure, publish_page

    numbers = tuple(FIGURES) if FLAGS.figure == ["all"] else command.numbers("figure", int, FLAGS.figure)
    seeds = laboratory_flags.seeds()
    figures = [get_figure(number) for number in numbers]
    check_places(FLAGS.output, figures=numbers)
    runner = laboratory_flags.open_runner()
    for figure in figures:
        laboratory_flags.run_all(runner, figure.seeded(seeds))
        path = publish_figure(FLAGS.output, figure, figure.gather(Asked(runner, seeds)), seeds)
        print(f"figure {figure.number}: {path}")
    print(f"wrote {publish_page(FLAGS.output, laboratory_flags.describe_world())}")


if __name__ == "__main__":
    command.run(main)
