"""Affine maps: products by cuBLAS, and one pass over what goes in or comes out of them."""

from __future__ import annotations

from collections.abc import Callable

from .batch import Batch, Stack, alone, part, scalars
from .device import launch
from .layout import Grid, columns, flat, scratch
from .products import product

ROWS_OF_ONE_TILE = 256
"""Up to so many rows are summed by one block: a second launch would take longer."""
ROWS, TILES = 64, 512
"""More are cut into tiles of at least ROWS rows, and at most about TILES tiles."""


@alone
def affine(batch: Batch, x: Stack, w: Stack, b: Stack, out: Stack) -> None:
    product(batch, x, w, out)
    size = out.array.size
    if size:
        arguments = (batch.index, size, out.array.shape[1], *b, *out)
        launch("affine", "add_bias", out.array.dtype, *flat(batch, size), arguments)


@alone
def affine_backward(
    batch: Batch, dy: Stack, x: Stack, w: Stack, dx: Stack | None, dw: Stack | None, db: Stack | None
) -> None:
    _products(batch, dy, x, w, dx, dw)
    if db is not None:
        _by_tiles(batch, dy, db, lambda grid, block, rows, sums: _column_sums(batch, grid, block, rows, dy, sums))


@alone
def affine_relu_dropout(
    batch: Batch,
    x: Stack,
    w: Stack,
    b: Stack,
    threshold: int,
    scale: float,
    seed: int,
    draw: int,
    stream: int,
    out: Stack,
) -> None:
    product(batch, x, w, out)
    size = out.array.size
    if size:
        numbers = scalars("affine_relu_dropout", batch, threshold, scale, seed, draw, stream)
        arguments = (batch.index, size, out.array.shape[1], *b, *out, *numbers)
        launch("affine", "add_bias_relu_dropout", out.array.dtype, *flat(batch, size), arguments)


@alone
def affine_relu_dropout_backward(
    batch: Batch,
    dy: Stack,
    x: Stack,
    w: Stack,
    y: Stack,
    scale: float,
    dz: Stack,
    dx: Stack | None,
    dw: Stack | None,
    db: Stack | None,
) -> None:
    def run(grid: Grid, block: Grid, rows: int, sums: Stack | None) -> None:
        numbers = scalars("affine_relu_dropout_backward", batch, scale)
        arguments = (batch.index, *dy.array.shape, rows, *dy, *y, *dz, *part(sums), *numbers)
        launch("affine", "relu_dropout_backward", dy.array.dtype, grid, block, arguments)

    _by_tiles(batch, dy, db, run)
    _products(batch, dz, x, w, dx, dw)


def _products(batch: Batch, dy: Stack, x: Stack, w: Stack, dx: Stack | None, dw: Stack | None) -> None:
    if dx is not None:
        product(batch, dy, w, dx, transpose_b=True)
    if dw is not None:
        product(batch, x, dy, dw, transpose_a=True)


def _by_tiles(batch: Batch, x: Stack, sums: Stack | None, run: Callable[[Grid, Grid, int, Stack | None], None]) -> None:
    """Sum the rows of x by ``run(blocks, threads, rows of a tile, sums of tiles)``, and the sums of tiles after it.

    The order is fixed by the shape of x; no sum depends on which block comes first.
    """
    n, o = x.array.shape
    if not o:
        return
    across, block = columns(o, x.array.dtype.itemsize)
    rows = n if n <= ROWS_OF_ONE_TILE else max(ROWS, -(-n // TILES))
    tiles = max(1, -(-n // max(1, rows)))
    grid = (across, tiles, len(batch.members))
    if sums is None or tiles == 1:
        run(grid, block, rows, sums)
        return
    of_tiles = scratch(batch, (tiles, o), x.array.dtype)
    run(grid, block, rows, of_tiles)
    _column_sums(batch, (across, 1, len(batch.members)), block, tiles, of_tiles, sums)


def _column_sums(batch: Batch, grid: Grid, block: Grid, rows: int, x: Stack, sums: Stack | None) -> None:
    arguments = (batch.index, *x.array.shape, rows, *x, *part(sums))
    launch("affine", "column_sums", x.array.dtype, grid, block, arguments)
