"""The best of many scores is too good to be true: by how much is to be expected.

A score is the accuracy p on m validation rows, a mean of m yes-or-no answers, so its standard error is
sqrt(p (1 - p) / m). Who picks the best of n scores also picks a lucky error. How lucky follows from order statistics
(David and Nagaraja 2003, section 3.1): the mean of the largest of n independent X_i with distributions F_i and
densities f_i is the integral of x over the density ``sum_i f_i(x) prod_{j != i} F_j(x)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import integer

REACH, NODES = 8.0, 400
"""The integral goes so many standard errors to both sides of what can win, over so many points."""

Array = np.ndarray[Any, Any]


def standard_error(accuracy: float, rows: int) -> float:
    """Of an accuracy that was measured on so many rows: ``sqrt(p (1 - p) / m)``.

    >>> standard_error(0.5, 100)
    0.05
    """
    return math.sqrt(accuracy * (1 - accuracy) / rows)


def optimism_bound(score: float, trials: int, rows: int) -> float:
    """How much the best of n scores exceeds the truth on average if all trials are equally good.

    That is ``E[max of n standard normals] * sqrt(p (1 - p) / m)``, p being the score less this very excess. Trials that
    differ, and errors that are alike because the same rows make them, lead to less.

    Args:
        score: the best one.
        trials: n.
        rows: of the validation part, m.

    >>> round(optimism_bound(0.9, 100, 1000), 4)
    0.0263
    """
    lucky = expected_maximum(integer("trials", trials, least=1))
    excess = 0.0
    for _ in range(5):
        excess = lucky * standard_error(_inside(score - excess, rows), rows)
    return excess


def expected_optimism(scores: Sequence[float], rows: int) -> float:
    """How much the best score exceeds the truth on average, if trials differ as much as these scores do.

    A parametric bootstrap (Efron and Tibshirani 1993, chapter 6) in closed form: were the scores the truth, and were
    they measured once more, the winner of that would be too good by so much. The scores are spread more widely than the
    truth, so this is rather too little, by up to 30 % if all are equal; `optimism_bound` is rather too much.

    Args:
        scores: validation accuracies.
        rows: of the validation part.

    >>> expected_optimism([0.9], 1000)
    0.0
    >>> round(expected_optimism([0.9, 0.1], 1000), 4), round(expected_optimism([0.9, 0.9], 1000), 4)
    (0.0, 0.0054)
    """
    if not len(scores):
        raise OptionError("the optimism of no scores: it wants at least one")
    means = np.asarray(scores, np.float64)
    safe = _inside(means, rows)
    spreads = np.sqrt(safe * (1 - safe) / rows)
    floor = (means - REACH * spreads).max()
    able = means + REACH * spreads > floor
    means, spreads = means[able], spreads[able]
    if len(means) == 1:
        return 0.0
    x = np.linspace(floor, (means + REACH * spreads).max(), NODES)
    win = _winning_density(x, means, spreads)
    return float((np.trapezoid((x - means[:, None]) * win, x, axis=1)).sum())


def expected_maximum(n: int) -> float:
    """The mean of the largest of n independent standard normal numbers.

    >>> [round(expected_maximum(n), 3) for n in (1, 2, 100)]
    [0.0, 0.564, 2.508]
    """
    x = np.linspace(-REACH, REACH, NODES)
    density = n * _density(x) * _distribution(x) ** (n - 1)
    # + 0.0: of one number the integral is a zero that may come out negative.
    return round(float(np.trapezoid(x * density, x)), 12) + 0.0


def _inside(accuracy: Any, rows: int) -> Any:
    """An accuracy whose error is not 0: where all answers were right, half of one could have been wrong."""
    return np.clip(accuracy, 0.5 / rows, 1 - 0.5 / rows)


def _winning_density(x: Array, means: Array, spreads: Array) -> Array:
    """[n, x]: the density of score i at x, times the probability that all others are below."""
    z = (x - means[:, None]) / spreads[:, None]
    below = np.maximum(_distribution(z), 1e-300)
    others = np.exp(np.log(below).sum(axis=0) - np.log(below))
    return np.asarray(_density(z) / spreads[:, None] * others)


def _density(z: Array) -> Array:
    return np.asarray(np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))


def _distribution(z: Array) -> Array:
    erfc = np.frompyfunc(math.erfc, 1, 1)
    return np.asarray(0.5 * erfc(-z / math.sqrt(2)), np.float64)
