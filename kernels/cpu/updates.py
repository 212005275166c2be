"""Optimiser updates: one pass over the flat buffers, with the norms of parameter and update on demand."""

from __future__ import annotations

import math

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
        param_square = 0.0
        update_square = 0.0
        for i in range(spans[k, 0], spans[k, 1]):
            p = param[i]
            g = grad[i] + penalty * p
            if momentum != 0:
                v = mu * velocity[i] + g
                velocity[i] = v
                g = g + mu * v if nesterov else v
            update = rate * g
            param[i] = p - update
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
        param_square = 0.0
        update_square = 0.0
        for i in range(spans[k, 0], spans[k, 1]):
            p = param[i]
            g = grad[i] + penalty * p
            m = old1 * mean[i] + new1 * g
            s = old2 * square[i] + new2 * g * g
            mean[i] = m
            square[i] = s
            direction = m * mean_correction / (math.sqrt(s * square_correction) + epsilon)
            update = rate * (direction + shrink * p)
            param[i] = p - update
            if norms is not None:
                param_square += float(p) * float(p)
                update_square += float(update) * float(update)
        if norms is not None:
            norms[k, 0] = param_square
            norms[k, 1] = update_square
