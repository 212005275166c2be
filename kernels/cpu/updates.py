"""Optimiser updates: one pass over the flat buffers, with the norms of parameter and update on demand.

Loops run over slices from 0: numba wraps an index that might be negative, and a wrapped index does not vectorise. An
update that is measured goes through a block that stays in the first-level cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interface import NEGLIGIBLE, Array
from .board import bind
from .compiling import helper, kernel, reordering_helper
from .memory import borrowed, flat, on_stack, scratch
from .threads import ELEMENTS_WORTH_SHARING, launch
from .transposing import update_some, update_square
from .vectors import lanes_of

BLOCK = 1024
LEAST_SQUARES, MOST_SQUARES = 1e-25, 1e38
"""Between them a sum of squares of a block may stand in float32: what underflows in it is less than its rounding."""
BLOCKS_A_CHUNK = 16


@reordering_helper
def _own_squares(values: Array, factor: float) -> Any:
    total = values.dtype.type(0)
    for i in range(values.size):
        scaled = factor * values[i]
        total += scaled * scaled
    return total


@reordering_helper
def _wide_squares(values: Array, factor: float) -> float:
    total = 0.0
    for i in range(values.size):
        # `float` would leave a float32 as it is.
        scaled = np.float64(factor * values[i])
        total += scaled * scaled
    return total


@helper
def _sum_of_squares(values: Array, factor: float) -> float:
    """Of at most `BLOCK` elements, in their own dtype where nothing overflows or is lost, as it hardly ever is."""
    total = np.float64(_own_squares(values, factor))
    return total if LEAST_SQUARES <= total <= MOST_SQUARES else _wide_squares(values, factor)


@helper
def _squares_chunk(values: Array, factor: float, of_blocks: Array, chunk: int) -> None:
    for i in range(chunk * BLOCKS_A_CHUNK, min((chunk + 1) * BLOCKS_A_CHUNK, of_blocks.size)):
        of_blocks[i] = _sum_of_squares(values[i * BLOCK : min((i + 1) * BLOCK, values.size)], factor)


@helper
def squares(values: Array, factor: float) -> float:
    """``sum((factor * values)**2)``: what `sgd` measures of a parameter, or of an update that is ``lr * velocity``."""
    of_blocks = scratch((values.size + BLOCK - 1) // BLOCK, on_stack(np.float64))
    chunks = (of_blocks.size + BLOCKS_A_CHUNK - 1) // BLOCKS_A_CHUNK
    launch(bind(_squares_chunk, (values, factor, of_blocks)), chunks, values.size >= ELEMENTS_WORTH_SHARING)
    # In the order of the blocks, whoever measured them.
    total = 0.0
    for i in range(of_blocks.size):
        total += of_blocks[i]
    return total


@helper
def step(p: Array, g: Array, v: Array, penalty: float, rate: float, mu: float, nesterov: bool) -> None:
    """The formula of `sgd` for some elements."""
    least, zero = p.dtype.type(NEGLIGIBLE), p.dtype.type(0)
    if mu != 0:
        for i in range(p.size):
            d = g[i] + penalty * p[i]
            speed = mu * v[i] + d
            speed = zero if abs(speed) <= least else speed
            v[i] = speed
            p[i] -= rate * (d + mu * speed if nesterov else speed)
    else:
        for i in range(p.size):
            p[i] -= rate * (g[i] + penalty * p[i])


@helper
def step_block(w: Array, update: Any, rows: Any, columns: Any, found: Array, begin: int, pitch: int) -> None:
    """The update of a block of w; its gradient begins at `begin`, and `pitch` leads from row to row.

    rows, columns: of the block, the first and how many.
    """
    velocity, early, _, (penalty, rate, momentum, nesterov) = update
    weights, speed = flat(w), flat(velocity)
    (first, some), (left, width) = rows, columns
    runs, length = (1, some * width) if width == w.shape[1] == pitch else (some, width)
    for i in range(runs if early else 0):
        start, place = (first + i) * w.shape[1] + left, begin + i * pitch
        own = found[place : place + length]
        step(weights[start : start + length], own, speed[start : start + length], penalty, rate, momentum, nesterov)


@helper
def step_turned_block(w: Array, update: Any, rows: Any, columns: Any, found: Array) -> None:
    """`step_block` of a block of w, whose gradient is turned in registers.

    found: the transpose of it, with room for whole squares. Where rows are whole lines, the block in memory, turned and
    then read again, took a quarter longer, and the place of others in the second-level cache.
    """
    velocity, _, _, rates = update
    weights, speed, gradient, lanes = flat(w), flat(velocity), flat(found), lanes_of(w)
    (first, some), (left, width) = rows, columns
    row, pitch = w.shape[1], found.shape[1]
    for i in range(0, some, lanes):
        for k in range(0, width, lanes):
            start, lies = (first + i) * row + left + k, k * pitch + i
            if i + lanes <= some and k + lanes <= width:
                update_square(gradient, lies, pitch, weights, speed, start, row, lanes, lanes, rates)
            else:
                update_some(gradient, lies, pitch, weights, speed, start, row, some - i, width - k, rates)


@helper
def _measured_step(
    p: Array, g: Array, v: Array, update: Array, penalty: float, rate: float, mu: float, nesterov: bool
) -> None:
    """`step`; update: [as many] receives what was subtracted, to the bit."""
    for i in range(p.size):
        update[i] = p[i]
    step(p, g, v, penalty, rate, mu, nesterov)
    for i in range(p.size):
        if mu != 0 and not nesterov:
            update[i] = rate * v[i]
        else:
            d = g[i] + penalty * update[i]
            update[i] = rate * (d + mu * v[i] if mu != 0 else d)


@helper
def _sgd_chunk(param: Array, grad: Array, velocity: Array, rates: Any, norms: Array, chunk: int) -> None:
    """Some blocks of one tensor; norms: [blocks, 0, 1 or 2], as many as are wanted."""
    penalty, rate, mu, nesterov = rates
    block = np.empty(BLOCK if norms.shape[1] > 1 else 0, param.dtype)
    for i in range(chunk * BLOCKS_A_CHUNK, min((chunk + 1) * BLOCKS_A_CHUNK, (param.size + BLOCK - 1) // BLOCK)):
        start, stop = i * BLOCK, min((i + 1) * BLOCK, param.size)
        p = param[start:stop]
        if norms.shape[1] > 0:
            norms[i, 0] = _sum_of_squares(p, p.dtype.type(1))
        if norms.shape[1] > 1:
            update = block[: stop - start]
            _measured_step(p, grad[start:stop], velocity[start:stop], update, penalty, rate, mu, nesterov)
            norms[i, 1] = _sum_of_squares(update, p.dtype.type(1))
        else:
            step(p, grad[start:stop], velocity[start:stop], penalty, rate, mu, nesterov)


@helper
def sgd_spans(param: Array, grad: Array, velocity: Array, spans: Array, l2: Array, rates: Any, norms: Array) -> None:
    """`sgd`; rates: (lr, momentum, nesterov); norms without columns where they are not wanted.

    A span that begins below 0 is one whose update was made already, see `program._update_early`.
    """
    lr, momentum, nesterov = rates
    number = param.dtype.type
    for k in range(spans.shape[0]):
        start, stop = spans[k]
        if start < 0:
            continue
        if stop - start < ELEMENTS_WORTH_SHARING and norms.shape[1] == 0:
            p, g, v = param[start:stop], grad[start:stop], velocity[start:stop]
            step(p, g, v, number(l2[k]), number(lr), number(momentum), nesterov)
            continue
        blocks = (stop - start + BLOCK - 1) // BLOCK
        of_blocks = np.empty((blocks, norms.shape[1]), np.float64)
        constants = number(l2[k]), number(lr), number(momentum), nesterov
        job = bind(_sgd_chunk, (param[start:stop], grad[start:stop], velocity[start:stop], constants, of_blocks))
        launch(job, (blocks + BLOCKS_A_CHUNK - 1) // BLOCKS_A_CHUNK, stop - start >= ELEMENTS_WORTH_SHARING)
        # In the order of the blocks, whoever measured them.
        for j in range(norms.shape[1]):
            norms[k, j] = 0
            for i in range(blocks):
                norms[k, j] += of_blocks[i, j]


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
    param, grad, velocity = borrowed(param), borrowed(grad), borrowed(velocity)
    spans, l2 = borrowed(spans), borrowed(l2)
    rates = float(lr), float(momentum), nesterov
    if norms is None:
        sgd_spans(param, grad, velocity, spans, l2, rates, np.empty((0, 0), np.float64))
    else:
        sgd_spans(param, grad, velocity, spans, l2, rates, norms)


@helper
def adam_spans(
    param: Array,
    grad: Array,
    moments: Any,
    spans: Array,
    l2: Array,
    decay: Array,
    rates: Any,
    step: int,
    norms: Array,
) -> None:
    """`adam`; moments: (mean, square), rates: (lr, beta1, beta2, eps); norms without columns where none are wanted."""
    mean, square = moments
    lr, beta1, beta2, eps = rates
    number = param.dtype.type
    rate, epsilon = number(lr), number(eps)
    old1, new1 = number(beta1), number(1 - beta1)
    old2, new2 = number(beta2), number(1 - beta2)
    mean_correction = number(1 / (1 - beta1**step))
    square_correction = number(1 / (1 - beta2**step))
    block = np.empty(BLOCK, param.dtype)
    for k in range(spans.shape[0]):
        penalty, shrink = number(l2[k]), number(decay[k])
        for j in range(norms.shape[1]):
            norms[k, j] = 0
        for start in range(spans[k, 0], spans[k, 1], BLOCK):
            stop = min(start + BLOCK, spans[k, 1])
            p, grads, m, s = param[start:stop], grad[start:stop], mean[start:stop], square[start:stop]
            update = block[: stop - start]
            if norms.shape[1] > 0:
                norms[k, 0] += _sum_of_squares(p, p.dtype.type(1))
            for i in range(p.size):
                g = grads[i] + penalty * p[i]
                m[i] = old1 * m[i] + new1 * g
                s[i] = old2 * s[i] + new2 * g * g
                direction = m[i] * mean_correction / (np.sqrt(s[i] * square_correction) + epsilon)
                update[i] = rate * (direction + shrink * p[i])
                p[i] -= update[i]
            if norms.shape[1] > 1:
                norms[k, 1] += _sum_of_squares(update, p.dtype.type(1))


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
    param, grad, mean, square = borrowed(param), borrowed(grad), borrowed(mean), borrowed(square)
    spans, l2, decay = borrowed(spans), borrowed(l2), borrowed(decay)
    rates = float(lr), float(beta1), float(beta2), float(eps)
    if norms is None:
        none = np.empty((0, 0), np.float64)
        adam_spans(param, grad, (mean, square), spans, l2, decay, rates, step, none)
    else:
        adam_spans(param, grad, (mean, square), spans, l2, decay, rates, step, norms)
