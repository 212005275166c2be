"""Minibatches: gather, convert and standardise in one pass."""

from __future__ import annotations

from ..aligned import LINE_BYTES
from ..interface import Array
from .board import bind
from .compiling import helper, kernel
from .memory import borrowed, prefetch
from .product import middle
from .threads import ELEMENTS_WORTH_SHARING, launch

ROWS = 64
"""Rows gathered at a time by one thread."""
ROWS_AHEAD = 4
"""Of these the cache lines are on their way while one is converted: the processor cannot guess where a row lies."""


@helper
def _gather_chunk(
    data: Array, rows: Array, mean: Array, scale: Array, out: Array, groups: int, halved: bool, chunk: int
) -> None:
    number = out.dtype.type
    half = middle(data.shape[1])
    left, right = (0, half) if chunk < groups else (half, data.shape[1])
    right = right if halved else data.shape[1]
    first = chunk % groups * ROWS
    means, scales = mean[left:right], scale[left:right]
    width = (right - left) * data.itemsize
    for i in range(first, min(rows.size, first + ROWS)):
        if i + ROWS_AHEAD < rows.size:
            begin = rows[i + ROWS_AHEAD] * data.shape[1] + left
            for offset in range(0, width, LINE_BYTES):
                prefetch(data, begin, offset)
        source, target = data[rows[i], left:right], out[i, left:right]
        for j in range(source.size):
            target[j] = (number(source[j]) - means[j]) * scales[j]


@kernel
def gather(data: Array, rows: Array, mean: Array, scale: Array, out: Array) -> None:
    data, rows, out = borrowed(data), borrowed(rows), borrowed(out)
    mean, scale = borrowed(mean), borrowed(scale)
    # Shared in halves of the columns: the thread that writes a half reads it in the first layer's product.
    groups, shared = (rows.size + ROWS - 1) // ROWS, out.size >= ELEMENTS_WORTH_SHARING
    job = bind(_gather_chunk, (data, rows, mean, scale, out, groups, shared))
    launch(job, 2 * groups if shared else groups, shared)
