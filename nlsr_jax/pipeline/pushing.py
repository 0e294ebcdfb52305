"""Push the output of a realignment to the Hugging Face hub."""

import glob
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.ownership import ATTESTATIONS
from nlsr_jax.files.paths import expand
from nlsr_jax.pipeline.verification import compare_outputs, read_output

MESSAGE = "Upload a realigned model by nlsr_jax"
_ADVICE = "log in with hf auth login and a token that may write"


class Pushed(NamedTuple):
    """What was pushed.

    Attributes:
      url: of the repository.
      files: how many files.
      notes: what a user should know, one line each.
    """

    url: str
    files: int
    notes: tuple[str, ...] = ()


def push(output: str | os.PathLike, repo: str, *, private: bool = False, client: Any = None) -> Pushed:
    """Push an output to a model repository, which is created if it does not exist.

    The record, its files and the attestation are uploaded. Other files in the folder are not.

    Args:
      output: folder that ``realign_files`` or ``identify_files`` has written.
      repo: ``ORG/NAME``.
      private: make a private repository; one that is public is refused.
      client: a ``huggingface_hub.HfApi``; by default one with the user's token.

    Raises:
      InputError: if the folder is not an output or has changed, or the repository cannot be written to.
    """
    folder = expand(output)
    file, record, sealed = read_output(folder)
    names, notes = _to_push(folder, file, record, sealed)
    client = check_destination(repo, private=private, client=client)
    try:
        url = client.create_repo(repo, private=private, exist_ok=True)
        client.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            commit_message=MESSAGE,
            allow_patterns=[glob.escape(name) for name in names],
        )
    except Exception as error:
        raise InputError(f"{repo}: {folder} could not be uploaded ({_reason(error)})") from error
    return Pushed(str(url), len(names), tuple(notes))


def check_destination(repo: str, *, private: bool, client: Any = None) -> Any:
    """Check that a repository can be pushed to, as far as this shows without writing.

    Args:
      repo: ``ORG/NAME``.
      private: whether it must not be public.
      client: see ``push``.

    Returns:
      The client.

    Raises:
      InputError: if the name is not one of a repository, nobody is logged in, or the repository is public and a
        private one is requested.
    """
    import huggingface_hub
    from huggingface_hub import errors, utils

    try:
        utils.validate_repo_id(repo)
    except errors.HFValidationError as error:
        raise InputError(f"{repo!r} is not a repository name, ORG/NAME ({_reason(error)})") from error
    client = huggingface_hub.HfApi() if client is None else client
    try:
        client.whoami()
        found = client.repo_info(repo)
    except errors.RepositoryNotFoundError:
        return client
    except Exception as error:
        raise InputError(f"{repo}: cannot be pushed to ({_reason(error)}); {_ADVICE}") from error
    if private and not found.private:
        raise InputError(
            f"{repo}: exists and is public; leave {argument('private')} out, or name another repository"
        )
    return client


def _to_push(
    folder: pathlib.Path, file: pathlib.Path, record: Mapping[str, Any], sealed: bool
) -> tuple[list[str], list[str]]:
    """Return the names of the files that are pushed, and notes on what is in them and what is not pushed."""
    found = compare_outputs(folder, file.name, record).changed
    extra = [line for line in found if line.endswith("is not in the record")]
    changed = [line for line in found if line not in extra] + ([] if sealed else [f"{file.name}: has changed"])
    if changed:
        raise InputError(
            f"{folder}: {changed[0]}, so the record does not match it; restore it, or upload with hf upload"
        )
    notes = [f"not pushed: {line}" for line in extra]
    if _has_paths(record):
        notes.append(f"{file.name} has the paths of the inputs as they were given, such as those of your machine")
    there = [name for name in sorted(ATTESTATIONS) if (folder / name).is_file()]
    return [file.name, *sorted(record["outputs"]), *there], notes


def _has_paths(record: Mapping[str, Any]) -> bool:
    """Return whether a record names a place by an absolute path."""
    places = [one.get("path") for one in record["inputs"].values() if isinstance(one, Mapping)]
    return any(isinstance(place, str) and pathlib.PurePath(place).is_absolute() for place in places)


def _reason(error: Exception) -> str:
    """Return the reason of an error in a few words."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return "nobody is logged in"
    if status == 403:
        return "the token may not write to it"
    return " ".join(str(error).split())[:200] or type(error).__name__
