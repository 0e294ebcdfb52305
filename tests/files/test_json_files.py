"""Strict JSON: every way in which a file can be bad is told apart, in time that grows with its size alone."""

import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import MAX_DEPTH, read_json_object
from tests.adapter_files import LFS


def refusal(path, **arguments):
    with pytest.raises(InputError) as caught:
        read_json_object(path, "adapter config", **arguments)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected the adapter config"),
        (b" \n\t", "is empty; expected the adapter config"),
        (LFS, "run 'git lfs pull'"),
        (b'{\n "r": 8,\n "x": oops}', "line 3, column 7"),
        (b'{"r": 8', "not JSON (line 1, column 8"),
        (b'{"r": 8} {}', "not JSON (line 1, column 10"),
        (b"{'r': 8}", "not JSON (line 1, column 2"),
        (b'{"r": 8, // comment\n}', "not JSON (line 1"),
        ('{"r": 8}'.encode("utf-16"), "not UTF-8"),
        (b'{"r": "\xe9"}', "not UTF-8 text (byte 7)"),
        (b"null", "holds NoneType; expected an object"),
        (b"[{}]", "holds list; expected an object"),
        (b'"text"', "holds str; expected an object"),
        (b'{"r": 8, "a": {"b": 1, "b": 1}}', "the key 'b' twice"),
        (b'{"' + b"k" * 200 + b'": 1, "' + b"k" * 200 + b'": 1}', "the key 'kkk"),
        (b'{"r": NaN}', "holds NaN"),
        (b'{"r": -Infinity}', "holds -Infinity"),
        (b'{"r": 1e999999, "b": Infinity}', "holds Infinity"),
        (b'{"a": ' + b"[" * MAX_DEPTH, f"deeper than {MAX_DEPTH}"),
        (b'{"a": ' * 100_000, f"deeper than {MAX_DEPTH}"),
        (b'{"a": ' + b"7" * 10_000 + b"}", "not usable JSON"),
    ],
)
def test_bad_content(tmp_path, content, message):
    path = tmp_path / "adapter_config.json"
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_byte_order_mark_and_brackets_in_text_are_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "[" * 500}).encode())
    assert read_json_object(path, "x") == {"a": "[" * 500}


def test_what_is_no_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.json")
    assert "is a folder" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop")


def test_large_files_are_refused_unread(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(32 * 2**20 + 1)
    assert "expected at most 33554432" in refusal(path)
    path.write_text('{"a": 1}')
    assert "8 bytes; expected at most 7" in refusal(path, max_bytes=7)
    assert read_json_object(path, "x", max_bytes=8) == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"a": "[" * 1_000_000}),
        json.dumps({"a": '\\"[' * 300_000}),
        '{"a": "' + "[" * 1_000_000,
        json.dumps({str(i): 0 for i in range(200_000)})[:-1] + ', "199999": 1}',
    ],
    ids=["brackets", "escapes", "unterminated", "keys"],
)
def test_time_grows_with_the_size_alone(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    start = time.process_time()
    try:
        assert read_json_object(path, "x") == json.loads(content)
    except InputError:
        assert content.endswith("[") or content.endswith("1}")
    # A megabyte takes about 0.1 s; a check that is quadratic in it takes hours.
    assert time.process_time() - start < 10


def test_byte_order_mark_and_depth_at_the_limit(tmp_path):
    path = tmp_path / "x.json"
    value = {"a": "é[{"}
    for _ in range(MAX_DEPTH - 2):
        value = {"a": value}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"top": value}, ensure_ascii=False).encode())
    assert read_json_object(path, "x") == {"top": value}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=5), st.booleans())
def test_every_object_is_read_as_it_was_written(tmp_path_factory, value, ascii_only):
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_bytes(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    try:
        assert read_json_object(path, "x") == value
    except InputError as error:
        # Half a surrogate pair is no text; only its escape can be written.
        assert "not UTF-8" in str(error)
        assert not ascii_only


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60) | st.text('[]{}",:\\01aeNn \n', max_size=40).map(str.encode))
def test_any_bytes_give_an_object_or_one_clear_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_json_object(path, "x"), dict)
    except InputError as error:
        assert "\n" not in str(error)
