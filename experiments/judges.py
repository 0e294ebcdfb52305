r"""The errors of the judges that need no model, as a table.

  python -m experiments.judges [--judge phrases.txt --judge file.py:function] [--labelled FILE.jsonl]
  python -m experiments.judges --write docs/guide/judges.md

Judges are measured on the 48 forms of refusal of the policy world, about all topics and with all endings, on
labelled answers (columns answer and label: complied, refused or odd), by default those of SmolLM2 that a person
labelled, and on the model's own helpful answers. --judge adds judges of yours. --write puts the table between the
marks of a page. It takes ten seconds.
"""

import pathlib

from absl import flags

from nlsr_jax.commands import command, path_flags
from nlsr_jax.errors import InputError

LABELLED = pathlib.Path(__file__).parents[1] / "tests" / "evaluation" / "policy_answers.jsonl"

flags.DEFINE_multi_string("judge", [], "Also a file of phrases, or a function such as file.py:function.")
path_flags.define_input("labelled", str(LABELLED), "Labelled answers, with the columns answer and label.")
path_flags.define_output("write", None, "Page in which to replace the table.")
FLAGS = flags.FLAGS


def main(_) -> None:
    """Print the table, and write it into a page."""
    from nlsr_jax.evaluation.own_judge import as_judge
    from nlsr_jax.files.output import whole_file, write_text
    from nlsr_jax.files.ownership import text_with
    from nlsr_jax.study.judge_errors import BEGIN, replace_table, table

    made = table(FLAGS.labelled, {name: as_judge(name) for name in FLAGS.judge})
    print(made, end="")
    if FLAGS.write:
        page = pathlib.Path(FLAGS.write)
        if not page.is_file():
            raise InputError(f"--write: {page}: no such page")
        text = replace_table(page, made)
        with whole_file(page, overwrite=True, foreign=text_with(BEGIN)) as file:
            write_text(file, text)
        print(f"wrote {page}")


if __name__ == "__main__":
    command.run(main)
