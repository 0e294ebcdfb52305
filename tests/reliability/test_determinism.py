"""Commands in other surroundings, in short; and that other bytes are seen."""

import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.e2e.command import error_line, run
from tests.reliability.determinism import Variation, compare, distance, examine, locales, make_jobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("determinism")
    (made / "files").mkdir()
    return made


@pytest.fixture(scope="module")
def jobs(folder):
    return make_jobs(folder / "files", {})


def test_surroundings_do_not_matter(folder, jobs):
    """All at once: what made a difference would make one here too; the last locale is the oddest there is."""
    *_, (_, locale) = locales(folder)
    env = {"PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "NPROC": "1", "OMP_NUM_THREADS": "1", **locale}
    lines = []
    assert examine(folder, jobs, [Variation("all", env, jobs=("realign", "finetune"))], lines.append) == (2, 2), (
        lines
    )


def test_text_that_is_not_ascii_is_read_where_the_locale_is(folder, jobs):
    (ascii_only,) = (env for words, env in locales(folder) if "ASCII" in words)
    lines, chosen = [], [Variation("ASCII", ascii_only, jobs=("realign",))]
    assert examine(folder, jobs, chosen, lines.append) == (1, 1), lines


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


def test_other_bytes_are_seen(folder, tmp_path):
    output = tmp_path / "out"
    save_file({"x": np.zeros(100, bool)}, _file(output))
    shutil.copytree(output, tmp_path / "other")
    assert compare(output, tmp_path / "other", Variation("x")) == (True, "the same bytes")
    masks = load_file(_file(tmp_path / "other"))
    masks["x"][:3] = True
    save_file(masks, _file(tmp_path / "other"))
    assert compare(output, tmp_path / "other", Variation("x")) == (False, "other bytes: masks.safetensors")
    assert distance(output, tmp_path / "other") == 0.03
    assert not compare(output, tmp_path / "other", Variation("x", tolerance=0.02))[0]
    assert compare(output, tmp_path / "other", Variation("x", tolerance=0.04))[0]
    assert not compare(output / "none", tmp_path / "none", Variation("x"))[0]


def _file(folder):
    folder.mkdir(exist_ok=True)
    return folder / "masks.safetensors"
