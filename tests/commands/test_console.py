"""``nlsr VERB``, the help of every program, and users' files whose names are those of ours."""

import re
import subprocess
import sys

import pytest

from nlsr_jax.commands import console
from nlsr_jax.commands.console import VERBS
from tests.adapter_files import flags, save_family
from tests.commands.programs import COMPILED, finish, start
from tests.e2e.command import ROOT, error_line, python

PROGRAMS = sorted(
    {path.stem for path in (ROOT / "experiments").glob("*.py")}
    - {"__init__", "bank_pickle", "gate_samples", "laboratory_flags"}
)
NLSR = ("-P", "-c", "from nlsr_jax.commands.console import main; main()")


def nlsr(*arguments, check=True):
    """Run the console command."""
    return python(*NLSR, *arguments, env={"PYTHONPATH": str(ROOT)}, check=check)


@pytest.mark.parametrize("given", [[], ["--help"], ["-h"], ["-?"], ["--helpfull"], ["--helpshort"], ["help"]])
def test_the_help_lists_the_verbs(capsys, given):
    console.main(given)
    text = capsys.readouterr().out
    for verb, what in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(what)}$", text, re.MULTILINE)


def test_every_verb_has_a_module_and_a_launcher():
    for verb in VERBS:
        assert f'launch("{verb}"' in (ROOT / "experiments" / f"{verb}.py").read_text()
        assert f"nlsr {verb}" in (ROOT / "nlsr_jax" / "commands" / f"{verb}.py").read_text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("relaign", "'relaign' is not a verb of nlsr; did you mean realign?"),
        ("Verify", "'Verify' is not a verb of nlsr; did you mean verify?"),
        ("zzz", "'zzz' is not a verb of nlsr; expected one of realign, fleet, identify, verify"),
        ("--output", "'--output' stands where the verb belongs: nlsr VERB [flags]"),
        ("", "'' is not a verb of nlsr; expected one of"),
    ],
)
def test_what_is_no_verb_is_one_line(given, expected):
    with pytest.raises(SystemExit) as caught:
        console.main([given, "x"])
    assert str(caught.value.code).startswith(f"error: {expected}")


def test_the_version_is_that_of_the_package(capsys):
    console.main(["--version"])
    assert re.fullmatch(r"nlsr \S.*\n", capsys.readouterr().out)


@pytest.mark.parametrize("program", [*VERBS, *(f"experiments.{name}" for name in PROGRAMS)])
def test_help_ends_well_whoever_reads_it(tmp_path, program):
    """The case of the field: help piped into head was a traceback, and its status 1."""
    command = [*NLSR, program, "--help"] if program in VERBS else ["-m", program, "--helpshort"]
    whole = python(*command, env={"PYTHONPATH": str(ROOT)})
    shown = f"nlsr {program}" if program in VERBS else program.replace("experiments.", "nlsr ")
    if shown.removeprefix("nlsr ") not in VERBS:
        shown = f"python -m {program}"
    assert whole.stdout.startswith(f"usage: {shown} [flags]\n")
    assert "--output: " in whole.stdout or program.rpartition(".")[2] in (
        "plan",
        "verify",
        "attest",
        "push",
        "judges",
    )
    assert "alsologtostderr" not in whole.stdout
    assert "/" not in whole.stdout.splitlines()[0]
    assert whole.stderr == ""
    if program not in VERBS:  # they are run by the same function
        return
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("flag", ["-h", "-?", "--help", "--helpshort", "--helpfull", "-help"])
def test_every_way_to_ask_for_help_shows_it(tmp_path, flag):
    code, out, error = finish(start(tmp_path, "print('never')", flag))
    assert (code, error) == (0, "")
    assert out.startswith("usage: ")
    assert ("alsologtostderr" in out) == (flag == "--helpfull")
    assert "never" not in out


def test_the_help_of_a_verb_has_the_flags_of_all_its_modules():
    text = nlsr("realign", "--help").stdout
    for name in ("--finetuned", "--aligned", "--mesh", "--coordinator", "--[no]overwrite", "--calibration"):
        assert f"  {name}: " in text
    assert "Realign a fine-tuned PEFT adapter" in text
    assert nlsr("help", "realign").stdout == text


def test_the_help_of_a_fleet_leaves_out_the_flags_that_it_refuses():
    text = nlsr("fleet", "--help").stdout
    assert "  --calibration: " in text
    assert "  --finetuned: " not in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            ["--alined=x"],
            "--alined is not a flag of nlsr realign; did you mean --aligned? nlsr realign --help lists",
        ),
        (["--zzz"], "--zzz is not a flag of nlsr realign; nlsr realign --help lists the flags"),
        (["--seed=one"], "flag --seed=one: invalid literal for int() with base 10: 'one'; nlsr realign --help"),
        (["--overwrite=perhaps"], "flag --overwrite=perhaps: Non-boolean argument to boolean flag; nlsr"),
        (["--output"], "Missing value for flag --output"),
        (["somewhere"], "unexpected argument 'somewhere'; all inputs are flags, see --help"),
        (["--flagfile=absent"], "absent"),
    ],
)
def test_a_wrong_flag_is_one_line(given, expected):
    found = nlsr("realign", *given, check=False)
    assert expected in error_line(found)
    assert len(found.stderr.splitlines()) == 1


def test_a_flag_that_is_missing_is_one_line():
    assert "--model is missing; nlsr plan --help lists the flags" in error_line(nlsr("plan", check=False))


def test_the_package_speaks_of_the_console_command():
    verbs = "|".join(VERBS)
    sources = [path for path in (ROOT / "nlsr_jax").rglob("*") if path.suffix in (".py", ".html")]
    for path in sources:
        assert not re.search(rf"experiments\.({verbs})\b", path.read_text(encoding="utf-8")), path


@pytest.fixture
def theirs(tmp_path):
    """A folder of a user whose files have the names of ours and of our libraries'."""
    folder = tmp_path / "theirs"
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "__init__.py").touch()
    for name in ("command", "records", "tokenizers", "safetensors", "absl", "numpy", "matplotlib", "console"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')")
    save_family(tmp_path)
    return folder


@pytest.mark.parametrize("way", [["-m", "nlsr_jax"], NLSR], ids=["module", "script"])
def test_users_may_have_files_with_our_names(theirs, way):
    """The case of the field: a package named experiments hid ours."""
    given = [*flags(theirs.parent, "aligned", "finetuned"), "--method", "magnitude"]
    command = ["realign", *(["--help"] if way is NLSR else [*map(str, given), "--output", "out"])]
    body = f"import subprocess\nsys.exit(subprocess.run([sys.executable, *{[*way, *command]!r}]).returncode)"
    code, _, error = finish(start(theirs.parent, body, cwd=theirs, env=COMPILED))
    assert code == 0, error
    assert "a file of the user" not in error
    assert (theirs / "out" / "report.html").exists() == (way is not NLSR)
