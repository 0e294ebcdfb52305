"""What is compared with transformers, for tests and for the table of all families."""

import pathlib
from typing import NamedTuple

import numpy as np
import torch

import nlsr_jax
from tests.parity.peers import peer_logits, save_peer, tokens

MADE = 24
"""Tokens of a generation."""


class Agreement(NamedTuple):
    """How far a model agrees with its peer.

    Attributes:
      scale: the largest logit.
      plain, left, right: largest difference of logits without padding, and with padding on one side.
      alone: largest difference between a padded row and the same row by itself.
      generated, generated_padded: whether all tokens of a greedy generation are equal, without and with padding.
    """

    scale: float
    plain: float
    left: float
    right: float
    alone: float
    generated: bool
    generated_padded: bool


def padded(side, ids):
    """Ids with 0, 3 and 7 padding tokens, and the mask."""
    ids, mask = ids.copy(), np.ones(ids.shape, bool)
    for row, count in enumerate((0, 3, 7)):
        part = slice(0, count) if side == "left" else slice(ids.shape[1] - count, None)
        ids[row, part], mask[row, part] = 0, False
    return ids, mask


def difference(pair, ids, mask=None) -> float:
    """Return the largest difference of logits where nothing is padded."""
    peer, model, params = pair
    found = np.abs(
        np.asarray(nlsr_jax.logits(model, params, ids, attention_mask=mask)) - peer_logits(peer, ids, mask)
    )
    return float(found.max() if mask is None else found[mask].max())


def peer_generates(peer, ids, mask, count: int = MADE) -> np.ndarray:
    """Return the tokens that the peer goes on with greedily."""
    with torch.no_grad():
        return peer.generate(
            torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask.astype(np.int64)),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        ).numpy()[:, ids.shape[1] :]


def generates_alike(pair, ids, mask) -> bool:
    """Say whether a greedy generation gives the peer's tokens."""
    peer, model, params = pair
    ours = nlsr_jax.generate(model, params, ids, attention_mask=mask, max_new_tokens=MADE)
    return np.array_equal(ours, peer_generates(peer, ids, mask))


def load_pair(variant: str, folder: pathlib.Path):
    """Return the peer of a variant, and the model and parameters that its files give."""
    peer = save_peer(variant, folder)
    return peer, *nlsr_jax.load_model(folder)


def compare(pair) -> Agreement:
    """Compare a model with its peer in all respects."""
    _, model, params = pair
    ids, left, right = tokens(0, 3, 20), padded("left", tokens(1, 3, 20)), padded("right", tokens(1, 3, 20))
    together = np.asarray(nlsr_jax.logits(model, params, left[0], attention_mask=left[1]))[2, 7:]
    alone = np.asarray(nlsr_jax.logits(model, params, left[0][2:, 7:]))[0]
    prompts = tokens(3, 3, 12)
    return Agreement(
        scale=float(np.abs(alone).max()),
        plain=difference(pair, ids),
        left=difference(pair, *left),
        right=difference(pair, *right),
        alone=float(np.abs(together - alone).max()),
        generated=generates_alike(pair, prompts, np.ones(prompts.shape, bool)),
        generated_padded=generates_alike(pair, *padded("left", prompts)),
    )
