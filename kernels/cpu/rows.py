"""A kernel call as a row of numbers: what to do, sizes, addresses; the columns that the tables of `program` have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .affine import affine, affine_backward, affine_relu_dropout, affine_relu_dropout_backward
from .batches import gather
from .softmax import softmax_cross_entropy
from .updates import adam, sgd

Call = tuple[Callable[..., Any], list[Any], int | None]
"""A function, its arguments, and the member of a population whose call it is; None where it is everybody's."""
Place = tuple[Any, Any]
Row = tuple[list[Any], list[Any], Any]

NOTHING = -1
AFFINE, AFFINE_BACKWARD, FUSED, FUSED_BACKWARD, CROSS_ENTROPY, SCALE, TAKE, GATHER, ADAM, SGD = range(10)
UPDATE, INTEGERS, NUMBERS = 14, 17, 4
"""Columns of the two tables: the operation, three sizes (the third of an update: how many norms are measured of each
tensor), whole numbers and addresses; real numbers. From `UPDATE` on:
for a gradient of weights, the row of its update (or -1), the address of its velocity, and its place among the norms."""
ADDRESSES = {
    AFFINE: (4, 5, 6, 7),
    AFFINE_BACKWARD: (4, 5, 6, 7, 8, 9),
    FUSED: (4, 5, 6, 7),
    FUSED_BACKWARD: (4, 5, 6, 7, 8, 9, 10, 11),
    CROSS_ENTROPY: (4, 5, 6, 7),
    SCALE: (4, 5, 6),
    TAKE: (4, 5, 6),
    GATHER: (4, 5, 6, 7, 8),
    ADAM: (4, 5, 6, 7, 8, 9, 10, 11),
    SGD: (4, 5, 6, 7, 8, 10),
}
"""The columns of a row that hold addresses of arrays that a step may be given anew."""
ROWS_OF = {np.dtype(np.uint8): 0, np.dtype(np.float32): 1, np.dtype(np.float64): 2}
"""The types that rows may have when they are gathered into minibatches, as a number in the table."""


def row_of(function: Callable[..., Any], a: list[Any]) -> Row | None:
    """The cells of a call as (position of the argument or None, value), or None if it has no code.

    The dtype that comes with them is None for calls that take no floating arrays.
    """
    if function is affine:
        return _cells(AFFINE, a[0], a[3], [a[0], a[1], a[2], a[3]])
    if function is affine_relu_dropout:
        live = [(3, a[3]), (5, a[5]), (6, a[6]), (7, a[7])]
        return _cells(FUSED, a[0], a[8], [a[0], a[1], a[2], a[8]], live, [(4, a[4])])
    if function is affine_backward and a[4] is not None and a[5] is not None:
        return _cells(AFFINE_BACKWARD, a[1], a[0], [a[1], a[2], a[5], a[0], a[4], a[3]])
    if function is affine_relu_dropout_backward and a[7] is not None and a[8] is not None:
        arrays = [a[1], a[2], a[8], a[3], a[7], a[6], a[0], a[5]]
        return _cells(FUSED_BACKWARD, a[1], a[3], arrays, [], [(4, a[4])])
    if function is softmax_cross_entropy and a[2] is None:
        return _cells(CROSS_ENTROPY, a[0], a[0], [a[0], a[1], a[3], a[4]])
    if function is gather:
        data, rows, mean, scale, out = a
        if data.dtype in ROWS_OF and mean.dtype == scale.dtype == out.dtype:
            sizes = [(None, GATHER), (None, len(rows)), (None, data.shape[1]), (None, len(data))]
            return [*sizes, *addresses_of(a), (None, ROWS_OF[data.dtype])], [], out.dtype
    if function is sgd:
        sizes = [(None, SGD), (None, a[0].size), (None, len(a[3])), (None, _columns_of(a[8]))]
        return [*sizes, *addresses_of(a[:5]), (7, a[7]), *addresses_of([a[8]])], [(5, a[5]), (6, a[6])], a[0].dtype
    if function is adam:
        sizes = [(None, ADAM), (None, a[0].size), (None, len(a[4])), (None, _columns_of(a[12]))]
        reals = [(7, a[7]), (8, a[8]), (9, a[9]), (10, a[10])]
        return [*sizes, *addresses_of([*a[:7], a[12]]), (11, a[11])], reals, a[0].dtype
    return _array_row(getattr(function, "func", None), getattr(function, "keywords", {}), a)


def _array_row(function: Any, keywords: dict[str, Any], a: list[Any]) -> Row | None:
    """`row_of` a function of NumPy that writes into `out`."""
    out: Any = keywords.get("out")
    arrays = [*a, out]
    if len(a) != 2 or not all(isinstance(v, np.ndarray) and v.flags.c_contiguous for v in arrays):
        return None
    first, second = a
    sizes = [(None, out.size), (None, first.size), (None, 0), *addresses_of(arrays)]
    alike = first.dtype == second.dtype == out.dtype
    if function is np.multiply and set(keywords) == {"out"} and alike and out.dtype.kind == "f":
        return ([(None, SCALE), *sizes], [], out.dtype) if first.ndim == 0 and second.shape == out.shape else None
    if function is np.take and keywords.get("mode") == "clip" and alike and out.dtype == np.int64 and first.ndim == 1:
        return [(None, TAKE), *sizes], [], None
    return None


def _cells(
    code: int, x: Any, y: Any, arrays: list[Any], live: list[Any] | None = None, numbers: list[Any] | None = None
) -> Row:
    """A row for x [n, i] and y [n, o], addresses of arrays (0 for None), whole and real numbers."""
    sizes = [(None, code), (None, len(x)), (None, x.shape[1]), (None, y.shape[1])]
    return [*sizes, *addresses_of(arrays), *(live or [])], numbers or [], x.dtype


def _columns_of(norms: Any) -> int:
    return 0 if norms is None else int(norms.shape[1])


def addresses_of(arrays: Sequence[Any]) -> list[tuple[None, int]]:
    return [(None, address_of(array)) for array in arrays]


def address_of(array: Any) -> int:
    return 0 if array is None else int(array.ctypes.data)
