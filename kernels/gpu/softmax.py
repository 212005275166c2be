"""The losses, each with its gradient in the same launch. Sums are taken in float64 whatever the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .batch import Batch, Stack, alone, part
from .device import launch
from .layout import THREADS, WARP, Grid, scratch

CLASSES_A_THREAD = 4
CLASSES_OF_A_WARP = 1024
"""A row of more classes is computed by a block."""
LARGEST_BLOCK = 1024
THREADS_OF_ONE_BLOCK = 4096
"""Up to so many are done by one block, in turns: a second launch, for the sum of several blocks, would take longer."""
BLOCKS = 1024
"""At most, of a member."""
VALUES_A_THREAD = 16

_ONE_BLOCK = 8192


@alone
def softmax_cross_entropy(
    batch: Batch, logits: Stack, labels: Stack, weights: Stack | None, loss: Stack, dlogits: Stack
) -> None:
    n, classes = logits.array.shape
    dtype = logits.array.dtype
    total_weight = None
    if weights is not None:
        total_weight = scratch(batch, (1,), np.float64)
        arguments = (batch.index, n, *weights, *total_weight)
        launch("softmax", "weight_sum", dtype, (1, 1, len(batch.members)), LARGEST_BLOCK, arguments)
    lanes, blocks, threads = _rows(n, classes)

    def run(grid: Grid, parts: Stack | None) -> None:
        given = (*logits, *labels, *part(weights), *part(total_weight), *loss, *part(parts), *dlogits)
        launch("softmax", "softmax_rows", dtype, grid, threads, (batch.index, n, classes, lanes, *given))

    _summed(batch, blocks, loss, run)


@alone
def mean_squared_error(batch: Batch, prediction: Stack, target: Stack, loss: Stack, dprediction: Stack) -> None:
    n = prediction.array.size
    blocks = 1 if n <= _ONE_BLOCK else min(BLOCKS, -(-n // (THREADS * VALUES_A_THREAD)))

    def run(grid: Grid, parts: Stack | None) -> None:
        arguments = (batch.index, n, *prediction, *target, *loss, *part(parts), *dprediction)
        launch("softmax", "squared_error", prediction.array.dtype, grid, THREADS, arguments)

    _summed(batch, blocks, loss, run)


def _rows(n: int, classes: int) -> tuple[int, int, int]:
    """Threads that share a row, blocks, and threads of a block; of the shape alone, as the order of sums is.

    >>> _rows(128, 10), _rows(100_000, 10), _rows(4, 5000)
    ((4, 1, 512), (4, 1024, 256), (256, 4, 256))
    """
    if classes > CLASSES_OF_A_WARP:
        return THREADS, max(1, min(BLOCKS, n)), THREADS
    wanted = -(-classes // CLASSES_A_THREAD)
    lanes = min(WARP, 2 ** (wanted - 1).bit_length())
    whole_warps = max(1, -(-n * lanes // WARP)) * WARP
    if n * lanes <= THREADS_OF_ONE_BLOCK:
        return lanes, 1, min(LARGEST_BLOCK, whole_warps)
    return lanes, min(BLOCKS, -(-n * lanes // THREADS)), THREADS


def _summed(batch: Batch, blocks: int, loss: Stack, run: Callable[[Grid, Stack | None], None]) -> None:
    """Have ``run(blocks, parts)`` compute the loss, or its parts, which are summed."""
    grid = (blocks, 1, len(batch.members))
    if blocks == 1:
        run(grid, None)
        return
    parts = scratch(batch, (blocks,), np.float64)
    run(grid, parts)
    arguments = (batch.index, blocks, *parts, *loss)
    launch("softmax", "loss_sum", loss.array.dtype, (1, 1, len(batch.members)), THREADS, arguments)
