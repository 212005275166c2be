"""Columns of a product behind its last whole vector, each element a dot product of a row and a column.

A tile computes two columns of fifty in the time of sixteen: its vectors hold neighbouring columns. Here they hold
neighbouring terms of one sum, which so becomes as many chains as a cache line holds numbers, added up in pairs at the
end. Which columns these are, and how many chains a sum or a half of it has (see `affine.forward`), depends on the shape
of the right factor alone: not on the rows computed, on the processor, or on whether zeros are skipped elsewhere.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types

from ..aligned import LINE_BYTES
from ..interface import Array
from .addresses import caller, further, publish
from .board import DOTS32, DOTS64
from .compiling import helper, kernel, primitive
from .tile import ACCUMULATORS, summing_loop
from .vectors import Vector

ADDRESSES = {types.float32: DOTS32, types.float64: DOTS64}
"""For each dtype, the word of the board that holds the address of its compiled `dots`."""
ROWS = ACCUMULATORS // 4
"""Of a tile: with two columns, and vectors half as long as a cache line where there are few registers, all sums fit."""
LEAST_DEPTH = 64
"""Terms of a sum from which adding up the chains is paid for."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _make_dots(rows: int, columns: int) -> Any:
    """The function that computes some rows of some columns; all its sums are in registers."""

    @primitive
    def some(typing_context: Any, a: Any, a_row: Any, b: Any, b_column: Any, depth: Any, c: Any, c_row: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_data, a_row, b_data, b_column, depth, c_data, c_row = args
            vector = Vector(context, builder, c.dtype, LINE_BYTES)
            everything = [(i, j) for i in range(rows) for j in range(columns)]
            a_rows = [builder.gep(a_data, [builder.mul(a_row, _I64(i))]) for i in range(rows)]
            b_columns = [builder.gep(b_data, [builder.mul(b_column, _I64(j))]) for j in range(columns)]

            def whole(base: Any, k: Any) -> Any:
                return vector.load(builder.gep(base, [k]))

            def rest(base: Any, k: Any) -> Any:
                # There may be nothing left. A load of nothing takes 0.1 us where there is no memory.
                place = builder.select(builder.icmp_signed("<", k, depth), builder.gep(base, [k]), base)
                return vector.load(place, mask)

            def accumulate(sums: dict[Any, Any], k: Any, read: Any) -> dict[Any, Any]:
                """The sums after the terms from k on that a vector holds."""
                right = [read(base, k) for base in b_columns]
                after = {}
                for i, base in enumerate(a_rows):
                    left = read(base, k)
                    for j in range(columns):
                        after[i, j] = vector.add_product(sums[i, j], left, right[j])
                return after

            def total(chains: Any) -> Any:
                """Of all chains: the upper half is added to the lower one until one is left."""
                count = vector.lanes
                while count > 1:
                    count //= 2
                    halves = []
                    for first in (0, count):
                        order = ir.Constant(ir.VectorType(_I32, count), list(range(first, first + count)))
                        halves.append(builder.shuffle_vector(chains, chains, order))
                    chains = builder.fadd(*halves)
                return builder.extract_element(chains, _I32(0))

            nothing = dict.fromkeys(everything, vector.zero)
            k, sums = summing_loop(builder, _I64(0), nothing, vector.lanes, depth, partial(accumulate, read=whole))
            mask = vector.first(builder.sub(depth, k))
            for (i, j), chains in accumulate(sums, k, rest).items():
                place = builder.gep(c_data, [builder.add(builder.mul(c_row, _I64(i)), _I64(j))])
                builder.store(total(chains), place)
            return context.get_dummy_value()

        n = types.int64
        return types.void(a, n, b, n, n, c, n), generate

    return some


_pair, _pair_of_one, _single, _single_of_one = (_make_dots(*size) for size in ((ROWS, 2), (1, 2), (ROWS, 1), (1, 1)))


@kernel
def dots(a, b, c, a_row, b_column, depth, c_row, rows, columns):
    """What `times_columns` does, on addresses, for one column or two."""
    i = 0
    while i + ROWS <= rows:
        if columns == 2:
            _pair(further(a, i * a_row), a_row, b, b_column, depth, further(c, i * c_row), c_row)
        else:
            _single(further(a, i * a_row), a_row, b, b_column, depth, further(c, i * c_row), c_row)
        i += ROWS
    while i < rows:
        if columns == 2:
            _pair_of_one(further(a, i * a_row), a_row, b, b_column, depth, further(c, i * c_row), c_row)
        else:
            _single_of_one(further(a, i * a_row), a_row, b, b_column, depth, further(c, i * c_row), c_row)
        i += 1


publish(dots, ADDRESSES, 3, 6)
_call = caller(ADDRESSES)


@primitive
def _lanes(typing_context: Any, like: Any) -> Any:
    """How many elements of an array's dtype a cache line holds: as many chains a sum has, on every processor."""
    lanes = LINE_BYTES * 8 // like.dtype.bitwidth
    return types.int64(like), lambda context, builder, signature, args: _I64(lanes)


@helper
def columns_left(columns: int, depth: int, like: Array) -> int:
    """How many columns are computed here: those behind the last whole vector if they are few, or none."""
    lanes = _lanes(like)
    rest = columns % lanes
    return int(rest if columns > rest and 4 * rest <= lanes and depth >= LEAST_DEPTH else 0)


@helper
def room_for_columns(rest: int, depth: int, like: Array) -> int:
    """Elements of room for copies of so many columns: each begins on a cache line if the room does."""
    lanes = _lanes(like)
    return int(rest * ((depth + lanes - 1) // lanes * lanes))


@helper
def copy_columns(b: Array, rest: int, copies: Array) -> None:
    """The last `rest` columns of b, each end to end."""
    depth, columns = b.shape
    pitch = room_for_columns(1, depth, b)
    for j in range(0, rest, 2):
        # Neighbours are on one cache line, as a rule.
        other = min(j + 1, rest - 1)
        left, right = columns - rest + j, columns - rest + other
        one, two = copies[j * pitch : j * pitch + depth], copies[other * pitch : other * pitch + depth]
        for k in range(depth):
            one[k], two[k] = b[k, left], b[k, right]


@helper
def times_columns(a: Array, first: int, rows: int, copies: Array, rest: int, begin: int, end: int, c: Array) -> None:
    """``c[i, j] = sum_k a[i, k] b[k, j]`` for begin <= k < end, some rows, the last `rest` columns.

    copies: of these columns, by `copy_columns`.
    """
    pitch = room_for_columns(1, a.shape[1], c)
    for j in range(0, rest, 2):
        numbers = a.shape[1], pitch, end - begin, c.shape[1], rows, min(2, rest - j)
        place = (first + 1) * c.shape[1] - rest + j
        _call((a, copies, c), (first * a.shape[1] + begin, j * pitch + begin, place), numbers)
