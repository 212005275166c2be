"""ReLU and dropout over flattened arrays."""

from __future__ import annotations

import numpy as np

from ..interface import Array
from .compiling import kernel
from .memory import borrowed, on_stack, scratch
from .philox import random_lanes

BLOCKS = 64
"""Philox blocks generated at a time: 512 elements, whose lanes (1 KiB) and values stay in the first-level cache."""


@kernel
def relu(x: Array, out: Array) -> None:
    for i in range(x.size):
        v = x[i]
        out[i] = x.dtype.type(0) if v <= 0 else v


@kernel
def relu_backward(dy: Array, y: Array, dx: Array) -> None:
    for i in range(y.size):
        dx[i] = dy[i] if y[i] > 0 else dy.dtype.type(0)


@kernel
def dropout(x: Array, threshold: int, scale: float, seed: int, draw: int, stream: int, out: Array) -> None:
    x, out = borrowed(x), borrowed(out)
    zero = x.dtype.type(0)
    factor = x.dtype.type(scale)
    # The threshold reaches 65536, one more than 16 bits hold: compare with "at most threshold - 1".
    last = np.uint16(threshold - 1)
    counters = scratch(BLOCKS, on_stack(np.uint32))
    words = scratch(4 * BLOCKS, on_stack(np.uint32))
    lanes = words.view(np.uint16)
    step = 8 * BLOCKS
    for start in range(0, x.size, step):
        for k in range(BLOCKS):
            counters[k] = np.uint32(start // 8 + k)
        random_lanes(counters, seed, draw, stream, words)
        source, target = x[start : start + step], out[start : start + step]
        for i in range(source.size):
            target[i] = source[i] * factor if lanes[i] <= last else zero
