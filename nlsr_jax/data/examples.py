"""Types of training and evaluation data after reading a source and applying a template."""

from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """One prompt with one response.

    Attributes:
      prompt: the rendered prompt, as the model reads it.
      response: the response, without an end token.
      kind: purpose of the row: ``"task"``, ``"harmful"``, ``"safe"`` or ``"benign"``.
      label: the true answer of a task row, in the form the task's scoring reads; otherwise empty.
      categories: harm categories of a harmful row, as its data set names them.
    """

    prompt: str
    response: str
    kind: str = "task"
    label: str = ""
    categories: tuple[str, ...] = ()


class Preference(NamedTuple):
    """One prompt with a chosen and a rejected response.

    Attributes:
      prompt: the rendered prompt.
      chosen: the preferred response, without an end token.
      rejected: the rejected response.
    """

    prompt: str
    chosen: str
    rejected: str


class Encoded(NamedTuple):
    """One text: token ids ``[n]`` int32 and the position where its response begins."""

    ids: np.ndarray
    start: int

    @property
    def prompt(self) -> list[int]:
        """The token ids before the response."""
        return self.ids[: self.start].tolist()

    @property
    def response(self) -> list[int]:
        """The token ids of the response."""
        return self.ids[self.start :].tolist()
