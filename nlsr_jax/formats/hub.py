"""Models and adapters of the Hugging Face hub: ``ORG/NAME`` or ``ORG/NAME@REVISION``.

A folder that exists is always a folder. What the cache holds is not fetched again.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import exists, is_folder

_ID = re.compile(r"(?P<id>[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")
_IGNORED = ["checkpoint*/*", "global_step*/*"]
"""Folders of training states, whose files have the names of others."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SNAPSHOT = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]?$")


class HubName(NamedTuple):
    """A name on the hub: ``ORG/NAME`` and a branch, a tag or a commit; None for the main branch."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the name as a user writes it."""
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


def parse_hub_name(text: str | os.PathLike) -> HubName | None:
    """Return the hub name that a text is; None for a folder or file that exists, and for what cannot be a name.

    Args:
      text: what a user gives.

    >>> parse_hub_name("someone/some-adapter@v1.0")
    HubName(id='someone/some-adapter', revision='v1.0')
    >>> parse_hub_name("../some-adapter")
    """
    given = os.fspath(text)
    found = _ID.fullmatch(given)
    if found is None or ".." in given or exists(given):
        return None
    return HubName(found["id"], found["revision"])


def fetch(name: HubName, patterns: Sequence[str]) -> pathlib.Path:
    """Return the local folder of a hub name, from the cache or downloaded into it.

    Args:
      name: of the model or adapter.
      patterns: of the files to fetch.

    Raises:
      InputError: the hub cannot give it, with the reason.
    """
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            name.id, revision=name.revision, allow_patterns=list(patterns), ignore_patterns=_IGNORED
        )
    except Exception as error:
        raise InputError(f"{name}: no such folder, and the hub cannot give it ({_reason(name, error)})") from error
    return pathlib.Path(folder)


def is_cached(name: HubName, file: str) -> bool:
    """Say whether the hub's cache holds a file of a name."""
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(name.id, file, revision=name.revision)
    except (ValueError, OSError):  # no id of the hub
        return False
    return isinstance(found, str)


def holds(name: HubName, file: str) -> bool:
    """Say whether a name on the hub has a file: in the cache, or there if it can be reached."""
    if is_cached(name, file):
        return True
    import huggingface_hub

    try:
        return bool(huggingface_hub.file_exists(name.id, file, revision=name.revision))
    except Exception:  # whoever fetches it says what is wrong
        return False


def pinned(name: HubName, folder: str | os.PathLike) -> HubName:
    """Return a hub name with the commit of its snapshot, so that it always means the same files.

    Args:
      name: as given.
      folder: where ``fetch`` has found it.
    """
    commit = pathlib.Path(folder).name
    return name._replace(revision=commit) if _COMMIT.fullmatch(commit) else name


def is_pinned(name: HubName) -> bool:
    """Say whether a hub name has a commit, so that it always means the same files."""
    return name.revision is not None and _COMMIT.fullmatch(name.revision) is not None


def snapshot_name(path: str) -> HubName | None:
    """Return the hub name and commit of a snapshot in the hub's cache, None for any other path.

    >>> str(snapshot_name("/far/models--someone--x/snapshots/" + "0a" * 20))[:14]
    'someone/x@0a0a'
    """
    found = _SNAPSHOT.search(path)
    return HubName(f"{found[1]}/{found[2]}", found[3]) if found else None


def pinned_data_set(name: HubName) -> HubName:
    """Return the name of a data set with the commit that it has on the hub now; unchanged if the hub does not say.

    Args:
      name: of a data set.
    """
    import huggingface_hub

    try:
        commit = huggingface_hub.HfApi().dataset_info(name.id, revision=name.revision).sha
    except Exception:  # whoever reads it says what is wrong
        return name
    return name if commit is None else name._replace(revision=commit)


def cached_folder(text: str, file: str) -> pathlib.Path | None:
    """Return the folder that a text names, without the network: a folder, or a snapshot in the hub's cache.

    Args:
      text: a path or a hub name.
      file: what the snapshot holds.

    Returns:
      None where there is neither.
    """
    if is_folder(text):
        return pathlib.Path(text)
    name = parse_hub_name(text)
    if name is None or not is_cached(name, file):
        return None
    import huggingface_hub

    return pathlib.Path(str(huggingface_hub.try_to_load_from_cache(name.id, file, revision=name.revision))).parent


def _reason(name: HubName, error: Exception) -> str:
    """Say in a few words why the hub has not given something."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated: ask for access there, then log in by hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {name.revision}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is none of this name, or it is private: log in by hf auth login"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        revision = f" --revision {name.revision}" if name.revision else ""
        return f"it cannot be reached, and the cache does not hold it; fetch it by hf download {name.id}{revision}"
    return " ".join(str(error).split())[:200] or type(error).__name__
