"""Optimiser updates: one pass over the flat buffers, with the norms of parameter and update on demand.

Spans and penalties come from the host. They are put on the GPU when they are first seen, and found by their content
from then on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..interface import Array
from .batch import Batch, Stack, alone, part, scalars
from .device import launch, xp
from .layout import THREADS, scratch

CHUNK = 2048
"""Elements of a block; a chunk lies in one tensor and ends where the buffer's next multiple of CHUNK begins."""
TABLES_KEPT = 256


@alone
def sgd(
    batch: Batch,
    param: Stack,
    grad: Stack,
    velocity: Stack,
    spans: Array,
    l2: Array,
    lr: float,
    momentum: float,
    nesterov: bool,
    norms: Stack | None,
) -> None:
    """`sgd` of the contract; for members l2 is [all members, k], a row for each member by its number."""
    numbers = scalars("sgd", batch, lr, momentum, nesterov)
    _update("sgd", batch, (param, grad, velocity), spans, (l2,), numbers, norms)


@alone
def adam(
    batch: Batch,
    param: Stack,
    grad: Stack,
    mean: Stack,
    square: Stack,
    spans: Array,
    l2: Array,
    decay: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    norms: Stack | None,
) -> None:
    """`adam` of the contract; for members l2 and decay are [all members, k], a row for each member by its number."""
    numbers = scalars("adam", batch, lr, beta1, beta2, eps, step)
    _update("adam", batch, (param, grad, mean, square), spans, (l2, decay), numbers, norms)


def _update(
    kernel: str,
    batch: Batch,
    buffers: tuple[Stack, ...],
    spans: Array,
    penalties: tuple[Array, ...],
    numbers: tuple[Any, ...],
    norms: Stack | None,
) -> None:
    tensors, dtype = len(spans), buffers[0].array.dtype
    if not tensors:
        return
    table = _chunks(_place(), np.ascontiguousarray(spans, np.int64).tobytes())
    factors = [_penalty(values) for values in penalties]
    batch.keep(table, *(factor.array for factor in factors))
    parts = None if norms is None else scratch(batch, (table.blocks, 2), np.float64)
    if table.blocks:
        given = [value for stack in (*buffers, *factors) for value in stack]
        arguments = (batch.index, table.chunks, *given, *part(parts), *numbers)
        launch("updates", kernel, dtype, (table.blocks, 1, len(batch.members)), THREADS, arguments)
    if norms is not None and parts is not None:
        grid = (tensors, 1, len(batch.members))
        launch("updates", "norm_sums", dtype, grid, THREADS, (batch.index, table.firsts, *parts, *norms))


class _Table(NamedTuple):
    """Chunks of spans on the GPU: (start, stop, tensor) [blocks, 3], and where those of each tensor begin [k + 1]."""

    blocks: int
    chunks: Array
    firsts: Array


@lru_cache(TABLES_KEPT)
def _chunks(place: tuple[int, int], spans: bytes) -> _Table:
    cut = _cut(np.frombuffer(spans, np.int64).reshape(-1, 2))
    firsts = np.searchsorted(cut[:, 2], np.arange(len(spans) // 16 + 1))
    return _Table(len(cut), xp.asarray(cut), xp.asarray(firsts))


def _cut(spans: Array) -> Array:
    """The chunks of spans, as rows.

    >>> _cut(np.array([[0, 3000], [3008, 3008], [3008, 3010]])).tolist()
    [[0, 2048, 0], [2048, 3000, 0], [3008, 3010, 2]]
    """
    rows = [
        (max(start, first), min(stop, first + CHUNK), tensor)
        for tensor, (start, stop) in enumerate(spans.tolist())
        for first in range(start // CHUNK * CHUNK, stop, CHUNK)
        if start < stop
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def _penalty(values: Array) -> Stack:
    values = np.ascontiguousarray(values, np.float64)
    return Stack(_reals(_place(), values.tobytes()), values.shape[1] if values.ndim == 2 else 0)


@lru_cache(TABLES_KEPT)
def _reals(place: tuple[int, int], values: bytes) -> Array:
    return xp.asarray(np.frombuffer(values, np.float64))


def _place() -> tuple[int, int]:
    """The GPU and the stream that a table is copied to and on: on another stream it might not have arrived."""
    return xp.cuda.runtime.getDevice(), xp.cuda.get_current_stream().ptr
