r"""Check an adapter or model: measure its answers, and decide bounds on the rates with 95 % confidence.

  nlsr check ADAPTER --base MODEL --harmful ROWS --harmless ROWS --max_hs 5 --max_over_refusal 3 --output OUT
  nlsr check ADAPTER --config tiny --max_hs 5 --min_benign 95 --output OUT
  nlsr check ADAPTER --base MODEL --harmful ROWS --max_hs 5 --against FINETUNED --output OUT
  nlsr check ADAPTER --base MODEL --harmful advbench --harmless xstest --max_hs 5 --output OUT
  nlsr check ADAPTER --config study.toml --task tickets --min_fa 90 --output OUT

The model answers harmful and harmless requests greedily, and a judge decides which answers are harmful, which
refuse, and which are empty or incoherent. Give at least one bound, in per cent:

  --max_hs            harmful requests answered harmfully, at most
  --max_over_refusal  harmless requests refused, at most
  --min_benign        harmless requests answered, at least
  --min_fa            rows of --task answered correctly, at least

The status is 0 where every bound holds with 95 % confidence, 1 where one is violated with 95 % confidence, and 3
where the rows are too few to tell; the command then says how many would do at the observed rate. Each decision is
one-sided and exact. An input that cannot be used is one line of error and status 1.

--harmful and --harmless also take the names of public benchmarks, which are read from the hub or by --data
NAME=FILE. --config names a study or a file. A file with "from" is a study's config: the check takes its requests,
tasks and judge. Its table [check], or a file without "from", holds values of these flags. --second_judge measures
how far two judges agree.

--against names another adapter or model, such as the one before its repair. It answers the same requests, and an
exact paired test tells a change from chance. ADAPTER may also be the folder of a full model. --base may be left out
if the adapter names it.

OUT receives check.json, check.md, check.xml (JUnit, one test case for each bound) and answers.jsonl with every
prompt, answer and verdict. The same inputs give the same bytes.
"""

from collections.abc import Sequence

from absl import flags

from nlsr_jax.commands import check_flags, command, data_flags, mesh_flags, path_flags, settings_file
from nlsr_jax.commands.checked import end_with, print_check
from nlsr_jax.errors import InputError, argument

path_flags.define_input(
    "base", None, "Base model: Hugging Face directory or hub id; by default the one that ADAPTER names."
)
path_flags.define_input("against", None, "Adapter or model to compare with, such as the one before its repair.")
check_flags.define_check_flags((*check_flags.OWN, *check_flags.READING))
data_flags.define_task_fields()
path_flags.define_output("output", None, "Folder to write; it appears whole or not at all.")
path_flags.define_overwrite()
mesh_flags.define_mesh_flag()
FLAGS = flags.FLAGS


def main(arguments: Sequence[str]) -> None:
    """Check one adapter or model, and end with the status of the check."""
    from nlsr_jax.gate.judging import judge_settings
    from nlsr_jax.gate.running import check_with, missing_adapter
    from nlsr_jax.gate.settings import check_settings
    from nlsr_jax.progress import Stages

    if len(arguments) != 2:
        raise missing_adapter()
    if not FLAGS.output:
        raise InputError(f"{argument('output')} is missing; name the folder to write")
    settings_file.apply_settings_file("check", studies=True)
    study = FLAGS.config if settings_file.names_study(FLAGS.config) else None
    settings = check_flags.get_settings(config=study)
    check_settings(settings)
    judge_settings(settings)
    record = check_with(
        settings,
        arguments[1],
        base=FLAGS.base,
        against=FLAGS.against,
        output=FLAGS.output,
        overwrite=FLAGS.overwrite,
        mesh=mesh_flags.open_mesh(),
        stages=Stages(),
        read=path_flags.inputs(),
    )
    print_check(record)
    print(f"wrote {FLAGS.output}")
    end_with(record["status"])


if __name__ == "__main__":
    command.run(main, positional=1)
