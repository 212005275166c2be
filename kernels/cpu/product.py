"""Matrix products: a tile of the result stays in vector registers while its sum runs.

Every element of a result is one chain of fused multiply-adds, in the order of the summed index. Cutting the work into
tiles, panels and chunks, for one thread or many, changes no bit of it; neither does the width of the vector registers.

After Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication", for the shapes of training
steps: the right factor is packed into panels as wide as a tile, the left one is read where it lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from ..interface import Array
from .compiling import helper, kernel, primitive
from .threads import FLOAT32, FLOAT64, pool, word_of

_FEATURES = binding.get_host_cpu_features()
_X86 = binding.get_process_triple().startswith(("x86", "i"))

VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16
FUSED = bool(_FEATURES.get("fma")) or not _X86
"""Whether the processor multiplies and adds in one instruction, which rounds once."""
ACCUMULATORS = 24 if _FEATURES.get("avx512f") or not _X86 else 12
"""Vectors of a tile, so that it fits the 32 (or 16) registers beside its factors."""
VECTORS = 4 if ACCUMULATORS == 24 else 2
"""Vectors in a row of a tile, and in a row of a panel."""
DEPTH = 128
"""Rows of a panel: so many stay in the first-level cache while a strip of tiles passes."""
TALL = ACCUMULATORS // VECTORS
"""Rows of a tile that is as wide as a panel."""
ROWS_WORTH_PACKING = 32
"""With fewer rows, copying a panel costs more than it saves."""
CHUNKS_A_THREAD = 2
WORTH_SHARING = 1 << 18
"""Multiply-adds from which waking another thread pays."""
LINE_BYTES = 64

TILES = {types.float32: FLOAT32, types.float64: FLOAT64}
"""For each dtype, the word of the board that holds the address of its compiled `tiles`."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _make_tile(rows: int, vectors: int, by_rows: bool, unroll: int = 1) -> Any:
    """The function that computes one tile; all its sums are in registers.

    by_rows: the left factor is contiguous in k, and `pitch` leads from row to row; otherwise it is contiguous from row
    to row, and `pitch` leads from k to k + 1. Only one stride is unknown to the compiler: with two, computing
    addresses would take longer than the sums.
    """

    @primitive
    def tile(
        typing_context: Any,
        a: Any,
        pitch: Any,
        b: Any,
        b_step: Any,
        depth: Any,
        c: Any,
        c_row: Any,
        last: Any,
        add: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_data, pitch, b_data, b_step, depth, c_data, c_row, last, add = args
            item, bits = context.get_value_type(c.dtype), c.dtype.bitwidth
            lanes = VECTOR_BYTES * 8 // bits
            vector, numbers = ir.VectorType(item, lanes), ir.VectorType(_I32, lanes)
            flags, pointer = ir.VectorType(ir.IntType(1), lanes), vector.as_pointer()
            zero, align = ir.Constant(vector, [0.0] * lanes), _I32(bits // 8)
            everything = [(i, j) for i in range(rows) for j in range(vectors)]

            def function(name: str, suffix: str, result: Any, *parameters: Any) -> Any:
                kind = ir.FunctionType(result, parameters)
                return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{lanes}f{bits}{suffix}")

            def spread(value: Any, kind: Any) -> Any:
                nothing = ir.Constant(kind, ir.Undefined)
                one = builder.insert_element(nothing, value, _I32(0))
                return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))

            def moved(base: Any, elements: Any) -> Any:
                return builder.gep(base, [elements])

            def at(base: Any, j: int) -> Any:
                return builder.bitcast(moved(base, _I64(lanes * j)), pointer)

            def read(base: Any, j: int) -> Any:
                if j == vectors - 1:
                    return builder.call(load, [at(base, j), align, mask, zero])
                return builder.load(at(base, j), align=bits // 8)

            def write(value: Any, base: Any, j: int) -> None:
                if j == vectors - 1:
                    builder.call(store, [value, at(base, j), align, mask])
                else:
                    builder.store(value, at(base, j), align=bits // 8)

            def accumulate(sums: dict[Any, Any], k: Any, ahead: int) -> dict[Any, Any]:
                """The sums after step k + ahead."""
                b_row = moved(b_data, builder.mul(builder.add(k, _I64(ahead)), b_step))
                b_vectors = [read(b_row, j) for j in range(vectors)]
                after = {}
                for i in range(rows):
                    if by_rows:
                        place = moved(moved(a_rows[i], k), _I64(ahead))
                    else:
                        place = moved(moved(a_data, builder.mul(k, pitch)), _I64(i))
                    factor = spread(builder.load(place), vector)
                    for j in range(vectors):
                        if FUSED:
                            after[i, j] = builder.call(fma, [factor, b_vectors[j], sums[i, j]])
                        else:
                            after[i, j] = builder.fadd(sums[i, j], builder.fmul(factor, b_vectors[j]))
                return after

            def loop(k: Any, sums: dict[Any, Any], steps: int) -> tuple[Any, dict[Any, Any]]:
                """Go on from k, so many steps at a time, as long as there are as many; where that ends."""
                before = builder.block
                head, body, end = (builder.append_basic_block(name) for name in ("head", "body", "end"))
                builder.branch(head)
                builder.position_at_end(head)
                now, running = builder.phi(_I64), {ij: builder.phi(vector) for ij in everything}
                following = builder.add(now, _I64(steps))
                builder.cbranch(builder.icmp_signed("<=", following, depth), body, end)
                builder.position_at_end(body)
                after = running
                for ahead in range(steps):
                    after = accumulate(after, now, ahead)
                builder.branch(head)
                now.add_incoming(k, before)
                now.add_incoming(following, body)
                for ij, phi in running.items():
                    phi.add_incoming(sums[ij], before)
                    phi.add_incoming(after[ij], body)
                builder.position_at_end(end)
                return now, running

            fma = function("fma", "", vector, vector, vector, vector)
            load = function("masked.load", ".p0", vector, pointer, _I32, flags, vector)
            store = function("masked.store", ".p0", ir.VoidType(), vector, pointer, _I32, flags)
            count = ir.Constant(numbers, list(range(lanes)))
            mask = builder.icmp_signed("<", count, spread(builder.trunc(last, _I32), numbers))
            a_rows = [moved(a_data, builder.mul(pitch, _I64(i))) for i in range(rows)]
            c_rows = [moved(c_data, builder.mul(c_row, _I64(i))) for i in range(rows)]

            begin = builder.block
            resume, start = (builder.append_basic_block(name) for name in ("resume", "start"))
            builder.cbranch(builder.icmp_signed("!=", add, _I64(0)), resume, start)
            builder.position_at_end(resume)
            before = {(i, j): read(c_rows[i], j) for i, j in everything}
            builder.branch(start)
            builder.position_at_end(start)
            sums = {ij: builder.phi(vector) for ij in everything}
            for ij, phi in sums.items():
                phi.add_incoming(zero, begin)
                phi.add_incoming(before[ij], resume)
            k = _I64(0)
            for steps in sorted({unroll, 1}, reverse=True):
                k, sums = loop(k, sums, steps)
            for i, j in everything:
                write(sums[i, j], c_rows[i], j)
            return context.get_dummy_value()

        n = types.int64
        return types.void(a, n, b, n, n, c, n, n, n), generate

    return tile


@primitive
def _moved(typing_context: Any, pointer: Any, elements: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), generate


def _make_rows(vectors: int, by_rows: bool) -> Any:
    """The function that computes rows of a result, `vectors` wide: the tallest tiles that fit, then smaller ones."""
    # More than 8 rows of one vector gain little, and lie in the same places of the first-level cache if 1,024 wide.
    tall = 8 if vectors == 1 else ACCUMULATORS // vectors
    short = 4 if tall > 8 else 2
    # Some steps at a time share the computation of addresses, as far as there are registers for it.
    whole = _make_tile(tall, vectors, by_rows, unroll={1: 4, 2: 1, 3: 2, 4: 4}[vectors] if by_rows else 1)
    part, single = (_make_tile(rows, vectors, by_rows) for rows in (short, 1))

    @helper
    def compute(a, pitch, b, b_step, depth, c, c_row, rows, last, add):
        a_row = pitch if by_rows else 1
        while rows >= tall:
            whole(a, pitch, b, b_step, depth, c, c_row, last, add)
            a, c, rows = _moved(a, tall * a_row), _moved(c, tall * c_row), rows - tall
        while rows >= short:
            part(a, pitch, b, b_step, depth, c, c_row, last, add)
            a, c, rows = _moved(a, short * a_row), _moved(c, short * c_row), rows - short
        while rows >= 1:
            single(a, pitch, b, b_step, depth, c, c_row, last, add)
            a, c, rows = _moved(a, a_row), _moved(c, c_row), rows - 1

    return compute


_one, _two = _make_rows(1, True), _make_rows(2, True)
_three, _four = (_make_rows(3, True), _make_rows(4, True)) if VECTORS == 4 else (_two, _two)
_one_t, _two_t = _make_rows(1, False), _make_rows(2, False)
_three_t, _four_t = (_make_rows(3, False), _make_rows(4, False)) if VECTORS == 4 else (_two_t, _two_t)


@kernel
def tiles(a, pitch, b, b_step, depth, c, c_row, rows, vectors, last, add, by_rows):
    """What `strip` does, on addresses. Compiled once: copies in every kernel would take a minute to compile."""
    if by_rows:
        if vectors == 1:
            _one(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        elif vectors == 2:
            _two(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        elif vectors == 3:
            _three(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        else:
            _four(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
    elif vectors == 1:
        _one_t(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
    elif vectors == 2:
        _two_t(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
    elif vectors == 3:
        _three_t(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
    else:
        _four_t(a, pitch, b, b_step, depth, c, c_row, rows, last, add)


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


def _load_tiles() -> None:
    """Compile `tiles`, or take it from the cache, and leave its addresses where kernels look for them."""
    for number, word in TILES.items():
        pointer, n = types.CPointer(number), types.int64
        signature = types.void(pointer, n, pointer, n, n, pointer, n, n, n, n, n, n)
        tiles.compile(signature)
        found = tiles.overloads[signature.args]
        pool.board[word] = found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name)


_load_tiles()


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
    lanes = VECTOR_BYTES // c.itemsize
    vectors = (width + lanes - 1) // lanes
    last, c_row = width - lanes * (vectors - 1), c.shape[1]
    _call_tiles(
        a, a_start, pitch, b, b_start, b_step, depth, c, c_start, c_row, rows, vectors, last, int(add), int(by_rows)
    )


@helper
def panel_width(like: Array) -> int:
    """Columns of a panel."""
    return int(VECTORS * VECTOR_BYTES // like.itemsize)


@helper
def scratch(size: int, like: Array) -> Array:
    """An uninitialised vector that begins on a cache line."""
    per_line = LINE_BYTES // like.itemsize
    space = np.empty(size + per_line, like.dtype)
    skipped = -(space.ctypes.data // like.itemsize) % per_line
    return space[skipped : skipped + size]


@helper
def pack(b: Array, top: int, depth: int, left: int, width: int, panel: Array, pitch: int) -> None:
    """Copy ``b[top : top + depth, left : left + width]`` into rows of `pitch` elements."""
    for k in range(depth):
        # Slices from 0: an index that might be negative is wrapped, and a wrapped index does not vectorise.
        source, target = b[top + k, left : left + width], panel[k * pitch : k * pitch + width]
        for j in range(target.size):
            target[j] = source[j]


@primitive
def _transpose_square(
    typing_context: Any, b: Any, b_start: Any, b_row: Any, panel: Any, panel_start: Any, pitch: Any
) -> Any:
    """Transpose as many rows as a vector has elements, in registers.

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

        rows = [builder.load(place, align=align) for place in rows_of(0, args[1], args[2])]
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
        for value, place in zip(rows, rows_of(3, args[4], args[5]), strict=True):
            builder.store(value, place, align=align)
        return context.get_dummy_value()

    n = types.int64
    return types.void(b, n, n, panel, n, n), generate


@helper
def pack_transposed(b: Array, top: int, depth: int, left: int, width: int, panel: Array, pitch: int) -> None:
    """Copy ``b.T[top : top + depth, left : left + width]`` into rows of `pitch` elements."""
    lanes = VECTOR_BYTES // b.itemsize
    row = b.shape[1]
    whole_depth, whole_width = depth - depth % lanes, width - width % lanes
    for j in range(0, whole_width, lanes):
        for k in range(0, whole_depth, lanes):
            _transpose_square(b, (left + j) * row + top + k, row, panel, k * pitch + j, pitch)
    for j in range(width):
        first = whole_depth if j < whole_width else 0
        source, target = b[left + j, top + first : top + depth], panel[first * pitch + j :]
        for k in range(source.size):
            target[k * pitch] = source[k]


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
    """``c[i, j] = sum_k a[i, k] b[k, j]`` (or ``b[j, k]``) for begin <= k < end, some rows, the columns of a panel."""
    pitch = panel_width(c)
    direct = not transposed and (b.shape[1] <= pitch or rows < ROWS_WORTH_PACKING)
    panel = c.reshape(-1)[:0] if direct else scratch(min(end - begin, DEPTH) * pitch, c)
    a_row = a.shape[1]
    place = first * c.shape[1] + left
    if begin == end:
        c[first : first + rows, left : left + width] = 0
    for top in range(begin, end, DEPTH):
        some = min(DEPTH, end - top)
        start, more = first * a_row + top, top > begin
        if direct:
            strip(a, start, a_row, True, b, top * b.shape[1] + left, b.shape[1], some, c, place, rows, width, more)
        else:
            if transposed:
                pack_transposed(b, top, some, left, width, panel, pitch)
            else:
                pack(b, top, some, left, width, panel, pitch)
            strip(a, start, a_row, True, panel, 0, pitch, some, c, place, rows, width, more)


@helper
def middle(length: int) -> int:
    """Where the first of two halves ends: at the end of a cache line."""
    return min(length, (length // 2 + 15) // 16 * 16)


@helper
def cut(rows: int, columns: int, panel: int, tile: int, threads: int) -> Any:
    """How many panels, and parts of the rows, so that every thread gets its share; both at least 1."""
    panels = max(1, (columns + panel - 1) // panel)
    parts = max(1, (CHUNKS_A_THREAD * threads + panels - 1) // panels)
    return panels, max(1, min(parts, rows // (2 * tile)))


@helper
def part_of(rows: int, part: int, parts: int, tile: int) -> Any:
    """First row and number of rows of one part; all but the last consist of whole tiles."""
    tiles = (rows + tile - 1) // tile
    first, end = part * tiles // parts * tile, min(rows, (part + 1) * tiles // parts * tile)
    return first, end - first
