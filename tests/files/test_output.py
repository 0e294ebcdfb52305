"""Outputs appear whole or not at all."""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import threading

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.files import output
from nlsr_jax.files.large_file import LargeFile, copy_digested
from nlsr_jax.files.output import (
    check_free,
    check_free_file,
    whole_directory,
    whole_file,
)
from nlsr_jax.files.ownership import nothing_foreign


def test_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "out"
    with whole_directory(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_nothing(tmp_path):

    def interrupted():
        with whole_directory(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_whole_folders_and_keeps_the_old_one_on_error(tmp_path):
    target = tmp_path / "out"
    with whole_directory(target) as folder:
        (folder / "old").write_text("x")
    with pytest.raises(InputError, match="output exists"), whole_directory(target):
        pass
    with pytest.raises(KeyError), whole_directory(target, overwrite=True, foreign=nothing_foreign):
        raise KeyError
    assert [file.name for file in target.iterdir()] == ["old"]
    with whole_directory(target, overwrite=True, foreign=nothing_foreign) as folder:
        (folder / "new").write_text("y")
    assert [file.name for file in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="no space left on the device"), whole_directory(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a folder"):
        check_free(tmp_path / "out", overwrite=True)


def test_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "out.json"
    with whole_file(target) as file:
        file.write_text("x")
        assert not target.exists()
    assert target.read_text() == "x"
    assert list(target.parent.iterdir()) == [target]


def test_files_are_replaced_whole_or_kept(tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(InputError, match="output exists"), whole_file(target):
        pass

    def interrupted():
        with whole_file(target, overwrite=True, foreign=nothing_foreign) as file:
            file.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert target.read_text() == "old"
    with whole_file(target, overwrite=True, foreign=nothing_foreign) as file:
        file.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_outputs_have_the_permissions_of_files_that_programs_make(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_directory(tmp_path / "folder") as folder:
            (folder / "file").write_text("x")
        with whole_file(tmp_path / "alone") as file:
            file.write_text("x")
    finally:
        os.umask(before)
    made = [tmp_path / name for name in ("folder", "folder/file", "alone")]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o750, 0o640, 0o640]


def test_threads_that_ask_for_the_umask_leave_it_as_it_is(monkeypatch, tmp_path):
    """Where the system has no status file: every thread sets the umask, and then waits for the others."""
    umask, begun = os.umask, threading.Barrier(3)

    def set_slowly(mask):
        before = umask(mask)
        if mask == 0:
            with contextlib.suppress(threading.BrokenBarrierError):
                begun.wait(0.05)
        return before

    monkeypatch.setattr(output, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(os, "umask", set_slowly)
    before = umask(0o027)
    try:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lambda _: output._umask(), range(3))) == [0o027] * 3
        assert umask(0o027) == 0o027
    finally:
        umask(before)


def test_an_output_that_appears_behind_the_last_check_is_kept(tmp_path, monkeypatch):
    def put_later(new, path, **options):
        path.mkdir()
        (path / "other").touch()
        return put(new, path, **options)

    put = output.put_folder
    monkeypatch.setattr(output, "put_folder", put_later)
    with (
        pytest.raises(InputError, match="output exists; name another"),
        whole_directory(tmp_path / "out") as folder,
    ):
        (folder / "file").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]


def test_no_file_without_a_folder_for_it(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is not a folder that can be written to"):
        check_free_file(tmp_path / "file" / "out.json")
    with pytest.raises(InputError, match="exists and is not a file"):
        check_free_file(tmp_path, overwrite=True)


@pytest.mark.parametrize("piece", [2**25, 7])
def test_a_large_file_is_digested_as_it_is_written(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(LargeFile, "_PIECE", piece)
    content = bytes(range(256)) * 5
    file = LargeFile(tmp_path / "x", len(content))
    for start in range(0, len(content), 100):
        file.write(content[start : start + 100])
    file.close()
    (tmp_path / "x").rename(tmp_path / "moved")  # the digest needs no second reading
    assert (tmp_path / "moved").read_bytes() == content
    assert file.sha256() == hashlib.sha256(content).hexdigest()


def test_a_large_file_written_out_of_order_is_digested_from_the_disk(tmp_path):
    file = LargeFile(tmp_path / "x", 6)
    file.write(b"def", 3)
    file.write(b"abc", 0)
    file.close()
    assert (tmp_path / "x").read_bytes() == b"abcdef"
    assert file.sha256() == hashlib.sha256(b"abcdef").hexdigest()


def test_a_large_file_that_was_left_short_has_the_digest_of_what_is_there(tmp_path):
    file = LargeFile(tmp_path / "x", 4)
    file.write(b"ab")
    file.close()
    assert file.sha256() == hashlib.sha256(b"ab\0\0").hexdigest()


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_does_not_take_a_piece_is_told_of(tmp_path, monkeypatch, failing):
    calls = []

    def sync(handle):
        calls.append(os.fstat(handle).st_size)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(LargeFile, "_PIECE", 100)
    monkeypatch.setattr(output.os, "fsync", sync)
    file = LargeFile(tmp_path / "x", 250)

    def write_all():
        try:
            for _ in range(25):
                file.write(bytes(10))
        finally:
            file.close()

    with pytest.raises(OSError, match="no space"):
        write_all()
    assert file._file.closed
    assert len(calls) in (failing, failing + 1)


def test_a_copy_is_digested(tmp_path):
    content = bytes(range(251)) * 20_000  # more than one buffer
    (tmp_path / "x").write_bytes(content)
    assert copy_digested(tmp_path / "x", tmp_path / "y") == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "y").read_bytes() == content
