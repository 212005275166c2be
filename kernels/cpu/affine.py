"""Affine maps: one matrix product by the BLAS that SciPy ships, and everything else in one pass over its result."""

from __future__ import annotations

import numpy as np

from ..interface import Array
from .compiling import helper, kernel
from .philox import random_lanes

EPILOGUE_ELEMENTS = 4096
"""Elements an epilogue handles at a time: their lanes and values stay in the first-level cache."""


@helper
def _product(a: Array, b: Array, out: Array) -> None:
    if a.size == 0 or b.size == 0:
        # BLAS refuses leading dimensions of zero; an empty sum is zero.
        out[:, :] = 0
    else:
        np.dot(a, b, out)


@helper
def _column_sums(a: Array, out: Array) -> None:
    out[:] = 0
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[j] += a[i, j]


@kernel
def affine(x: Array, w: Array, b: Array, out: Array) -> None:
    _product(x, w, out)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += b[j]


@kernel
def affine_backward(dy: Array, x: Array, w: Array, dx: Array | None, dw: Array | None, db: Array | None) -> None:
    if dx is not None:
        _product(dy, w.T, dx)
    if dw is not None:
        _product(x.T, dy, dw)
    if db is not None:
        _column_sums(dy, db)


@kernel
def affine_relu_dropout(
    x: Array,
    w: Array,
    b: Array,
    threshold: int,
    scale: float,
    seed: int,
    draw: int,
    stream: int,
    out: Array,
) -> None:
    _product(x, w, out)
    rows, columns = out.shape
    zero = out.dtype.type(0)
    factor = out.dtype.type(scale)
    if threshold == 65536:
        for i in range(rows):
            for j in range(columns):
                v = out[i, j] + b[j]
                out[i, j] = zero if v <= 0 else v * factor
        return
    last = np.uint16(threshold - 1)
    group = max(1, EPILOGUE_ELEMENTS // max(1, columns))
    words = np.empty(4 * (group * columns // 8 + 2), np.uint32)
    lanes = words.view(np.uint16)
    for top in range(0, rows, group):
        bottom = min(top + group, rows)
        first_block = top * columns // 8
        blocks = (bottom * columns + 7) // 8 - first_block
        random_lanes(first_block, seed, draw, stream, words[: 4 * blocks])
        for i in range(top, bottom):
            row_lanes = lanes[i * columns - 8 * first_block :]
            for j in range(columns):
                v = out[i, j] + b[j]
                active = zero if v <= 0 else v * factor
                out[i, j] = active if row_lanes[j] <= last else zero


@kernel
def affine_relu_dropout_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array,
    scale: float,
    dz: Array,
    dx: Array | None,
    dw: Array | None,
    db: Array | None,
) -> None:
    zero = dy.dtype.type(0)
    factor = dy.dtype.type(scale)
    if db is not None:
        db[:] = 0
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            dz[i, j] = dy[i, j] * factor if y[i, j] > 0 else zero
        if db is not None:
            for j in range(dy.shape[1]):
                db[j] += dz[i, j]
    if dx is not None:
        _product(dz, w.T, dx)
    if dw is not None:
        _product(x.T, dz, dw)
