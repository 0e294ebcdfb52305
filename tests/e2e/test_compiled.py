"""Compiled programs that commands keep from one run to the next, and the digests of their inputs."""

import functools
import hashlib
import json
import os
import pathlib
import time

import pytest
from jax._src import compilation_cache

from nlsr_jax.commands import compiled
from nlsr_jax.errors import InputError
from nlsr_jax.formats.record import Digests
from tests.adapter_files import flags, save_family
from tests.e2e.command import contents, python

WHERE = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_family(folder)
    return folder


@pytest.fixture(autouse=True)
def no_other_cache(monkeypatch):
    """As in a user's environment, which says nothing of the cache; all programs are kept."""
    for name in (WHERE, "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def programs(home):
    return {path.name for path in home.rglob("*-cache")}


COUNTED = """
from nlsr_jax.commands import command, realign

def main(arguments):
    import jax

    found = []
    jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
    realign.main(arguments)
    print("counted", *(found.count(f"/jax/compilation_cache/cache_{kind}") for kind in ("misses", "hits")))

command.run(main)
"""
"""The command, with how many programs were not there, and how many were."""


def realign_counted(files, output, home):
    """Realign with the cache of a user whose ``XDG_CACHE_HOME`` is ``home``; returns what was counted."""
    arguments = [*flags(files, "aligned", "finetuned"), "--method", "magnitude", "--output", output]
    printed = python("-c", COUNTED, *arguments, env={"XDG_CACHE_HOME": str(home)}).stdout
    return [int(number) for number in printed.splitlines()[-1].split()[1:]]


def test_the_second_run_compiles_nothing_and_gives_the_same_bytes(files, tmp_path):
    home = tmp_path / "home"
    missed, _ = realign_counted(files, tmp_path / "first", home)
    assert missed == len(programs(home)) > 1
    assert any(name.startswith("jit__compare-") for name in programs(home))
    missed, there = realign_counted(files, tmp_path / "second", home)
    assert (missed, there) == (0, len(programs(home)))
    assert [path.name for path in (home / "nlsr_jax").iterdir() if path.name.startswith("run-")] == []
    found = [contents(tmp_path / name) for name in ("first", "second")]
    for name in ("adapter_model.safetensors", "masks.safetensors", "report.html"):
        assert found[0][name] == found[1][name]
    record = json.loads((tmp_path / "first" / "realignment.json").read_text())
    for name in ("aligned", "finetuned"):
        content = (files / name / "adapter_model.safetensors").read_bytes()
        assert record["inputs"][name]["files"]["adapter_model.safetensors"] == hashlib.sha256(content).hexdigest()


SMALL = """
from nlsr_jax.commands import command

def main(_):
    import jax

    print(jax.jit(lambda x: x + 1)(1.0))

command.run(main)
"""


def test_another_folder_and_none_at_all(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path / "home")}
    python("-c", SMALL, env={**env, WHERE: str(tmp_path / "mine")})
    assert programs(tmp_path / "mine")
    python("-c", SMALL, env={**env, "JAX_ENABLE_COMPILATION_CACHE": "false"})
    assert not (tmp_path / "home" / "nlsr_jax").exists()
    python("-c", SMALL, env=env)
    assert programs(tmp_path / "home" / "nlsr_jax")


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Start a run of the user whose folder is ``root``; returns how it ends."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ends = []
    monkeypatch.setattr(compiled.atexit, "register", lambda *call: ends.append(functools.partial(*call)))

    def start():
        monkeypatch.delenv(WHERE, raising=False)
        compiled.keep_compiled()
        return ends.pop() if ends else None

    yield start
    monkeypatch.delenv(WHERE, raising=False)


def kept(root, name):
    (path,) = root.glob(f"jaxlib-*/{name}")
    return path


def test_what_a_run_has_compiled_is_there_for_the_next(tmp_path, started):
    content = compilation_cache.compress_executable(b"a program")
    end = started()
    pathlib.Path(os.environ[WHERE], "jit_one-cache").write_bytes(content)
    end()
    assert kept(tmp_path / "nlsr_jax", "jit_one-cache").read_bytes() == content
    end = started()
    assert pathlib.Path(os.environ[WHERE], "jit_one-cache").read_bytes() == content
    end()
    assert kept(tmp_path / "nlsr_jax", "jit_one-cache").read_bytes() == content
    assert not list((tmp_path / "nlsr_jax").glob("run-*"))


def test_half_a_program_is_not_kept(tmp_path, started):
    content = compilation_cache.compress_executable(bytes(range(256)) * 100)
    end = started()
    for name, part in (("jit_half-cache", content[: len(content) // 2]), ("jit_none-cache", b"")):
        pathlib.Path(os.environ[WHERE], name).write_bytes(part)
    end()
    assert programs(tmp_path / "nlsr_jax") == set()


def test_what_a_killed_run_left_goes_and_what_a_live_one_holds_stays(tmp_path, started):
    end = started()
    live, root = pathlib.Path(os.environ[WHERE]), tmp_path / "nlsr_jax"
    dead = root / "run-dead"
    dead.mkdir()
    (dead / "jit_half-cache").write_bytes(b"half")
    compiled.tidy(root)
    assert not dead.exists()
    assert live.exists()
    end()


def test_what_is_not_a_compiled_program_stays(tmp_path):
    for folder, name in (("run-thesis", "thesis.txt"), ("jaxlib-notes", "notes.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "jit_it-cache").write_bytes(b"program")
        (tmp_path / folder / name).write_text("mine")
        os.utime(tmp_path / folder / name, (0, 0))
    (tmp_path / "run-link").symlink_to(tmp_path / "run-thesis")
    compiled.tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run-thesis", "jaxlib-notes", "run-link"}
    assert (tmp_path / "run-thesis" / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "jaxlib-notes" / "notes.txt").read_text() == "mine"


def test_what_nobody_uses_goes_after_a_month_whatever_the_version(tmp_path):
    for name, days in (("old", 31), ("new", 29)):
        folder = tmp_path / f"jaxlib-{name}-0123"
        folder.mkdir()
        (folder / "jit_it-cache").write_bytes(b"program")
        os.utime(folder / "jit_it-cache", (time.time() - days * 24 * 3600,) * 2)
    (tmp_path / "mine").mkdir()
    compiled.tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"jaxlib-new-0123", "mine"}
    assert programs(tmp_path) == {"jit_it-cache"}


@pytest.mark.parametrize(("place", "mode"), [("nlsr_jax", 0o777), (".", 0o777)])
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, started, place, mode):
    (tmp_path / "nlsr_jax").mkdir()
    (tmp_path / place).chmod(mode)
    assert started() is None
    assert WHERE not in os.environ
    (tmp_path / place).chmod(0o755)
    started()()


def test_a_home_that_cannot_be_written_to_is_no_error(tmp_path, started):
    (tmp_path / "nlsr_jax").write_text("a file")
    assert started() is None
    assert WHERE not in os.environ


def test_processors_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_CPU", tmp_path / "cpuinfo")
    found = set()
    for flag in ("avx2", "avx512f"):
        (tmp_path / "cpuinfo").write_text(f"processor: 0\ncpu MHz: 2000\nflags: sse {flag}\n")
        found.add(compiled.processor())
    assert len(found) == 2
    (tmp_path / "cpuinfo").write_text("processor: 1\ncpu MHz: 3000\nflags: sse avx512f\n")
    assert compiled.processor() in found
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert compiled.processor() not in found


def test_input_files_are_digested(tmp_path):
    (tmp_path / "one").write_bytes(b"a" * 3_000_000)
    digests = Digests()
    digests.add("masks", "given", [tmp_path / "one"])
    expected = hashlib.sha256(b"a" * 3_000_000).hexdigest()
    assert digests.result() == {"masks": {"path": "given", "files": {"one": expected}}}
    digests.close()


def test_a_file_that_cannot_be_digested_is_named(tmp_path):
    digests = Digests()
    digests.add("masks", "given", [tmp_path / "absent"])
    with pytest.raises(InputError, match="given: absent cannot be read"):
        digests.result()
    digests.close()
