"""The file of jobs: what is a job, and what is refused in one line."""

import json

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.fleet.jobs import flag_text, read_jobs

GOOD = {"finetuned": "adapters/a", "output": "a"}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_jobs_are_rows_in_their_order(tmp_path):
    rows = [{**GOOD, "output": f"job-{i}", "seed": i, "layers": [1, 2], "weak": None} for i in range(3)]
    jobs = read_jobs(write(tmp_path / "jobs.jsonl", rows))
    assert [job.output for job in jobs] == ["job-0", "job-1", "job-2"]
    assert [dict(job.settings) for job in jobs] == [{"seed": i, "layers": [1, 2]} for i in range(3)]
    (tmp_path / "jobs.json").write_text(json.dumps(rows))
    assert [job[:3] for job in read_jobs(tmp_path / "jobs.json")] == [job[:3] for job in jobs]
    (tmp_path / "jobs.csv").write_text("finetuned,output,seed\nadapters/a,x,3\nadapters/b,y,\n")
    assert [dict(job.settings) for job in read_jobs(tmp_path / "jobs.csv")] == [{"seed": "3"}, {}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"output": "b"}], "line 2: finetuned is missing; every job needs finetuned and output"),
        ([{**GOOD, "output": 3}], "line 1: output is 3; every job needs finetuned and output, both text"),
        ([{**GOOD, "output": "../b"}], "line 1: output is '../b'; expected the name of a folder"),
        ([{**GOOD, "output": ".fleet"}], "expected the name of a folder"),
        ([{**GOOD, "output": "Fleet.json"}], "neither fleet.json nor fleet.html"),
        ([GOOD, {**GOOD, "output": "A"}], "line 2: output 'A' is that of .*line 1 too; name another"),
        ([[1]], "row 1 is int; expected an object with finetuned and output"),
        (["{"], "line 1 is not JSON"),
        ([], "the file is empty"),
        (["", ""], "no rows; expected rows of finetuned and output"),
    ],
)
def test_what_is_no_job_is_one_line(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_jobs(write(tmp_path / "jobs.jsonl", rows))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file; expected rows of finetuned and output"):
        read_jobs(tmp_path / "jobs.jsonl")


def test_values_become_the_texts_of_flags():
    values = {"a": 0.25, "b": 3, "c": "x y", "d": False, "e": ["8-11", 20]}
    assert [flag_text(name, value, "") for name, value in values.items()] == [
        "0.25",
        "3",
        "x y",
        "false",
        "8-11,20",
    ]
    with pytest.raises(InputError, match=r"row 1: layers is .*; expected text, a number"):
        flag_text("layers", {"a": 1}, "row 1")
