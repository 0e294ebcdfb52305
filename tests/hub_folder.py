"""A hub that is a folder: what ``HfApi`` is asked, in order, and the files that its patterns upload."""

import json
import os
import pathlib
import shutil
import types

from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

ROOT = "TEST_HUB"
"""Environment variable with the folder, for a process of its own."""


def refusal(kind, status):
    """An error of the hub with a status."""
    response = types.SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"status {status}", response=response)


class FolderHub:
    """Stands in for ``huggingface_hub.HfApi``."""

    def __init__(self, root=None, user="someone", fails=()):
        self.root = pathlib.Path(root or os.environ[ROOT])
        self.calls, self._user, self._fails = [], user, dict(fails)

    def _asked(self, name, **options):
        self.calls.append(name)
        if name in self._fails:
            raise self._fails[name]
        return options

    def whoami(self):
        self._asked("whoami")
        if self._user is None:
            raise errors.LocalTokenNotFoundError("Token is required")
        return {"name": self._user}

    def repo_info(self, repo_id):
        self._asked("repo_info")
        if not (self.root / repo_id).is_dir():
            raise refusal(errors.RepositoryNotFoundError, 404)
        return types.SimpleNamespace(private=json.loads((self.root / f"{repo_id}.json").read_text())["private"])

    def create_repo(self, repo_id, *, private, exist_ok):
        self._asked("create_repo")
        if not (self.root / repo_id).is_dir():
            (self.root / repo_id).mkdir(parents=True)
            (self.root / f"{repo_id}.json").write_text(json.dumps({"private": private}))
        assert exist_ok
        return f"https://hub.invalid/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, allow_patterns):
        self._asked("upload_folder")
        assert commit_message
        folder = pathlib.Path(folder_path)
        there = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        for name in filter_repo_objects(there, allow_patterns=allow_patterns):
            target = self.root / repo_id / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target)
