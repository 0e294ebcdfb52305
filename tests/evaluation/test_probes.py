"""Probes and overlaps on what is known to be, and not to be, told apart."""

import jax
import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.overlap import choice_agreement, kept_entries, mask_overlap
from nlsr_jax.evaluation.probes import probe

KEY = jax.random.key(0)


def states(seed, count, apart):
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.5
    return rng.normal(size=(count, 12)) + apart * labels[:, None], labels


def test_what_lies_apart_is_told_apart():
    found = probe(KEY, *states(0, 300, 4.0), *states(1, 300, 4.0))
    assert min(found) > 0.99


def test_what_does_not_is_a_guess():
    found = probe(KEY, *states(0, 400, 0.0), *states(1, 400, 0.0))
    assert max(abs(share - 0.5) for share in found) < 0.1  # four standard deviations of 400 guesses


def test_the_perceptron_sees_what_no_line_can():
    rng = np.random.default_rng(2)
    train, test = rng.normal(size=(800, 2)), rng.normal(size=(400, 2))
    labels = [(points[:, 0] * points[:, 1]) > 0 for points in (train, test)]
    found = probe(KEY, train, labels[0], test, labels[1])
    assert found.svm < 0.65
    assert found.mlp > 0.85


def test_the_same_key_gives_the_same_shares():
    data = (*states(0, 200, 0.5), *states(1, 200, 0.5))
    assert probe(KEY, *data) == probe(KEY, *data)


def test_labels_must_be_of_both_kinds():
    train, labels = states(0, 20, 1.0)
    with pytest.raises(InputError, match="test: 20 labels for 20 states; expected one label each"):
        probe(KEY, train, labels, train, np.ones(20, bool))


def tree(a, b):
    return {"q_proj": {"a": np.array(a, bool), "b": np.array(b, bool)}}


def test_overlap_counts_what_is_kept():
    first, second = tree([[[1, 1, 0, 0]]], [[[1], [0]]]), tree([[[0, 1, 1, 0]]], [[[1], [1]]])
    assert kept_entries(first) == 3
    assert mask_overlap(first, second) == 2 / 3
    assert mask_overlap(second, first) == 2 / 4
    assert mask_overlap(tree([[[0]]], [[[0]]]), first) == 0


def test_agreement_counts_both_kinds_of_modules():
    one = {"q_proj": np.array([True, False]), "v_proj": np.array([True, True])}
    other = {"q_proj": np.array([True, True]), "v_proj": np.array([True, False])}
    assert choice_agreement(one, other) == 0.5
    assert choice_agreement(one, one) == 1
