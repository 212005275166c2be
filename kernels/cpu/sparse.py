"""Products whose left factor is mostly zeros, as ReLU and dropout leave them: what is multiplied by 0 is not read.

Of 64 elements in a row of the left factor, a word says which are not zero; each of these adds its row of a packed
panel to the sums, which run in vector registers. Adding a product with 0 changes no sum, and the order is that of
`product.py`: so are the bits, but for the sign of a sum that underflowed to -0, to which the dense product adds +0.
Only 0 times inf or NaN is not 0: a panel that holds one meets every element.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ..interface import Array
from .addresses import caller, further, publish
from .board import SPARSE32, SPARSE64
from .compiling import helper, kernel, primitive, reordering_helper
from .memory import flat, on_stack, scratch
from .packing import pack_transposed
from .tile import summing_loop
from .vectors import REGISTERS, Vector, lanes_of

WORD_BITS = 64
"""Rows of a panel: as many as a word has bits."""
WIDE = 8 if REGISTERS == 32 else 12
"""Vectors in a row of a panel at most: 24 KiB with AVX, 32 with AVX-512, stay in the first-level cache as rows pass."""
ADDRESSES = {types.float32: SPARSE32, types.float64: SPARSE64}
"""For each dtype, the word of the board that holds the address of its compiled `sparse_rows`."""
LEAST = 32
"""Rows and columns of either factor from which skipping zeros pays."""
LEAST_VECTORS = 5 if REGISTERS == 32 else 4
"""In a row of the result: fewer sums wait for each other. With AVX-512 four of them took up to 1.4 times as long."""
MOST_NONZERO = 0.58
"""The part of a factor that is not zero, up to which skipping pays; by shape, both take as long at 0.6 to 1.0."""
ROWS_SAMPLED = 8

_I64 = ir.IntType(64)


@primitive
def _row(typing_context: Any, a: Any, word: Any, b: Any, pitch: Any, c: Any, vectors: Any, last: Any, add: Any) -> Any:
    """Add to a row of sums, so many vectors wide, of which the last has `last` elements.

    There is a piece of code for each width, whole or not: all sums of a row stay in registers.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a_data, word, b_data, pitch, c_data, vectors, last, add = args
        vector = Vector(context, builder, c.dtype)

        def accumulate(width: int, masked: bool, done: Any) -> None:
            """The sums of one width, then on to `done`."""
            begin = builder.block
            resume, head, body, end = (builder.append_basic_block(name) for name in ("resume", "head", "body", "end"))
            builder.cbranch(adding, resume, head)
            builder.position_at_end(resume)
            before = [vector.load(vector.at(c_data, j)) for j in range(width - masked)]
            if masked:
                before.append(vector.load(vector.at(c_data, width - 1), mask))
            builder.branch(head)
            builder.position_at_end(head)
            left, sums = builder.phi(_I64), [builder.phi(vector.type) for _ in range(width)]
            builder.cbranch(builder.icmp_signed("!=", left, _I64(0)), body, end)
            builder.position_at_end(body)
            k = builder.cttz(left, ir.IntType(1)(1))
            factor = vector.spread(builder.load(builder.gep(a_data, [k])))
            b_row = builder.gep(b_data, [builder.mul(k, pitch)])
            after = [
                vector.add_product(total, factor, vector.load(vector.at(b_row, j))) for j, total in enumerate(sums)
            ]
            rest = builder.and_(left, builder.sub(left, _I64(1)))
            builder.branch(head)
            for block, bits_left, values in (
                (begin, word, [vector.zero] * width),
                (resume, word, before),
                (body, rest, after),
            ):
                left.add_incoming(bits_left, block)
                for phi, value in zip(sums, values, strict=True):
                    phi.add_incoming(value, block)
            builder.position_at_end(end)
            for j, value in enumerate(sums):
                vector.store(value, vector.at(c_data, j), mask if masked and j == width - 1 else None)
            builder.branch(done)

        mask = vector.first(last)
        adding = builder.icmp_signed("!=", add, _I64(0))
        some = builder.zext(builder.icmp_signed("<", last, _I64(vector.lanes)), _I64)
        case = builder.or_(builder.shl(vectors, _I64(1)), some)
        done = builder.append_basic_block("done")
        choice = builder.switch(case, done)
        for width in range(1, WIDE + 1):
            for masked in (False, True):
                block = builder.append_basic_block("width")
                choice.add_case(_I64(2 * width + masked), block)
                builder.position_at_end(block)
                accumulate(width, masked, done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    n = types.int64
    return types.void(a, n, b, n, c, n, n, n), generate


@primitive
def _load_word(typing_context: Any, words: Any, i: Any) -> Any:
    """Word i, counted from where a pointer points to."""
    return types.int64(words, types.int64), lambda context, builder, signature, args: builder.load(
        builder.gep(args[0], [args[1]])
    )


@kernel
def sparse_rows(a, b, c, words, a_row, across, always, pitch, c_row, rows, vectors, last, add):
    """What `meet` does, on addresses."""
    for i in range(rows):
        word = _load_word(words, i * across) | always
        _row(further(a, i * a_row), word, b, pitch, further(c, i * c_row), vectors, last, add)


publish(sparse_rows, ADDRESSES, 4, 9)
_call = caller(ADDRESSES)


@helper
def meet(left_factor: Any, right_factor: Any, c: Array, c_start: int, rows: int, width: int, add: bool) -> None:
    """``c[i, j] (+)= sum_k a[i, k] panel[k, j]`` over the bits k of a word, for some rows.

    left_factor: a, where it begins, from row to row; its words, where they begin, from row to row.
    right_factor: the panel, where it begins, from row to row; the bits that are set whatever the words say.
    add: go on from what c holds.
    """
    a, a_start, a_row, words, word, across = left_factor
    panel, b_start, pitch, always = right_factor
    lanes = lanes_of(c)
    vectors = (width + lanes - 1) // lanes
    numbers = a_row, across, always, pitch, c.shape[1], rows, vectors, width - lanes * (vectors - 1), int(add)
    _call((a, panel, c, words), (a_start, b_start, c_start, word), numbers)


@helper
def wide_panel(columns: int, like: Array) -> int:
    """Columns of a panel, so that so many columns make panels of about the same width."""
    lanes = lanes_of(like)
    vectors = max(1, (columns + lanes - 1) // lanes)
    panels = (vectors + WIDE - 1) // WIDE
    return int((vectors + panels - 1) // panels * lanes)


@primitive
def _nonzero(typing_context: Any, a: Any, start: Any) -> Any:
    """A word that says which of the 64 elements from `start` on are not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = Vector(context, builder, a.dtype)
        data = builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
        word = _I64(0)
        for j in range(0, WORD_BITS, vector.lanes):
            value = vector.load(builder.gep(data, [_I64(j)]))
            flags = builder.fcmp_unordered("!=", value, vector.zero)
            some = builder.zext(builder.bitcast(flags, ir.IntType(vector.lanes)), _I64)
            word = builder.or_(word, builder.shl(some, _I64(j)))
        return word

    return types.int64(a, types.int64), generate


@helper
def write_words(a: Array, start: int, row: int, rows: int, length: int, words: Array, place: int) -> None:
    """Words of some rows of a, from element `start` on: as many a row as `length` takes."""
    across = words_across(length)
    for i in range(rows):
        first = start + i * row
        for k in range(across):
            if (k + 1) * WORD_BITS <= length:
                words[place + i * across + k] = _nonzero(a, first + k * WORD_BITS)
            else:
                word = np.int64(0)
                for j in range(length - k * WORD_BITS):
                    word |= np.int64(a[first + k * WORD_BITS + j] != 0) << j
                words[place + i * across + k] = word


@helper
def words_across(length: int) -> int:
    """Words that a row so long takes."""
    return int((length + WORD_BITS - 1) // WORD_BITS)


@primitive
def _copy_row(typing_context: Any, b: Any, start: Any, vectors: Any, last: Any, panel: Any, place: Any) -> Any:
    """Copy a row of so many vectors, the last one `last` elements and zeros; 0, unless a number is infinite or NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = Vector(context, builder, b.dtype)
        source, target = (
            builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]])
            for i in (0, 4)
        )

        def copied(sums: dict[Any, Any], j: Any, mask: Any = None) -> dict[Any, Any]:
            offset = builder.mul(j, _I64(vector.lanes))
            value = vector.load(builder.gep(source, [offset]), mask)
            vector.store(value, builder.gep(target, [offset]))
            return {0: vector.add_product(sums[0], value, vector.zero)}

        j, sums = summing_loop(builder, _I64(0), {0: vector.zero}, 1, builder.sub(args[2], _I64(1)), copied)
        vanishing = copied(sums, j, vector.first(args[3]))[0]
        # Of an infinite number 0 times it is NaN, and NaN is equal to nothing.
        flags = builder.fcmp_unordered("uno", vanishing, vector.zero)
        return builder.zext(builder.bitcast(flags, ir.IntType(vector.lanes)), _I64)

    n = types.int64
    return n(b, n, n, n, panel, n), generate


@reordering_helper
def _vanishing(values: Array) -> Any:
    """0, or NaN if a value is infinite or NaN."""
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i] * values.dtype.type(0)
    return total


@helper
def pack_wide(b: Array, transposed: bool, top: int, depth: int, left: int, width: int, panel: Array, pitch: int) -> Any:
    """Copy at most `WORD_BITS` rows and `pitch` columns of b or of its transpose; the bits that `meet` sets always.

    These are the bits of all rows if a number among them is infinite or NaN, else none.
    """
    lanes = lanes_of(b)
    vectors = (width + lanes - 1) // lanes
    finite = True
    if transposed:
        pack_transposed(b, top, depth, left, width, panel, pitch)
        used = vectors * lanes
        # Behind them there is what was in the panel before.
        rows, length = (1, depth * pitch) if used == pitch else (depth, used)
        for k in range(rows):
            finite &= _vanishing(panel[k * pitch : k * pitch + length]) == 0
    else:
        last = width - (vectors - 1) * lanes
        for k in range(depth):
            finite &= _copy_row(b, (top + k) * b.shape[1] + left, vectors, last, panel, k * pitch) == 0
    return np.int64(0) if finite else (np.int64(1) << (depth - 1) << 1) - 1


@helper
def worth_skipping(a: Array, columns: int, most: float) -> bool:
    """Whether skipping zeros of a pays in a product of so many columns.

    most: the part of a that may be other than zero. Some rows tell; whatever they tell, the bits are the same.
    """
    rows, length = a.shape
    if min(rows, length, columns) < LEAST or columns < LEAST_VECTORS * lanes_of(a):
        return False
    nonzero, sampled = 0, min(rows, ROWS_SAMPLED)
    for s in range(sampled):
        row = a[s * rows // sampled]
        for j in range(length):
            nonzero += int(row[j] != 0)
    return bool(nonzero <= most * sampled * length)


@helper
def wide_panels(columns: int, like: Array) -> int:
    """How many panels so many columns make."""
    return int((columns + WIDE * lanes_of(like) - 1) // (WIDE * lanes_of(like)))


@helper
def wide_group_of(g: int, groups: int, columns: int, like: Array) -> Any:
    """First column of a group of panels, and how many it has."""
    panels, panel = wide_panels(columns, like), wide_panel(columns, like)
    left, right = min(columns, g * panels // groups * panel), min(columns, (g + 1) * panels // groups * panel)
    return left, right - left


@helper
def sparse_times(
    a: Array, first: int, rows: int, b: Array, transposed: bool, left: int, width: int, begin: int, end: int, c: Array
) -> None:
    """`product.times` for a left factor that is mostly zeros."""
    a_row, c_row, across, panel = a.shape[1], c.shape[1], words_across(end - begin), wide_panel(width, c)
    words = scratch(rows * across, on_stack(np.int64))
    write_words(flat(a), first * a_row + begin, a_row, rows, end - begin, words, 0)
    space = scratch(WORD_BITS * panel, on_stack(c))
    for j in range(left, left + width, panel):
        columns, place = min(panel, left + width - j), first * c_row + j
        for k in range(begin, end, WORD_BITS):
            always = pack_wide(b, transposed, k, min(WORD_BITS, end - k), j, columns, space, panel)
            left_factor = a, first * a_row + k, a_row, words, (k - begin) // WORD_BITS, across
            meet(left_factor, (space, 0, panel, always), c, place, rows, columns, k > begin)
