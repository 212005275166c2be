"""Optimiser updates: one pass over the flat buffers, with the norms of parameter and update on demand.

Loops run over slices from 0: numba wraps an index that might be negative, and a wrapped index does not vectorise.
"""

from __future__ import annotations

import numpy as np

from ..interface import Array
from .compiling import kernel


@kernel
def sgd(
    param: Array,
    grad: Array,
    velocity: Array,
    spans: Array,
    l2: Array,
    lr: float,
    momentum: float,
    nesterov: bool,
    norms: Array | None,
) -> None:
    rate = param.dtype.type(lr)
    mu = param.dtype.type(momentum)
    for k in range(spans.shape[0]):
        penalty = param.dtype.type(l2[k])
        span = slice(spans[k, 0], spans[k, 1])
        params, grads, velocities = param[span], grad[span], velocity[span]
        param_square = 0.0
        update_square = 0.0
        for i in range(params.size):
            p = params[i]
            g = grads[i] + penalty * p
            if momentum != 0:
                v = mu * velocities[i] + g
                velocities[i] = v
                g = g + mu * v if nesterov else v
            update = rate * g
            params[i] = p - update
            if norms is not None:
                param_square += float(p) * float(p)
                update_square += float(update) * float(update)
        if norms is not None:
            norms[k, 0] = param_square
            norms[k, 1] = update_square


@kernel
def adam(
    param: Array,
    grad: Array,
    mean: Array,
    square: Array,
    spans: Array,
    l2: Array,
    decay: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    norms: Array | None,
) -> None:
    number = param.dtype.type
    rate, epsilon = number(lr), number(eps)
    old1, new1 = number(beta1), number(1 - beta1)
    old2, new2 = number(beta2), number(1 - beta2)
    mean_correction = number(1 / (1 - beta1**step))
    square_correction = number(1 / (1 - beta2**step))
    for k in range(spans.shape[0]):
        penalty, shrink = number(l2[k]), number(decay[k])
        span = slice(spans[k, 0], spans[k, 1])
        params, grads, means, squares = param[span], grad[span], mean[span], square[span]
        param_square = 0.0
        update_square = 0.0
        for i in range(params.size):
            p = params[i]
            g = grads[i] + penalty * p
            m = old1 * means[i] + new1 * g
            s = old2 * squares[i] + new2 * g * g
            means[i] = m
            squares[i] = s
            direction = m * mean_correction / (np.sqrt(s * square_correction) + epsilon)
            update = rate * (direction + shrink * p)
            params[i] = p - update
            if norms is not None:
                param_square += float(p) * float(p)
                update_square += float(update) * float(update)
        if norms is not None:
            norms[k, 0] = param_square
            norms[k, 1] = update_square
