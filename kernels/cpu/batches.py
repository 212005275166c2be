"""Minibatches: gather, convert and standardise in one pass."""

from __future__ import annotations

from ..interface import Array
from .board import bind
from .compiling import helper, kernel
from .memory import LINE_BYTES, prefetch
from .product import middle
from .threads import ELEMENTS_WORTH_SHARING, launch

ROWS = 64
"""Rows gathered at a time by one thread."""
BYTES_AHEAD = 4096
"""Of rows that are on their way from memory while one is converted: the processor cannot guess where the next lies."""


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
    last, width = min(rows.size, first + ROWS), (right - left) * data.itemsize
    ahead = max(1, BYTES_AHEAD // max(1, width))
    for i in range(first, last):
        if i + ahead < last:
            begin = rows[i + ahead] * data.shape[1] + left
            for offset in range(0, width, LINE_BYTES):
                prefetch(data, begin, offset)
        source, target = data[rows[i], left:right], out[i, left:right]
        for j in range(source.size):
            target[j] = (number(source[j]) - means[j]) * scales[j]


@kernel
def gather(data: Array, rows: Array, mean: Array, scale: Array, out: Array) -> None:
    # Shared in halves of the columns: the thread that writes a half reads it in the first layer's product.
    groups, shared = (rows.size + ROWS - 1) // ROWS, out.size >= ELEMENTS_WORTH_SHARING
    job = bind(_gather_chunk, (data, rows, mean, scale, out, groups, shared))
    launch(job, 2 * groups if shared else groups, shared)
