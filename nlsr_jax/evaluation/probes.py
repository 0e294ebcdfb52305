"""Probes: are harmful and harmless requests separable by a hidden state?"""

import warnings
from typing import NamedTuple

import jax
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.random_streams import generator

HIDDEN = 64


class Probed(NamedTuple):
    """Accuracy of each probe on the test rows, in [0, 1]."""

    svm: float
    mlp: float


def probe(
    key: jax.Array, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> Probed:
    """Fit a linear support vector machine and a perceptron with one hidden layer, and test both.

    Args:
      key: PRNG key for both probes.
      train: ``[n, D]`` hidden states; ``train_labels [n]`` bool.
      test: ``[m, D]``; ``test_labels [m]`` bool.

    Raises:
      InputError: if labels and states differ in number, or all labels are equal.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    for name, states, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if len(states) != len(labels) or len(np.unique(labels)) < 2:
            raise InputError(
                f"{name}: {len(labels)} labels for {len(states)} states; expected one label each, and both kinds"
            )
    seeds = generator(key, "probes").integers(2**31, size=2).tolist()
    models = (
        LinearSVC(random_state=seeds[0]),
        MLPClassifier((HIDDEN,), early_stopping=True, random_state=seeds[1]),
    )
    found = []
    for model in models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = make_pipeline(StandardScaler(), model).fit(train, train_labels)
        found.append(float(fitted.score(test, test_labels)))
    return Probed(*found)
