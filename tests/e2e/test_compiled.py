"""What commands keep compiled from one run to the next, and digest before they have imported what reads it."""

import concurrent.futures
import fcntl
import hashlib
import json
import os
import time

import pytest

from experiments import compiled
from experiments.digesting import digesting
from nlsr_jax.errors import InputError
from nlsr_jax.formats.record import Digests
from tests.adapter_files import flags, save_family
from tests.e2e.command import contents, run

OURS = {"JAX_COMPILATION_CACHE_DIR": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_family(folder)
    return folder


def realign(files, output, home, **env):
    """Realign with the caches of a user whose home is ``home``."""
    arguments = [*flags(files, "aligned", "finetuned"), "--method", "magnitude", "--output", output]
    given = {name: value for name, value in (OURS | env).items() if value}
    cleared = [name for name, value in (OURS | env).items() if not value]
    before = {name: os.environ.pop(name, None) for name in cleared}
    try:
        return run("realign", *arguments, env={"XDG_CACHE_HOME": str(home), **given})
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})


def programs(home):
    return {path.name for path in home.rglob("*-cache")}


def test_the_second_run_compiles_nothing_and_gives_the_same_bytes(files, tmp_path):
    home = tmp_path / "home"
    realign(files, tmp_path / "first", home)
    kept = programs(home)
    assert any("_compare" in name for name in kept)
    assert not list(home.rglob("running-*"))
    written = {path: path.stat().st_mtime_ns for path in home.rglob("*-cache")}
    realign(files, tmp_path / "second", home)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*-cache")} == written
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    for name in ("adapter_model.safetensors", "masks.safetensors", "report.html"):
        assert first[name] == second[name]


def test_another_folder_and_none_at_all(files, tmp_path):
    realign(files, tmp_path / "out", tmp_path / "home", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert programs(tmp_path / "mine")
    realign(files, tmp_path / "other", tmp_path / "home", JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "home" / "nlsr_jax").exists()


def test_a_home_that_cannot_be_written_to_is_no_error(files, tmp_path):
    (tmp_path / "home").write_text("a file")
    done = realign(files, tmp_path / "out", tmp_path / "home")
    assert "compil" not in done.stderr


def test_a_folder_that_others_can_write_to_is_not_used(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = compiled.default_folder()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    realign(files, tmp_path / "out", tmp_path / "home")
    assert not list(folder.iterdir())


def entry(folder, name, days):
    """A file that was last used so many days ago."""
    path = folder / name
    path.write_bytes(b"program")
    os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    return path


def test_what_a_killed_run_may_have_left_goes(tmp_path):
    before, after = entry(tmp_path, "jit_before-cache", 3), entry(tmp_path, "jit_after-cache", 1)
    mark = entry(tmp_path, "running-killed", 2)
    compiled.tidy(tmp_path)
    assert before.exists()
    assert not after.exists()
    assert not mark.exists()


def test_a_run_under_way_keeps_its_programs(tmp_path):
    after = entry(tmp_path, "jit_after-cache", 1)
    mark = entry(tmp_path, "running-now", 2)
    with mark.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        compiled.tidy(tmp_path)
    assert after.exists()
    assert mark.exists()


def test_what_nobody_uses_goes_after_a_month(tmp_path):
    old, new = entry(tmp_path, "jit_old-cache", 31), entry(tmp_path, "jit_new-cache", 29)
    compiled.tidy(tmp_path)
    assert not old.exists()
    assert new.exists()


def test_processors_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = set()
    for flag in ("avx2", "avx512f"):
        (tmp_path / "cpuinfo").write_text(f"processor: 0\ncpu MHz: 2000\nflags: sse {flag}\n")
        monkeypatch.setattr(compiled, "_CPU", tmp_path / "cpuinfo")
        folders.add(compiled.default_folder())
    assert len(folders) == 2
    (tmp_path / "cpuinfo").write_text("processor: 1\ncpu MHz: 3000\nflags: sse avx512f\n")
    assert compiled.default_folder() in folders


def test_digests_are_begun_and_used(tmp_path):
    (tmp_path / "weights").write_bytes(b"a" * 3_000_000)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / name for name in ("weights", "folder", "pipe", "missing")]
    with digesting(paths) as begun:
        assert list(begun) == [(tmp_path / "weights").resolve()]
        digests = Digests(begun)
        digests.add("masks", "given", [tmp_path / "folder" / ".." / "weights"])
        found = digests.result()
        digests.close()
    expected = hashlib.sha256(b"a" * 3_000_000).hexdigest()
    assert found == {"masks": {"path": "given", "files": {"weights": expected}}}


def test_a_file_that_another_thread_digests_is_not_digested_again(tmp_path):
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_result("begun")
    digests = Digests({tmp_path.resolve() / "absent": future})
    digests.add("masks", "given", [tmp_path / "absent"])
    assert digests.result()["masks"]["files"] == {"absent": "begun"}
    digests.close()


def test_a_file_that_cannot_be_digested_is_named(tmp_path):
    digests = Digests()
    digests.add("masks", "given", [tmp_path / "absent"])
    with pytest.raises(InputError, match="given: absent cannot be read"):
        digests.result()
    digests.close()


def test_digesting_ends_with_its_block(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    started = time.monotonic()
    with digesting([tmp_path / "huge", tmp_path / "huge" / ".." / "huge"]) as begun:
        pass
    assert time.monotonic() - started < 30
    assert all(isinstance(future.exception(), concurrent.futures.CancelledError) for future in begun.values())


def test_the_command_records_the_digests_of_its_inputs(files, tmp_path):
    run("realign", *flags(files, "aligned", "finetuned"), "--method", "magnitude", "--output", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "realignment.json").read_text())
    for name in ("aligned", "finetuned"):
        content = (files / name / "adapter_model.safetensors").read_bytes()
        assert record["inputs"][name]["files"]["adapter_model.safetensors"] == hashlib.sha256(content).hexdigest()
