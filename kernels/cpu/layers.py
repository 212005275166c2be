"""All layers of a network in one call: calling those of a small one takes as long as computing them."""

from __future__ import annotations

from typing import Any

from ..interface import NO_DROPOUT, Array
from .affine import backward, backward_masked, forward, no_update
from .compiling import calling_kernel, helper
from .memory import borrowed, flat, keep, on_stack, scratch, shaped


@calling_kernel
def feed_forward(
    x: Array,
    values: Array,
    layers: Array,
    scales: Array,
    seed: int,
    draw: int,
    stream: int,
    hidden: Array,
    out: Array,
) -> None:
    values, hidden, out = borrowed(values), borrowed(hidden), borrowed(out)
    layers, scales = borrowed(layers), borrowed(scales)
    rows, source, begin, drawn = x.shape[0], flat(borrowed(x)), 0, 0
    for k in range(layers.shape[0]):
        w, b, inputs, outputs, threshold = layers[k]
        end = begin + rows * outputs
        target = flat(out) if k == layers.shape[0] - 1 else hidden[begin:end]
        follows = threshold != 0
        mask = (threshold if follows else NO_DROPOUT), (seed, draw + drawn, stream)
        forward(
            shaped(source, (rows, inputs)),
            shaped(values[w : w + inputs * outputs], (inputs, outputs)),
            values[b : b + outputs],
            (follows, out.dtype.type(scales[k]), *mask),
            shaped(target, (rows, outputs)),
        )
        drawn += 1 if mask[0] < NO_DROPOUT else 0
        source, begin = target, end


@helper
def _backward(
    layer: Array,
    scale: float,
    rows: int,
    values: Array,
    gradients: Array,
    given: Any,
    spare: Array,
    dx: Array,
    wanted: bool,
) -> None:
    """One layer; given: its dy, x and y, all as vectors."""
    w, b, inputs, outputs, threshold = layer
    dy, x, y = given
    weights = shaped(values[w : w + inputs * outputs], (inputs, outputs))
    dw = shaped(gradients[w : w + inputs * outputs], (inputs, outputs))
    db = gradients[b : b + outputs]
    above, source, below = shaped(dy, (rows, outputs)), shaped(x, (rows, inputs)), shaped(dx, (rows, inputs))
    if threshold != 0:
        result, dz = shaped(y, (rows, outputs)), shaped(spare, (rows, outputs))
        factor = dy.dtype.type(scale)
        backward_masked(above, source, weights, result, factor, dz, below, wanted, dw, db, no_update(weights))
    else:
        backward(above, source, weights, below, wanted, dw, db, no_update(weights))


@calling_kernel
def feed_forward_backward(
    dy: Array,
    x: Array,
    values: Array,
    layers: Array,
    scales: Array,
    hidden: Array,
    out: Array,
    gradients: Array,
    dx: Array | None,
) -> None:
    dy, x, hidden, out = borrowed(dy), borrowed(x), borrowed(hidden), borrowed(out)
    values, gradients, layers, scales = borrowed(values), borrowed(gradients), borrowed(layers), borrowed(scales)
    rows, widest = x.shape[0], 0
    for k in range(layers.shape[0]):
        widest = max(widest, layers[k, 3])
    spare, other = scratch(rows * widest, on_stack(dy)), scratch(rows * widest, on_stack(dy))
    above, y, end = flat(dy), flat(out), hidden.size
    for k in range(layers.shape[0] - 1, 0, -1):
        begin = end - rows * layers[k, 2]
        below = hidden[begin:end]
        # Where ReLU comes first, dy has been used when dx is written; else dx takes the room that dz would have had.
        target = other if layers[k, 4] != 0 else spare
        _backward(layers[k], scales[k], rows, values, gradients, (above, below, y), spare, target, True)
        if layers[k, 4] == 0:
            spare, other = other, spare
        above, y, end = target, below, begin
    if dx is None:
        _backward(layers[0], scales[0], rows, values, gradients, (above, flat(x), y), spare, spare, False)
    else:
        _backward(layers[0], scales[0], rows, values, gradients, (above, flat(x), y), spare, flat(borrowed(dx)), True)
    keep(spare)
    keep(other)
