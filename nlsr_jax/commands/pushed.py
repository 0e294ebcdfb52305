"""Push the output of a command to the hub, and print the result."""

from typing import TYPE_CHECKING

from nlsr_jax.errors import InputError

if TYPE_CHECKING:
    from nlsr_jax.pipeline.pushing import Pushed


def print_pushed(pushed: "Pushed") -> None:
    """Print where an output was pushed to."""
    for note in pushed.notes:
        print(f"note: {note}")
    print(f"pushed {pushed.files} files to {pushed.url}")


def push_output(output: str, repo: str, *, private: bool, status: int) -> None:
    """Push an output that a command has just written, unless its check has not passed.

    Args:
      output: the folder.
      repo: ``ORG/NAME``.
      private: see ``push``.
      status: of its check; 0 without one.

    Raises:
      InputError: if the upload fails; the message says how to repeat it.
    """
    from nlsr_jax.pipeline.pushing import push

    if status:
        print(f"not pushed, because the check has not passed; nlsr push {output} {repo} pushes it all the same")
        return
    try:
        print_pushed(push(output, repo, private=private))
    except InputError as error:
        raise InputError(f"{error.marked}; {output} is written, and nlsr push {output} {repo} pushes it") from None
