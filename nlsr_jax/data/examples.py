"""What training and evaluation data look like once a source has been read and a template applied."""

from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """One prompt with one response.

    Attributes:
      prompt: the rendered prompt, as the model reads it.
      response: the response, without an end token.
      kind: what the row is for: ``"task"``, ``"harmful"``, ``"safe"`` or ``"benign"``.
      label: the true answer of a task row, as the task's scoring reads it; empty elsewhere.
      categories: kinds of harm that a harmful row belongs to, as its data set names them.
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
      rejected: the other one.
    """

    prompt: str
    chosen: str
    rejected: str


class Encoded(NamedTuple):
    """One text: token ids ``[n]`` int32 and where its response begins."""

    ids: np.ndarray
    start: int
