"""Factors of a product, copied into the order in which tiles read them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..interface import Array
from .compiling import helper, primitive
from .memory import LINE_BYTES, prefetch
from .tile import VECTOR_BYTES, lanes_of

ROWS_AHEAD = 4
"""How far ahead of the copy rows are asked for."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def masked_load(builder: Any, vector: Any, bits: int, place: Any, mask: Any) -> Any:
    """A vector from memory; where the mask is not set, nothing is read, and there is 0."""
    lanes, pointer = vector.count, vector.as_pointer()
    kind = ir.FunctionType(vector, [pointer, _I32, ir.VectorType(ir.IntType(1), lanes), vector])
    load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{lanes}f{bits}.p0")
    zero = ir.Constant(vector, [0.0] * lanes)
    return builder.call(load, [builder.bitcast(place, pointer), _I32(bits // 8), mask, zero])


def first_lanes(builder: Any, lanes: int, count: Any) -> Any:
    """A mask of the first `count` elements of a vector, all if it has no more."""
    numbers = ir.VectorType(_I32, lanes)
    nothing = ir.Constant(numbers, ir.Undefined)
    first = builder.insert_element(nothing, builder.trunc(count, _I32), _I32(0))
    width = builder.shuffle_vector(first, nothing, ir.Constant(numbers, [0] * lanes))
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(lanes))), width)


def _make_copy(masked: bool) -> Any:
    """The function that copies as many elements as a vector has; masked: from the `count`-th on they are 0."""

    @primitive
    def copy(typing_context: Any, b: Any, b_start: Any, count: Any, panel: Any, panel_start: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = b.dtype.bitwidth
            lanes = VECTOR_BYTES * 8 // bits
            vector = ir.VectorType(context.get_value_type(b.dtype), lanes)
            source, target = (
                builder.bitcast(
                    builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]]),
                    vector.as_pointer(),
                )
                for i in (0, 3)
            )
            if masked:
                value = masked_load(builder, vector, bits, source, first_lanes(builder, lanes, args[2]))
            else:
                value = builder.load(source, align=bits // 8)
            builder.store(value, target, align=bits // 8)
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


def _make_transposition(masked: bool) -> Any:
    """The function that transposes a square, as many rows as a vector has elements, in registers.

    In step d = 1, 2, 4, ... rows i and i + d exchange the elements in which their positions differ by bit d.

    masked: beyond `rows` and `columns` it is 0; otherwise it is whole, and neither is asked for.
    """

    @primitive
    def transpose(
        typing_context: Any,
        b: Any,
        b_start: Any,
        b_row: Any,
        rows: Any,
        columns: Any,
        panel: Any,
        panel_start: Any,
        pitch: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            lanes = VECTOR_BYTES * 8 // b.dtype.bitwidth
            align = b.dtype.bitwidth // 8
            vector = ir.VectorType(context.get_value_type(b.dtype), lanes)

            def rows_of(i: int, start: Any, row: Any) -> list[Any]:
                data = builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [start])
                steps = [builder.mul(row, _I64(k)) for k in range(lanes)]
                return [builder.bitcast(builder.gep(data, [step]), vector.as_pointer()) for step in steps]

            inside = first_lanes(builder, lanes, args[4])
            rows = []
            for k, place in enumerate(rows_of(0, args[1], args[2])):
                if masked:
                    there = builder.icmp_signed("<", _I64(k), args[3])
                    mask = builder.select(there, inside, ir.Constant(inside.type, [0] * lanes))
                    rows.append(masked_load(builder, vector, b.dtype.bitwidth, place, mask))
                else:
                    rows.append(builder.load(place, align=align))
            d = 1
            while d < lanes:
                upper = [k if not k & d else lanes + k - d for k in range(lanes)]
                lower = [k + d if not k & d else lanes + k for k in range(lanes)]
                for i in range(lanes):
                    if not i & d:
                        pair = rows[i], rows[i + d]
                        for target, order in ((i, upper), (i + d, lower)):
                            chosen = ir.Constant(ir.VectorType(_I32, lanes), order)
                            rows[target] = builder.shuffle_vector(*pair, chosen)
                d *= 2
            for value, place in zip(rows, rows_of(5, args[6], args[7]), strict=True):
                builder.store(value, place, align=align)
            return context.get_dummy_value()

        n = types.int64
        return types.void(b, n, n, n, n, panel, n, n), generate

    return transpose


_transpose_square, _transpose_some = _make_transposition(masked=False), _make_transposition(masked=True)


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
                _transpose_square(b, start, row, lanes, lanes, panel, k * pitch + j, pitch)
            else:
                _transpose_some(b, start, row, width - j, depth - k, panel, k * pitch + j, pitch)
        j -= lanes
