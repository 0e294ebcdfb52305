"""The hub's cache as its library lays it out: blobs, snapshots of links to them, and refs."""

import hashlib
import pathlib


def commit_of(name: str) -> str:
    """The commit of the only snapshot of a name."""
    return hashlib.sha1(name.encode()).hexdigest()


def put_into_cache(cache: pathlib.Path, name: str, folder: pathlib.Path, ref: str = "main") -> pathlib.Path:
    """Lay the files of a folder out as a snapshot of ``ORG/NAME``; returns the snapshot."""
    home = cache / ("models--" + name.replace("/", "--"))
    snapshot = home / "snapshots" / commit_of(name)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(pathlib.Path(*[".."] * (len(link.relative_to(home).parts) - 1)) / "blobs" / blob.name)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / ref).write_text(commit_of(name))
    return snapshot
