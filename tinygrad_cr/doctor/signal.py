"""Do the labels follow from the inputs at all?

Two classifiers without training, nearest class mean and nearest neighbour, are cross-validated on a sample. If neither
beats what the same guesses would hit with the labels dealt out at random, no network has much to find.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.verdict import Check, Status

Array = np.ndarray[Any, Any]

ROWS = 1500
FOLDS = 3
DEVIATIONS = 4.0
"""Above chance by so many standard deviations: shuffled labels get there once in 16,000 times, with two classifiers."""
CHANCE = 2.5
"""Below it, nothing but chance is to be seen: of 80 sets of shuffled labels, one is above."""
MIN_ROWS, MIN_ROWS_OF_A_CLASS = 100, 10
"""On fewer, not finding a relation means nothing."""
ENOUGH_ROWS = 1000
"""On fewer, a weak relation may look like none."""
NAME = "signal"


def check(case: Case) -> Check:
    """Cross-validate both classifiers; the better one counts."""
    rows = case.sample_rows(ROWS)
    x, y = _standardized(case.seen(rows, "float64")), case.labels[rows]
    fold = case.generator(2).permutation(len(y)) % FOLDS
    results = [_above_chance(_guesses(classifier, x, y, fold), y) for classifier in (_nearest_mean, _nearest)]
    accuracy, chance, deviations = max(results, key=lambda result: result[2])
    measured = f"untrained classifiers get {accuracy:.2f} right, chance {chance:.2f} ({deviations:+.1f} deviations)"
    expected = f"{DEVIATIONS:.0f} deviations above chance"
    status, advice = _judge(deviations, len(y), len(np.unique(y)))
    values = {"accuracy": accuracy, "chance": chance, "deviations": deviations, "rows": len(y)}
    return Check(NAME, status, measured, expected, advice, values)


def carried_over(case: Case) -> tuple[float, float]:
    """How far above chance classifiers of the training part are on the validation part, and how far they should be.

    Both in standard deviations; what should be is what they reach in the training part, for as many rows.
    """
    rows = case.sample_rows(ROWS)
    y = case.labels[rows]
    held_out, other = case.sample_validation(ROWS)
    both = _standardized(np.vstack([case.seen(rows, "float64"), held_out]))
    x, held_out = both[: len(y)], both[len(y) :]
    fold = case.generator(2).permutation(len(y)) % FOLDS
    found = []
    for classifier in (_nearest_mean, _nearest):
        wanted = _above_chance(_guesses(classifier, x, y, fold), y)[2] * math.sqrt(len(other) / len(y))
        found.append((_above_chance(classifier(x, y, held_out), other)[2], wanted))
    return max(found, key=lambda pair: pair[1])


def _judge(deviations: float, rows: int, classes: int) -> tuple[Status, str]:
    if deviations >= DEVIATIONS:
        return Status.PASS, ""
    if rows < max(MIN_ROWS, MIN_ROWS_OF_A_CLASS * classes):
        return Status.SKIP, f"{rows} rows of {classes} classes are too few to tell"
    if deviations >= CHANCE:
        return Status.WARN, "a weak relation between rows and labels: do not expect much, or look for better features"
    together = "were they shuffled or sorted separately, or shifted by a row?"
    if rows < ENOUGH_ROWS:
        return Status.WARN, f"no relation between rows and labels, or too weak a one for {rows} rows: {together}"
    return Status.FAIL, f"labels and rows do not belong together: {together}"


def _standardized(x: Array) -> Array:
    deviation = x.std(axis=0)
    result: Array = ((x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    return result


def _guesses(classifier: Any, x: Array, y: Array, fold: Array) -> Array:
    guesses = np.empty_like(y)
    for i in range(FOLDS):
        held_out = fold == i
        guesses[held_out] = classifier(x[~held_out], y[~held_out], x[held_out])
    return guesses


def _nearest_mean(x: Array, y: Array, rows: Array) -> Array:
    classes = np.unique(y)
    means = np.stack([x[y == c].mean(axis=0) for c in classes])
    return _nearest(means, classes, rows)


def _nearest(x: Array, y: Array, rows: Array) -> Array:
    result: Array = y[((x**2).sum(axis=1) - 2 * rows @ x.T).argmin(axis=1)]
    return result


def _above_chance(guesses: Array, y: Array) -> tuple[float, float, float]:
    """Accuracy, what it would be with the labels dealt out at random, and the distance in standard deviations.

    Mean and variance of the number of hits over all permutations of the labels (Hoeffding 1951), in closed form.
    """
    n = len(y)
    hits = int((guesses == y).sum())
    classes = max(int(y.max()), int(guesses.max())) + 1
    guessed, true = np.bincount(guesses, minlength=classes) / n, np.bincount(y, minlength=classes) / n
    both = guessed * true
    mean = n * float(both.sum())
    spread = both.sum() - (guessed * both).sum() - (both * true).sum() + both.sum() ** 2
    deviation = math.sqrt(max(n * n / (n - 1) * float(spread), 1e-12))
    return hits / n, mean / n, (hits - mean) / deviation
