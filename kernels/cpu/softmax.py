"""The losses, each with its gradient in the same pass. Sums are taken in float64 whatever the data."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from ..interface import Array
from .compiling import kernel
from .memory import borrowed, flat

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693145751953125), np.float32(1.42860682030941723e-6)
LEAST = np.float32(-69.0)
"""Below it, exp(x) < 1.1e-30 counts as 0: multiplied by a weight it might become a denormal number, which is slow."""
EXPONENT_BIAS, EXPONENT_SHIFT = np.int32(127), np.int32(23)
LARGE = 1e280
"""Of a product of totals: another factor, as many classes as there may be, still leaves it finite."""
_TAYLOR = tuple(np.float32(1 / math.factorial(k)) for k in range(7))


def exponentials(values):
    """Replace each value, none above 0, by its exponential; numba compiles the version for its dtype."""


@overload(exponentials, jit_options={"error_model": "numpy"})
def _exponentials(values):
    if values.dtype == types.float32:
        return _exponentials_float32
    return _exponentials_float64


def _exponentials_float32(values):
    """exp(x) = 2**n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) by its series; the error is below 2e-7 exp(x).

    Everything here is a vector instruction, which a call of exp is not.
    """
    c0, c1, c2, c3, c4, c5, c6 = _TAYLOR
    for i in range(values.size):
        x = values[i]
        n = np.floor(x * LOG2_E + np.float32(0.5))
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        series = c0 + r * (c1 + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * c6)))))
        power = np.int32((np.int32(n) + EXPONENT_BIAS) << EXPONENT_SHIFT).view(np.float32)
        values[i] = np.float32(0) if x < LEAST else series * power


def _exponentials_float64(values):
    for i in range(values.size):
        values[i] = math.exp(values[i])


@kernel
def softmax_cross_entropy(logits: Array, labels: Array, weights: Array | None, loss: Array, dlogits: Array) -> None:
    logits, labels, dlogits = borrowed(logits), borrowed(labels), borrowed(dlogits)
    n, classes = logits.shape
    total_weight = float(n)
    if weights is not None:
        total_weight = 0.0
        for i in range(n):
            total_weight += weights[i]
    cost = 0.0
    # Maxima and totals of 32 rows side by side were slower: strided reads cost more than short loops.
    for i in range(n):
        row, target = logits[i], dlogits[i]
        highest = row[0]
        for j in range(1, classes):
            highest = max(highest, row[j])
        for j in range(classes):
            target[j] = row[j] - highest
        # Taken now: its exponential will stand there.
        of_label = target[labels[i]] if 0 <= labels[i] < classes else np.nan
        weight = 1.0 if weights is None else weights[i]
        cost -= weight / total_weight * of_label
    # All rows at once: one of ten classes would not fill a vector.
    exponentials(flat(dlogits))
    product = 1.0
    for i in range(n):
        label = labels[i]
        row = dlogits[i]
        total = 0.0
        for j in range(classes):
            total += row[j]
        weight = 1.0 if weights is None else weights[i]
        share = weight / total_weight
        if weights is None:
            # The sum of logarithms is the logarithm of a product; each total is from 1 to the number of classes.
            product *= total
            if product > LARGE:
                cost += share * math.log(product)
                product = 1.0
        else:
            cost += share * math.log(total)
        factor = logits.dtype.type(share / total)
        for j in range(classes):
            row[j] *= factor
        row[label if 0 <= label < classes else 0] -= logits.dtype.type(share)
    if weights is None and n > 0:
        cost += math.log(product) / total_weight
    loss[0] = cost


@kernel
def mean_squared_error(prediction: Array, target: Array, loss: Array, dprediction: Array) -> None:
    n = prediction.size
    factor = prediction.dtype.type(2 / n)
    total = 0.0
    for i in range(n):
        difference = prediction[i] - target[i]
        total += np.float64(difference) * np.float64(difference)
        dprediction[i] = difference * factor
    loss[0] = total / n
