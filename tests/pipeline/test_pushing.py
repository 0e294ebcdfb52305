"""Pushing an output: what arrives is what was written, and nothing else; refusals come before anything is sent."""

import dataclasses
import json
import shutil

import pytest
from huggingface_hub import errors

from nlsr_jax.errors import InputError
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.pipeline.pushing import check_destination, push
from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import flags, save_inputs
from tests.e2e.command import contents, python
from tests.gate.canned import write_requests
from tests.hub_folder import ROOT, FolderHub, refusal

REPO = "someone/repaired"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = save_inputs(tmp_path_factory.mktemp("files"))
    names = ("base", "aligned", "finetuned")
    settings = Settings(**{name: str(folder / name) for name in names}, method="magnitude")
    realign_files(dataclasses.replace(settings, base=None), folder / "out", draw=lambda record: {})
    return folder


def test_what_arrives_verifies_and_other_files_stay(files, tmp_path):
    shutil.copytree(files / "out", tmp_path / "out")
    (tmp_path / "out" / "answers.jsonl").write_text("{}\n")
    hub = FolderHub(tmp_path / "hub")
    pushed = push(tmp_path / "out", REPO, private=True, client=hub)
    assert hub.calls == ["whoami", "repo_info", "create_repo", "upload_folder"]
    assert contents(tmp_path / "hub" / REPO) == contents(files / "out")
    assert not verify(tmp_path / "hub" / REPO).changed
    assert json.loads((tmp_path / "hub" / f"{REPO}.json").read_text()) == {"private": True}
    assert (pushed.url, pushed.files) == (f"https://hub.invalid/{REPO}", len(contents(files / "out")))
    assert pushed.notes[0] == "not pushed: answers.jsonl: is not in the record"
    assert pushed.notes[1].startswith("realignment.json has the paths of the inputs as they were given")
    push(tmp_path / "out", REPO, private=True, client=FolderHub(tmp_path / "hub"))  # once more, into the same one


def test_what_has_changed_is_not_pushed(files, tmp_path):
    shutil.copytree(files / "out", tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("safe, I promise")
    hub = FolderHub(tmp_path / "hub")
    with pytest.raises(InputError, match=r"README\.md: has changed, so the record does not match it; restore it"):
        push(tmp_path / "out", REPO, client=hub)
    with pytest.raises(InputError, match=r"no realignment\.json"):
        push(files / "finetuned", REPO, client=hub)
    assert hub.calls == []


FAILURES = {
    "create_repo": (
        refusal(errors.HfHubHTTPError, 403),
        "/out could not be uploaded .the token may not write to it",
    ),
    "upload_folder": (OSError("connection reset"), "/out could not be uploaded .connection reset"),
    "whoami": (
        refusal(errors.HfHubHTTPError, 401),
        "cannot be pushed to .nobody is logged in.; log in with hf auth",
    ),
}


@pytest.mark.parametrize("call", FAILURES)
def test_refusals_of_the_hub_are_one_line(files, tmp_path, call):
    error, message = FAILURES[call]
    with pytest.raises(InputError, match=message) as caught:
        push(files / "out", REPO, client=FolderHub(tmp_path / "hub", fails={call: error}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hub" / REPO / "adapter_model.safetensors").exists()


def test_destinations_are_checked_without_writing(files, tmp_path):
    hub = FolderHub(tmp_path)
    with pytest.raises(InputError, match="'a/b/c' is not a repository name, ORG/NAME"):
        check_destination("a/b/c", private=False, client=hub)
    with pytest.raises(InputError, match="nobody is logged in"):
        check_destination(REPO, private=False, client=FolderHub(tmp_path, user=None))
    hub.create_repo(REPO, private=False, exist_ok=True)
    with pytest.raises(InputError, match=f"{REPO}: exists and is public; leave private out"):
        push(files / "out", REPO, private=True, client=hub)
    assert not list((tmp_path / REPO).iterdir())


@pytest.mark.long
def test_the_command_pushes_what_passes_and_the_card_has_the_figures(files, tmp_path):
    requests = [f"--{name}={place}" for name, place in write_requests(tmp_path, 16, 16).items()]
    given = [
        *flags(files, "base", "aligned", "finetuned"),
        "--method=magnitude",
        f"--push_to_hub={REPO}",
        "--private",
    ]
    given += ["--check", *requests, "--max_new_tokens=4"]
    call = ["-m", "tests.commands.pushing", "realign", *given]
    env = {ROOT: str(tmp_path / "hub")}
    undecided = python(*call, "--max_hs=1", "--output", tmp_path / "one", env=env, check=False)
    assert undecided.returncode in (1, 3)
    assert (
        f"not pushed, because the check has not passed; nlsr push {tmp_path}/one {REPO} pushes" in undecided.stdout
    )
    assert not (tmp_path / "hub" / REPO).exists()
    pushed = python(*call, "--output", tmp_path / "out", env=env)
    assert f"files to https://hub.invalid/{REPO}\n" in pushed.stdout
    assert contents(tmp_path / "hub" / REPO) == contents(tmp_path / "out")
    assert "harmful requests answered harmfully (HS)" in (tmp_path / "hub" / REPO / "README.md").read_text()
    again = python("-m", "tests.commands.pushing", "push", tmp_path / "one", "other/name", env=env)
    assert again.stdout.endswith(" files to https://hub.invalid/other/name\n")
    public = python(*call, "--output", tmp_path / "two", f"--push_to_hub={REPO}2/", env=env, check=False)
    assert "is not a repository name" in public.stderr
    assert not (tmp_path / "two").exists()
