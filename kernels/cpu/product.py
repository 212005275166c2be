"""Matrix products, cut into panels, strips and chunks that fit the caches.

Every sum is one chain of fused multiply-adds in the order of the summed index, or two (see `affine._forward`): cutting
the work, for one thread or many, changes no bit of it, and neither does the width of the vector registers.

After Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication", for the shapes of training
steps: the right factor is packed into panels as wide as a tile; the left one is read where it lies, or packed as well
where tiles are narrow and it is too large for the second-level cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..interface import Array
from .board import word_of
from .compiling import helper, primitive
from .tile import TALL, TILES, VECTOR_BYTES, VECTORS, lanes_of

DEPTH = 128
"""Rows of a panel: so many stay in the first-level cache while a strip of tiles passes."""
ROWS_WORTH_PACKING = 32
"""With fewer rows, copying a panel costs more than it saves."""
ELEMENTS_AS_THEY_LIE = 1 << 12
"""Of a right factor that stays in the first-level cache without being packed."""
LEFT_BLOCK = 4 * TALL if VECTORS == 2 else 0
"""Rows of the left factor that are packed together, beside narrow panels; 0: it is read where it lies.

Without AVX-512 each row is read anew for each 16 columns, not 64. Where it lies, rows 4 KiB apart share their places in
the caches: products of D took a third longer.
"""
MOST_PANELS = 16
"""Panels for which a packed block of the left factor is read from the second-level cache."""
ELEMENTS_IN_CACHE = 1 << 17
"""Of a left factor that stays in the second-level cache, and is read where it lies for one panel after the other."""
CHUNKS_A_THREAD = 2
WORTH_SHARING = 1 << 18
"""Multiply-adds from which waking another thread pays."""
LINE_BYTES = 64

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@primitive
def _call_tiles(
    typing_context: Any,
    a: Any,
    a_start: Any,
    pitch: Any,
    b: Any,
    b_start: Any,
    b_step: Any,
    depth: Any,
    c: Any,
    c_start: Any,
    c_row: Any,
    rows: Any,
    vectors: Any,
    last: Any,
    add: Any,
    by_rows: Any,
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, a_start, pitch, b, b_start, b_step, depth, c, c_start, *rest = args
        pointers = [
            builder.gep(context.make_array(signature.args[i])(context, builder, array).data, [start])
            for i, array, start in ((0, a, a_start), (3, b, b_start), (7, c, c_start))
        ]
        values = [pointers[0], pitch, pointers[1], b_step, depth, pointers[2], *rest]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        address = builder.load(word_of(builder, _I64(TILES[signature.args[7].dtype])))
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)
        return context.get_dummy_value()

    n = types.int64
    return types.void(a, n, n, b, n, n, n, c, n, n, n, n, n, n, n), generate


@helper
def strip(
    a: Array,
    a_start: int,
    pitch: int,
    by_rows: bool,
    b: Array,
    b_start: int,
    b_step: int,
    depth: int,
    c: Array,
    c_start: int,
    rows: int,
    width: int,
    add: bool,
) -> None:
    """``c[i, j] (+)= sum_k a[i, k] b[k, j]`` for `rows` rows and `width` columns, at most those of a panel.

    Each array is given with the position of its first element. by_rows: a is contiguous in k, and `pitch` elements lead
    from i to i + 1; else it is contiguous in i, and `pitch` leads from k to k + 1. `b_step` leads from k to k + 1; b
    and c are contiguous in j. depth >= 1. add: go on from what c holds.
    """
    lanes = lanes_of(c)
    vectors = (width + lanes - 1) // lanes
    last, c_row = width - lanes * (vectors - 1), c.shape[1]
    _call_tiles(
        a, a_start, pitch, b, b_start, b_step, depth, c, c_start, c_row, rows, vectors, last, int(add), int(by_rows)
    )


@helper
def panel_width(like: Array) -> int:
    """Columns of a panel."""
    return VECTORS * lanes_of(like)


@helper
def scratch(size: int, like: Array) -> Array:
    """An uninitialised vector that begins on a cache line."""
    per_line = LINE_BYTES // like.itemsize
    space = np.empty(size + per_line, like.dtype)
    skipped = -(space.ctypes.data // like.itemsize) % per_line
    return space[skipped : skipped + size]


def _masked_load(builder: Any, vector: Any, bits: int, place: Any, mask: Any) -> Any:
    """A vector from memory; where the mask is not set, nothing is read, and there is 0."""
    lanes, pointer = vector.count, vector.as_pointer()
    kind = ir.FunctionType(vector, [pointer, _I32, ir.VectorType(ir.IntType(1), lanes), vector])
    load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{lanes}f{bits}.p0")
    zero = ir.Constant(vector, [0.0] * lanes)
    return builder.call(load, [builder.bitcast(place, pointer), _I32(bits // 8), mask, zero])


def _first_lanes(builder: Any, lanes: int, count: Any) -> Any:
    """A mask of the first `count` elements of a vector, all if it has no more."""
    numbers = ir.VectorType(_I32, lanes)
    nothing = ir.Constant(numbers, ir.Undefined)
    first = builder.insert_element(nothing, builder.trunc(count, _I32), _I32(0))
    width = builder.shuffle_vector(first, nothing, ir.Constant(numbers, [0] * lanes))
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(lanes))), width)


@primitive
def _copy_vector(typing_context: Any, b: Any, b_start: Any, count: Any, panel: Any, panel_start: Any) -> Any:
    """Copy as many elements as a vector has; from the `count`-th on they are 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = b.dtype.bitwidth
        lanes = VECTOR_BYTES * 8 // bits
        vector = ir.VectorType(context.get_value_type(b.dtype), lanes)
        source, target = (
            builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]])
            for i in (0, 3)
        )
        value = _masked_load(builder, vector, bits, source, _first_lanes(builder, lanes, args[2]))
        builder.store(value, builder.bitcast(target, vector.as_pointer()), align=bits // 8)
        return context.get_dummy_value()

    n = types.int64
    return types.void(b, n, n, panel, n), generate


@helper
def pack(b: Array, top: int, depth: int, left: int, width: int, panels: Array, room: int, pitch: int) -> None:
    """Copy ``b[top : top + depth, left : left + width]`` into panels of `pitch` columns, one each `room` elements.

    Row by row through all of them: pieces as narrow as a panel would wait for memory at each row. `pitch` is a multiple
    of what a vector holds, and the last vector of a row is filled with 0.
    """
    lanes = lanes_of(b)
    for k in range(depth):
        start, place, j = (top + k) * b.shape[1] + left, k * pitch, 0
        # A range with a step begins with a division.
        while j < width:
            end = min(j + pitch, width)
            i = j
            while i < end:
                _copy_vector(b, start + i, width - i, panels, place + i - j)
                i += lanes
            j += pitch
            place += room


@primitive
def _transpose_square(
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
    """Transpose a square, as many rows as a vector has elements, in registers; beyond `rows` and `columns` it is 0.

    In step d = 1, 2, 4, ... rows i and i + d exchange the elements in which their positions differ by bit d.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = VECTOR_BYTES * 8 // b.dtype.bitwidth
        align = b.dtype.bitwidth // 8
        vector = ir.VectorType(context.get_value_type(b.dtype), lanes)

        def rows_of(i: int, start: Any, row: Any) -> list[Any]:
            data = builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [start])
            steps = [builder.mul(row, _I64(k)) for k in range(lanes)]
            return [builder.bitcast(builder.gep(data, [step]), vector.as_pointer()) for step in steps]

        inside = _first_lanes(builder, lanes, args[4])
        rows = []
        for k, place in enumerate(rows_of(0, args[1], args[2])):
            there = builder.icmp_signed("<", _I64(k), args[3])
            mask = builder.select(there, inside, ir.Constant(inside.type, [0] * lanes))
            rows.append(_masked_load(builder, vector, b.dtype.bitwidth, place, mask))
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


@helper
def pack_transposed(b: Array, top: int, depth: int, left: int, width: int, panel: Array, pitch: int) -> None:
    """Copy ``b.T[top : top + depth, left : left + width]`` into rows of `pitch` elements, in whole squares.

    The panel has room for as many rows as fill the last square.
    """
    lanes = lanes_of(b)
    row = b.shape[1]
    for j in range(0, width, lanes):
        for k in range(0, depth, lanes):
            start = (left + j) * row + top + k
            _transpose_square(b, start, row, width - j, depth - k, panel, k * pitch + j, pitch)


@helper
def group_width(like: Array, columns: int, left_elements: int, threads: int) -> int:
    """Columns that are computed together, whole panels: more than one where the left factor is packed."""
    panel = panel_width(like)
    if LEFT_BLOCK == 0 or left_elements <= ELEMENTS_IN_CACHE:
        return int(panel)
    return int(panel * max(1, min(MOST_PANELS, columns // (panel * CHUNKS_A_THREAD * threads))))


@helper
def times(
    a: Array,
    first: int,
    rows: int,
    b: Array,
    transposed: bool,
    left: int,
    width: int,
    begin: int,
    end: int,
    c: Array,
) -> None:
    """``c[i, j] = sum_k a[i, k] b[k, j]`` (or ``b[j, k]``) for begin <= k < end, some rows, the columns of a group."""
    pitch = panel_width(c)
    small = b.shape[1] <= pitch or b.size <= ELEMENTS_AS_THEY_LIE
    direct = not transposed and (small or rows < ROWS_WORTH_PACKING)
    lanes = lanes_of(c)
    # As many rows as there are in whole vectors: `pack_transposed` fills squares.
    deep = (min(end - begin, DEPTH) + lanes - 1) // lanes * lanes
    room = deep * pitch
    panels = c.reshape(-1)[:0] if direct else scratch(room * ((width + pitch - 1) // pitch), c)
    left_packed = LEFT_BLOCK > 0 and not direct and width > pitch
    blocks = (rows + LEFT_BLOCK - 1) // LEFT_BLOCK if left_packed else 0
    packed = scratch(blocks * deep * LEFT_BLOCK, c) if left_packed else panels
    a_row, c_row = a.shape[1], c.shape[1]
    if begin == end:
        c[first : first + rows, left : left + width] = 0
    for top in range(begin, end, DEPTH):
        some = min(DEPTH, end - top)
        start, more = first * a_row + top, top > begin
        for i in range(blocks):
            block = packed[i * deep * LEFT_BLOCK :]
            here = min(LEFT_BLOCK, rows - i * LEFT_BLOCK)
            pack_transposed(a, top, some, first + i * LEFT_BLOCK, here, block, LEFT_BLOCK)
        if not direct and not transposed:
            pack(b, top, some, left, width, panels, room, pitch)
        for j in range(0, width, pitch):
            columns, place = min(pitch, width - j), first * c_row + left + j
            panel = j // pitch * room
            if direct:
                place_b = top * b.shape[1] + left + j
                strip(a, start, a_row, True, b, place_b, b.shape[1], some, c, place, rows, columns, more)
                continue
            # Transposed panels packed 1,024 rows at a time were 5 % slower in D: they leave the first-level cache.
            if transposed:
                pack_transposed(b, top, some, left + j, columns, panels[panel:], pitch)
            if not left_packed:
                strip(a, start, a_row, True, panels, panel, pitch, some, c, place, rows, columns, more)
            for i in range(blocks):
                block, here = i * deep * LEFT_BLOCK, min(LEFT_BLOCK, rows - i * LEFT_BLOCK)
                row = place + i * LEFT_BLOCK * c_row
                strip(packed, block, LEFT_BLOCK, False, panels, panel, pitch, some, c, row, here, columns, more)


@helper
def middle(length: int) -> int:
    """Where the first of two halves ends: at the end of a cache line."""
    return min(length, (length // 2 + 15) // 16 * 16)


@helper
def cut(rows: int, columns: int, group: int, tile: int, threads: int, shared: bool) -> Any:
    """How many groups of columns, and parts of the rows, so that every thread gets its share; both at least 1."""
    groups = max(1, (columns + group - 1) // group)
    parts = max(1, (CHUNKS_A_THREAD * threads + groups - 1) // groups)
    return groups, max(1, min(parts, rows // (2 * tile))) if shared else 1


@helper
def part_of(rows: int, part: int, parts: int, tile: int) -> Any:
    """First row and number of rows of one part; all but the last consist of whole tiles."""
    tiles = (rows + tile - 1) // tile
    first, end = part * tiles // parts * tile, min(rows, (part + 1) * tiles // parts * tile)
    return first, end - first
