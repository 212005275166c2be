"""Factors of a product, copied into the order in which tiles read them."""

from __future__ import annotations

from typing import Any

from numba import types

from ..aligned import LINE_BYTES
from ..interface import Array
from .compiling import helper, primitive
from .memory import prefetch
from .transposing import gate_some, gate_square, transpose_some, transpose_square
from .vectors import Vector, lanes_of

PACKED_AT_ONCE = 1 << 16
"""Elements of a factor that are packed at a time: they stay in the second-level cache."""
ROWS_AHEAD = 4
"""How far ahead of the copy rows are asked for."""


def _make_copy(masked: bool) -> Any:
    """The function that copies as many elements as a vector has; masked: from the `count`-th on they are 0."""

    @primitive
    def copy(typing_context: Any, b: Any, b_start: Any, count: Any, panel: Any, panel_start: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = Vector(context, builder, b.dtype)
            source, target = (
                builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]])
                for i in (0, 3)
            )
            vector.store(vector.load(source, vector.first(args[2]) if masked else None), target)
            return context.get_dummy_value()

        n = types.int64
        return types.void(b, n, n, panel, n), generate

    return copy


_copy_vector, _copy_some = _make_copy(masked=False), _make_copy(masked=True)


@helper
def pack(
    b: Array,
    top: int,
    depth: int,
    left: int,
    width: int,
    panels: Array,
    room: int,
    pitch: int,
    last_left: int,
    last_pitch: int,
) -> None:
    """Copy ``b[top : top + depth, left : left + width]`` into panels of `pitch` columns, one each `room` elements.

    The last panel, which begins in column `last_left`, may be wider: its rows are `last_pitch` elements apart.

    Row by row through all of them: pieces as narrow as a panel would wait for memory at each row. Both pitches are
    multiples of what a vector holds, and the last vector of a row is filled with 0.
    """
    lanes = lanes_of(b)
    last_place = last_left // pitch * room
    for k in range(depth):
        if width > pitch:
            # A row is a page of its own where the factor is wide: nobody else guesses which one comes next.
            ahead = (top + k + ROWS_AHEAD) * b.shape[1] + left
            for offset in range(0, width * b.itemsize, LINE_BYTES):
                prefetch(b, ahead, offset)
        start, place, j = (top + k) * b.shape[1] + left, k * pitch, 0
        # A range with a step begins with a division.
        while j < last_left:
            for i in range(0, pitch, lanes):
                _copy_vector(b, start + j + i, lanes, panels, place + i)
            j += pitch
            place += room
        place = last_place + k * last_pitch
        while j + lanes <= width:
            _copy_vector(b, start + j, lanes, panels, place)
            j += lanes
            place += lanes
        if j < width:
            _copy_some(b, start + j, width - j, panels, place)


@helper
def pack_transposed(b: Array, top: int, depth: int, left: int, width: int, panel: Array, pitch: int) -> None:
    """Copy ``b.T[top : top + depth, left : left + width]`` into rows of `pitch` elements, in whole squares.

    The panel has room for as many rows as fill the last square, and for a vector behind them. Columns are written from
    the last ones to the first: what the last square has too many lands in rows whose beginning is still to come, so
    that rows may lie end to end, as long as what is wanted of them.
    """
    lanes = lanes_of(b)
    row = b.shape[1]
    j = (width - 1) // lanes * lanes
    while j >= 0:
        for k in range(0, depth, lanes):
            start = (left + j) * row + top + k
            if j + lanes <= width and k + lanes <= depth:
                transpose_square(b, start, row, lanes, lanes, panel, k * pitch + j, pitch)
            else:
                transpose_some(b, start, row, width - j, depth - k, panel, k * pitch + j, pitch)
        j -= lanes


@helper
def pack_gated(
    dy: Array, y: Array, factor: float, left: int, width: int, sums: Array, panel: Array, start: int, pitch: int
) -> None:
    """``(dy * factor where y > 0).T`` for some columns, to rows of `panel` from element `start` on, in whole squares.

    sums: receives the sums of these columns, in the order of the rows, and has room for whole vectors.
    """
    lanes = lanes_of(dy)
    rows, row = dy.shape
    sums[: (width + lanes - 1) // lanes * lanes] = 0
    for j in range(0, rows, lanes):
        for k in range(0, width, lanes):
            begin, target = j * row + left + k, start + k * pitch + j
            if j + lanes <= rows and k + lanes <= width:
                gate_square(dy, y, factor, begin, row, lanes, lanes, sums, k, panel, target, pitch)
            else:
                gate_some(dy, y, factor, begin, row, rows - j, width - k, sums, k, panel, target, pitch)
