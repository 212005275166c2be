"""The losses, each with its gradient in the same pass. Sums are taken in float64 whatever the data."""

from __future__ import annotations

import math

import numpy as np

from ..interface import Array
from .compiling import kernel


@kernel
def softmax_cross_entropy(logits: Array, labels: Array, weights: Array | None, loss: Array, dlogits: Array) -> None:
    n, classes = logits.shape
    total_weight = float(n)
    if weights is not None:
        total_weight = 0.0
        for i in range(n):
            total_weight += weights[i]
    cost = 0.0
    for i in range(n):
        label = labels[i]
        if label < 0 or label >= classes:
            cost = np.nan
            label = 0
        highest = logits[i, 0]
        for j in range(1, classes):
            highest = max(highest, logits[i, j])
        total = 0.0
        for j in range(classes):
            e = math.exp(logits[i, j] - highest)
            dlogits[i, j] = e
            total += e
        weight = 1.0
        if weights is not None:
            weight = weights[i]
        share = weight / total_weight
        cost += share * (math.log(total) - (logits[i, label] - highest))
        factor = logits.dtype.type(share / total)
        for j in range(classes):
            dlogits[i, j] *= factor
        dlogits[i, label] -= logits.dtype.type(share)
    loss[0] = cost


@kernel
def mean_squared_error(prediction: Array, target: Array, loss: Array, dprediction: Array) -> None:
    n = prediction.size
    factor = prediction.dtype.type(2 / n)
    total = 0.0
    for i in range(n):
        difference = prediction[i] - target[i]
        total += float(difference) * float(difference)
        dprediction[i] = difference * factor
    loss[0] = total / n
