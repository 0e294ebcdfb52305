"""The digests of everything in ``checkpoints``, in the form of ``sha256sum``.

  python -m tests.paper.digests

writes ``checkpoints/SHA256SUMS`` anew, once for each change of what is shipped. ``sha256sum --check SHA256SUMS`` in
that folder compares the files with it, and so do the tests.
"""

from nlsr_jax.files.digests import sha256
from tests.e2e.command import ROOT

FOLDER = ROOT / "checkpoints"
FILE = FOLDER / "SHA256SUMS"


def shipped(folder=FOLDER):
    """Digests of the shipped files by path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != FILE.name]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return {name: sha256(folder / name) for name in names if not is_run(name.partition("/")[0])}


def is_run(name):
    """Whether a folder is one that commands write to, so that git ignores it."""
    return name == "runs" or name.endswith(".training")


def kept(path=FILE):
    """Digests of the file by path."""
    pairs = (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in pairs}


def main():
    """Write the file."""
    FILE.write_text("".join(f"{digest}  {name}\n" for name, digest in shipped().items()), encoding="utf-8")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
