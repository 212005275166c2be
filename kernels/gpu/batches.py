"""Minibatches: gather, convert and standardise in one pass."""

from __future__ import annotations

import numpy as np

from .batch import Batch, Stack, alone
from .device import launch
from .layout import MAX_BLOCKS, columns, one_each


@alone
def gather(batch: Batch, data: Stack, rows: Stack, mean: Stack, scale: Stack, out: Stack) -> None:
    n, d = out.array.shape
    if out.array.size:
        across, block = columns(d, out.array.dtype.itemsize)
        grid = (across, min(MAX_BLOCKS, -(-n // block[1])), len(batch.members))
        arguments = (batch.index, n, d, len(data.array), *data, *rows, *mean, *scale, *out)
        launch("batches", f"gather_{data.array.dtype}", out.array.dtype, grid, block, arguments)


@alone
def take(batch: Batch, values: Stack, rows: Stack, out: Stack) -> None:
    """``out = values[rows]``, a row outside counting as the nearest inside.

    values: [k] int64, k above 0; rows, out: [n] int64.
    """
    n = out.array.size
    if n:
        arguments = (batch.index, n, values.array.size, *values, *rows, *out)
        launch("batches", "take", np.float32, *one_each(batch, n), arguments)
