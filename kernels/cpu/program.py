"""A list of kernel calls as one compiled call.

Calling a compiled function from Python costs about as much as a small kernel takes. `fuse` writes consecutive calls
into a table (what to do, addresses, sizes, numbers) that one compiled function works through. The kernels are the same,
and so is every bit of their results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, types
from numba.core import cgutils

from .affine import (
    affine,
    affine_backward,
    affine_relu_dropout,
    affine_relu_dropout_backward,
    backward,
    backward_masked,
)
from .compiling import kernel, primitive
from .softmax import softmax_cross_entropy
from .updates import sgd

Call = tuple[Callable[..., Any], list[Any]]
Place = tuple[Any, Any]

AFFINE, AFFINE_BACKWARD, FUSED, FUSED_BACKWARD, CROSS_ENTROPY, SCALE, SGD = range(7)
UPDATE, INTEGERS, NUMBERS = 12, 16, 2
"""Columns of the two tables: the operation, sizes, whole numbers and addresses; real numbers. From `UPDATE` on: for a
gradient of weights, the row of its update (or -1) and the address of its velocity."""


@primitive
def _pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@kernel
def run(table: Any, numbers: Any, like: Any) -> None:
    """Make the calls of a table; `like` has the dtype of all floating arrays in it."""
    for r in range(table.shape[0]):
        code, n, i, o = table[r, 0], table[r, 1], table[r, 2], table[r, 3]
        if code == SCALE:
            factor = carray(_pointer(table[r, 4]), (1,), like.dtype)
            source = carray(_pointer(table[r, 5]), (n,), like.dtype)
            target = carray(_pointer(table[r, 6]), (n,), like.dtype)
            for j in range(n):
                target[j] = factor[0] * source[j]
        elif code == CROSS_ENTROPY:
            softmax_cross_entropy(
                carray(_pointer(table[r, 4]), (n, o), like.dtype),
                carray(_pointer(table[r, 5]), (n,), np.int64),
                None,
                carray(_pointer(table[r, 6]), (1,), like.dtype),
                carray(_pointer(table[r, 7]), (n, o), like.dtype),
            )
        elif code == SGD:
            sgd(
                carray(_pointer(table[r, 4]), (n,), like.dtype),
                carray(_pointer(table[r, 5]), (n,), like.dtype),
                carray(_pointer(table[r, 6]), (n,), like.dtype),
                carray(_pointer(table[r, 7]), (i, 2), np.int64),
                carray(_pointer(table[r, 8]), (i,), np.float64),
                numbers[r, 0],
                numbers[r, 1],
                table[r, 9] != 0,
                None,
            )
        else:
            x = carray(_pointer(table[r, 4]), (n, i), like.dtype)
            w = carray(_pointer(table[r, 5]), (i, o), like.dtype)
            b = carray(_pointer(table[r, 6]), (o,), like.dtype)
            y = carray(_pointer(table[r, 7]), (n, o), like.dtype)
            if code == AFFINE:
                affine(x, w, b, y)
            elif code == FUSED:
                affine_relu_dropout(x, w, b, table[r, 8], numbers[r, 0], table[r, 9], table[r, 10], table[r, 11], y)
            else:
                dw = carray(_pointer(table[r, 8]), (i, o), like.dtype)
                dx = carray(_pointer(table[r, 9]), (n, i), like.dtype)
                # The update that comes later in the table, done while this gradient is in the cache.
                s = max(table[r, UPDATE], 0)
                velocity = carray(_pointer(table[r, UPDATE + 1]), (i, o), like.dtype)
                number = like.dtype.type
                rate, momentum, nesterov = number(numbers[s, 0]), number(numbers[s, 1]), table[s, 9] != 0
                update = (velocity, table[r, UPDATE] >= 0, (number(numbers[r, 1]), rate, momentum, nesterov))
                if code == AFFINE_BACKWARD:
                    backward(y, x, w, dx, table[r, 9] != 0, dw, b, update)
                else:
                    dy = carray(_pointer(table[r, 10]), (n, o), like.dtype)
                    dz = carray(_pointer(table[r, 11]), (n, o), like.dtype)
                    backward_masked(dy, x, w, y, number(numbers[r, 0]), dz, dx, table[r, 9] != 0, dw, b, update)


def fuse(calls: list[Call]) -> tuple[list[Call], dict[tuple[int, int], Place]]:
    """The same calls with as many as possible joined, and where their arguments went.

    The second result maps (id of an argument list, position) to the table cell that holds this argument now: a number
    that changes between replays is written there.
    """
    joined: list[Call] = []
    moved: dict[tuple[int, int], Place] = {}
    rows: list[tuple[list[Any], list[Any], list[Any], Any]] = []

    def flush() -> None:
        if len(rows) > 1:
            table, numbers = np.zeros((len(rows), INTEGERS), np.int64), np.zeros((len(rows), NUMBERS))
            table[:, UPDATE] = -1
            for r, (arguments, cells, reals, _) in enumerate(rows):
                for target, row in ((table, cells), (numbers, reals)):
                    for c, (position, value) in enumerate(row):
                        target[r, c] = value
                        if position is not None:
                            moved[id(arguments), position] = (target, (r, c))
            kept = [_update_early(table, numbers, r, pending) for r in range(len(rows)) if table[r, 0] == SGD]
            joined.append((_keeping([*pending, *kept]), [table, numbers, np.empty(0, rows[0][3])]))
        else:
            joined.extend(pending)
        rows.clear()
        pending.clear()

    pending: list[Call] = []
    for function, arguments in calls:
        row = _row(function, arguments)
        if row is None or (rows and row[2] != rows[0][3]):
            flush()
        if row is None:
            joined.append((function, arguments))
        else:
            rows.append((arguments, row[0], row[1], row[2]))
            pending.append((function, arguments))
    flush()
    return joined, moved


def _update_early(table: Any, numbers: Any, s: int, calls: list[Call]) -> tuple[Any, Any]:
    """Let gradients that row s uses update their weights as they are computed; the spans and penalties left to row s.

    That is allowed where no call between the two touches the weights, their gradient or their velocity, in whatever
    larger or smaller piece.
    """
    *buffers, spans, l2 = calls[s][1][:5]
    left = []
    for k, (start, stop) in enumerate(spans.tolist()):
        parts = [buffer[start:stop] for buffer in buffers]
        param, grad, velocity = map(_address, parts)
        made = [r for r in range(s) if table[r, 0] in (AFFINE_BACKWARD, FUSED_BACKWARD) and table[r, 8] == grad]
        r = made[-1] if made else s
        touched = any(np.may_share_memory(array, part) for array in _arrays(calls[r + 1 : s]) for part in parts)
        if r < s and table[r, 5] == param and table[r, 2] * table[r, 3] == stop - start and not touched:
            table[r, UPDATE : UPDATE + 2] = s, velocity
            numbers[r, 1] = l2[k]
        else:
            left.append(k)
    rest = np.ascontiguousarray(spans[left]), np.ascontiguousarray(l2[left])
    table[s, 2], table[s, 7], table[s, 8] = len(left), _address(rest[0]), _address(rest[1])
    return rest


def _arrays(calls: list[Call]) -> list[Any]:
    """Every array that these calls read or write."""
    values = [v for function, given in calls for v in (*given, *getattr(function, "keywords", {}).values())]
    return [value for value in values if isinstance(value, np.ndarray)]


def _keeping(calls: list[Any]) -> Callable[..., None]:
    """`run`, holding on to the arrays whose addresses it is given."""
    call = functools.partial(run)
    call.calls = calls  # type: ignore[attr-defined]
    return call


def _row(function: Callable[..., Any], a: list[Any]) -> tuple[list[Any], list[Any], Any] | None:
    """The cells of a call as (position of the argument or None, value), or None if it has no code."""
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
    if function is sgd and a[8] is None:
        sizes = [(None, SGD), (None, a[0].size), (None, len(a[3])), (None, 0)]
        addresses = [(None, _address(array)) for array in a[:5]]
        return [*sizes, *addresses, (7, a[7])], [(5, a[5]), (6, a[6])], a[0].dtype
    if getattr(function, "func", None) is np.multiply:
        out, (factor, source) = function.keywords["out"], a  # type: ignore[attr-defined]
        both = isinstance(factor, np.ndarray) and isinstance(source, np.ndarray)
        same = both and out.dtype.kind == "f" and out.dtype == factor.dtype == source.dtype
        if same and factor.ndim == 0 and source.shape == out.shape and source.flags.c_contiguous:
            sizes = [(None, SCALE), (None, out.size), (None, 0), (None, 0)]
            return [*sizes, *[(None, _address(array)) for array in (factor, source, out)]], [], out.dtype
    return None


def _cells(
    code: int, x: Any, y: Any, arrays: list[Any], live: list[Any] | None = None, numbers: list[Any] | None = None
) -> tuple[list[Any], list[Any], Any]:
    """A row for x [n, i] and y [n, o], addresses of arrays (0 for None), whole and real numbers."""
    sizes = [(None, code), (None, len(x)), (None, x.shape[1]), (None, y.shape[1])]
    addresses = [(None, _address(array)) for array in arrays]
    return [*sizes, *addresses, *(live or [])], numbers or [], x.dtype


def _address(array: Any) -> int:
    return 0 if array is None else int(array.ctypes.data)
