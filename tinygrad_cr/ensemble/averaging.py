"""How the answers of several networks become one: the mean of their probabilities, or of their logarithms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cr.errors import unknown_name

AVERAGES = ("probabilities", "log")
"""The arithmetic mean, and the geometric one, normalised."""

Array = NDArray[np.float64]


def log_softmax(logits: NDArray[Any]) -> Array:
    """Logarithms of the probabilities, float64, along the last axis; finite for any finite logits.

    >>> log_softmax(np.array([0.0, 1000.0])).tolist()
    [-1000.0, 0.0]
    """
    shifted = np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def averaged(logits: NDArray[Any], average: str = "probabilities") -> Array:
    """Logarithms of the probabilities of all members together: [members, n, classes] -> [n, classes] float64.

    "probabilities" is the mean of the members' probabilities, the usual ensemble (Hansen and Salamon 1990,
    Lakshminarayanan et al. 2017). "log" is their geometric mean, normalised (a logarithmic opinion pool, Heskes 1998):
    a member that rules a class out is heeded more. Its normalisation need not be summed over members, as it is the
    softmax of the mean logits.

    Raises:
        OptionError: another average.

    >>> members = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])
    >>> np.exp(averaged(members)).round(3).tolist(), np.exp(averaged(members, "log")).round(3).tolist()
    ([[0.7, 0.3]], [[0.75, 0.25]])
    """
    check_average(average)
    if average == "log":
        return log_softmax(logits.mean(axis=0, dtype=np.float64))
    logs = log_softmax(logits)
    highest = logs.max(axis=0)
    # No class has probability 0 in all members, so the highest is finite.
    mean: Array = highest + np.log(np.exp(logs - highest).mean(axis=0))
    return mean


def check_average(average: str) -> None:
    """Raise unless it is one of `AVERAGES`."""
    if average not in AVERAGES:
        raise unknown_name("average", average, AVERAGES)
