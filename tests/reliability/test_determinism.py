"""Commands in other surroundings, in short."""

import os

import pytest

from tests.e2e.command import error_line, run
from tests.plain_figures import DRAW
from tests.reliability.determinism import Variation, examine, locales, make_jobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("determinism")
    (made / "files").mkdir()
    return made


@pytest.fixture(scope="module")
def jobs(folder):
    return make_jobs(folder / "files", {DRAW: "1"})  # as those that are not forked


@pytest.mark.long
def test_surroundings_do_not_matter(folder, jobs):
    """All at once: what made a difference would make one here too.

    One locale is the oddest there is; in the other, rows that are not ASCII are read all the same.
    """
    known = dict(locales(folder))
    (ascii_only,) = (env for words, env in known.items() if "ASCII" in words)
    other = {"PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "NPROC": "1", "OMP_NUM_THREADS": "1"}
    chosen = [
        Variation("all, odd", other | [*known.values()][-1], jobs=("finetune",)),
        Variation("all, ASCII", other | ascii_only, jobs=("realign",)),
    ]
    lines = []
    assert examine(folder, jobs, chosen, lines.append) == (2, 2), lines


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("größe", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        (os.fsdecode("größe".encode("latin-1")), {"LC_ALL": "C.UTF-8"}),
    ],
)
def test_a_path_that_the_locale_cannot_read_is_refused(tmp_path, name, env):
    (tmp_path / name).mkdir()
    arguments = ["--aligned", tmp_path / name, "--finetuned", tmp_path, "--method", "magnitude"]
    line = error_line(run("realign", *arguments, "--output", tmp_path / "out", env=env, check=False))
    assert "is not text in this locale; use one with UTF-8" in line
    assert not (tmp_path / "out").exists()


def test_a_path_that_is_not_ascii_is_read_where_the_locale_is_c(tmp_path):
    """Python takes UTF-8 there by itself."""
    (tmp_path / "größe").mkdir()
    (tmp_path / "other").mkdir()
    arguments = ["--aligned", tmp_path / "größe", "--finetuned", tmp_path / "other", "--method", "magnitude"]
    line = error_line(run("realign", *arguments, "--output", tmp_path / "out", env={"LC_ALL": "C"}, check=False))
    assert "größe: " in line
    assert "locale" not in line
