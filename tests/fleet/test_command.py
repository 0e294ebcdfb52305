"""``nlsr fleet`` as a command: its flags and rows, its processes, deaths, and how it ends."""

import json
import random

import pytest

from tests.e2e.command import attempts, python
from tests.reliability import fleets
from tests.reliability.jobs import COMPILED, finish


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return fleets.make_jobs(tmp_path_factory.mktemp("inputs"), 3)


def fleet(*arguments, check=True):
    return python("-m", "nlsr_jax", "fleet", *arguments, env=COMPILED, check=check)


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """What a fleet has made that nothing disturbed, its seconds, and its folder."""
    folder = tmp_path_factory.mktemp("whole") / "fleet"
    return *fleets.measure(arguments, folder), folder


def without_reports(made):
    """What was made but for the reports, whose figures other processes than these draw."""
    return {
        name: {file: digest for file, digest in files.items() if file != "report.html"}
        for name, files in made.items()
        if name.startswith("out-")
    }


def test_a_fleet_makes_what_single_commands_make(arguments, whole, tmp_path):
    made, _, folder = whole
    row = json.loads(arguments[0].read_text().splitlines()[1])
    given = ["--finetuned", row["finetuned"], "--seed", row["seed"], "--output", tmp_path / "out"]
    python("-m", "nlsr_jax", "realign", *arguments[1:], *given, env=COMPILED)
    assert made["out-1"] == fleets.fingerprint(tmp_path / "out")
    records = [
        json.loads((place / "realignment.json").read_text()) for place in (folder / "out-1", tmp_path / "out")
    ]
    ours, single = ({**one, "seconds": {}, "outputs": {}, "seal": ""} for one in records)
    assert ours == single


@pytest.mark.long
def test_two_processes_make_the_same(arguments, whole, tmp_path):
    printed = fleet(*arguments, "--output", tmp_path / "fleet", "--workers", 2)
    assert "3 adapters: 3 repaired, 0 failed" in printed.stdout
    assert sorted(line.partition(":")[0] for line in printed.stderr.splitlines()) == ["out-0", "out-1", "out-2"]
    assert without_reports(fleets.made(tmp_path / "fleet")) == without_reports(whole[0])


def test_shares_of_many_machines_make_the_same(arguments, whole, tmp_path):
    for share in ("1/2", "2/2"):
        fleet(*arguments, "--output", tmp_path / "fleet", "--share", share)
        assert not (tmp_path / "fleet" / "fleet.json").exists()
    printed = fleet(*arguments, "--output", tmp_path / "fleet")
    assert printed.stderr.count("done before") == 3
    assert fleets.made(tmp_path / "fleet") == whole[0]


@pytest.mark.long
def test_kills_lose_nothing(arguments, whole, tmp_path):
    fleets.kill_often(arguments, 20, whole[:2], tmp_path, random.Random(1))


def test_a_failure_is_an_error_at_the_end_and_in_the_table(arguments, tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    rows = [{"finetuned": str(tmp_path / "absent"), "output": "absent"}]
    jobs.write_text(arguments[0].read_text().splitlines()[0] + "\n" + json.dumps(rows[0]) + "\n")
    found = fleet(jobs, *arguments[1:], "--output", tmp_path / "fleet", check=False)
    assert found.returncode == 1
    assert "2 adapters: 1 repaired, 1 failed" in found.stdout
    lines = found.stderr.splitlines()
    assert any(line.startswith("absent: failed: ") for line in lines[:-1])
    assert lines[-1] == f"error: 1 of 2 jobs failed; see {tmp_path}/fleet/fleet.json"
    table = json.loads((tmp_path / "fleet" / "fleet.json").read_text())
    assert [row["outcome"] for row in table["jobs"]] == ["repaired", "failed"]


def test_a_job_that_fixes_its_share_needs_no_harmless_prompts(arguments, tmp_path):
    row = json.loads(arguments[0].read_text().splitlines()[0]) | {"method": "magnitude"}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "harmless.jsonl").write_text(json.dumps({"prompt": "how do i brew"}) + "\n")
    assert arguments[-2:] == ("--method", "magnitude")
    prompts = [part for name in ("harmless", "keep") for part in (f"--{name}", tmp_path / "harmless.jsonl")]
    given = (*arguments[1:-2], *prompts, "--output", tmp_path / "fleet")
    assert "1 adapter: 1 repaired, 0 failed" in fleet(tmp_path / "jobs.jsonl", *given).stdout


def test_what_cannot_be_asked_for_is_one_line(arguments, tmp_path):
    row = json.loads(arguments[0].read_text().splitlines()[0])
    output, good = ("--output", tmp_path / "fleet"), tmp_path / "good.jsonl"
    good.write_text(json.dumps(row) + "\n")
    wrong = {"a": {"aim_": 3}, "b": {"mesh": "1,1,1"}, "c": {"seed": "one"}}
    for name, more in wrong.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**row, **more}) + "\n")
    cases = (
        ((tmp_path / "a.jsonl", *output), "line 1: 'aim_' is not a flag of nlsr realign that a job can set"),
        ((tmp_path / "b.jsonl", *output), "line 1: 'mesh' is not a flag of nlsr realign that a job can set"),
        ((tmp_path / "c.jsonl", *output), "line 1: seed=one: invalid literal for int()"),
        ((good, *output, "--finetuned", "x"), "--finetuned is not a flag of a fleet; it is in the rows"),
        ((good, *output, "--share", "3/2"), "--share=3/2: --share is '3/2'; expected a part such as 2/8"),
        ((good,), "--output is missing; name the folder to write"),
        ((good, *output, "--mesh", "1,1,1", "--workers", "2"), "--mesh lays the base over all devices"),
        (output, "name the file of jobs: nlsr fleet JOBS.jsonl"),
    )
    lines = attempts("fleet", [given for given, _ in cases])
    for line, (_, message) in zip(lines, cases, strict=True):
        assert message in line
    assert not (tmp_path / "fleet").exists()


def test_a_fleet_on_ray(arguments, whole, tmp_path):
    pytest.importorskip("ray")
    fleet(*arguments, "--output", tmp_path / "fleet", "--workers", 2, "--ray", "local")
    assert without_reports(fleets.made(tmp_path / "fleet")) == without_reports(whole[0])


def test_workers_end_with_their_fleet(arguments, tmp_path):
    process = fleets.begin(arguments, tmp_path / "fleet", "--workers", 2)
    process.send_signal(15)
    _, text = process.communicate()
    assert process.returncode in (128 + 15, -15)
    assert text.count("error: interrupted") <= 1
    finish(fleets.begin(arguments, tmp_path / "fleet"))
