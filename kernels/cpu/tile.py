"""Tiles: pieces of a matrix product whose sums run in vector registers, written as LLVM instructions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types

from ..aligned import LINE_BYTES
from .addresses import further, publish
from .board import FLOAT32, FLOAT64
from .compiling import kernel, primitive, separate_helper
from .vectors import AVX512, REGISTERS, Vector, lanes_of

ACCUMULATORS = 24 if REGISTERS == 32 else 12
"""Vectors of a tile, so that it fits the registers beside its factors."""
VECTORS = 4 if ACCUMULATORS == 24 else 2
"""Vectors in a row of a tile, and in a row of a panel; where there are two, the last panel may have three."""
MASKS_COST = not AVX512
"""Whether a masked store takes longer than a plain one: about twelve cycles on AMD's processors without AVX-512."""
TALL = ACCUMULATORS // VECTORS
"""Rows of a tile that is as wide as a panel."""
TILES = {types.float32: FLOAT32, types.float64: FLOAT64}
"""For each dtype, the word of the board that holds the address of its compiled `tiles`."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _begin_on_a_line(module: Any, back: Any) -> None:
    """Let the loop that this instruction closes begin on a cache line; an LLVM that does not know the wish ignores it.

    Where loops of 118 bytes lay, on two lines or on three, was left to chance: products of D differed by 3 %.
    """
    wish = module.add_metadata(["llvm.loop.align", _I32(LINE_BYTES)])
    # The name of a loop is a node that begins with itself; until it does, a number tells it from all others.
    loop = module.add_metadata([_I32(len(module.metadata)), wish])
    loop.operands = (loop, wish)
    back.set_metadata("llvm.loop", loop)


def summing_loop(
    builder: Any, k: Any, sums: dict[Any, Any], steps: int, depth: Any, advance: Callable[[dict[Any, Any], Any], Any]
) -> tuple[Any, dict[Any, Any]]:
    """A loop from k on, so many steps at a time while as many are left of `depth`; where it ends, and the sums there.

    advance: writes the instructions that make, of sums and a value of k, the sums `steps` later.
    """
    before = builder.block
    head, body, end = (builder.append_basic_block(name) for name in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    now, running = builder.phi(_I64), {key: builder.phi(value.type) for key, value in sums.items()}
    following = builder.add(now, _I64(steps))
    builder.cbranch(builder.icmp_signed("<=", following, depth), body, end)
    builder.position_at_end(body)
    after = advance(running, now)
    _begin_on_a_line(builder.module, builder.branch(head))
    now.add_incoming(k, before)
    now.add_incoming(following, body)
    for key, phi in running.items():
        phi.add_incoming(sums[key], before)
        phi.add_incoming(after[key], body)
    builder.position_at_end(end)
    return now, running


def _make_tile(rows: int, vectors: int, by_rows: bool, masked: bool, padded: bool, unroll: int = 1) -> Any:
    """The function that computes one tile; all its sums are in registers.

    masked: of the last vector in a row only `last` elements are there; otherwise all, and `last` is not asked for.

    padded: of b whole vectors are there all the same, and no mask takes the register that the last sum needs.

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
            vector = Vector(context, builder, c.dtype)
            everything = [(i, j) for i in range(rows) for j in range(vectors)]
            mask = vector.first(last)

            def moved(base: Any, elements: Any) -> Any:
                return builder.gep(base, [elements])

            def mask_of(j: int) -> Any:
                return mask if masked and j == vectors - 1 else None

            def accumulate(sums: dict[Any, Any], k: Any, ahead: int) -> dict[Any, Any]:
                """The sums after step k + ahead."""
                step = builder.add(k, _I64(ahead))
                b_row = moved(b_data, builder.mul(step, b_step))
                b_vectors = [vector.load(vector.at(b_row, j), None if padded else mask_of(j)) for j in range(vectors)]
                after = {}
                for i in range(rows):
                    if by_rows:
                        place = moved(moved(a_rows[i], k), _I64(ahead))
                    else:
                        place = moved(moved(a_data, builder.mul(step, pitch)), _I64(i))
                    factor = vector.spread(builder.load(place))
                    for j in range(vectors):
                        after[i, j] = vector.add_product(sums[i, j], factor, b_vectors[j])
                return after

            def advance(sums: dict[Any, Any], k: Any, steps: int) -> dict[Any, Any]:
                for ahead in range(steps):
                    sums = accumulate(sums, k, ahead)
                return sums

            a_rows = [moved(a_data, builder.mul(pitch, _I64(i))) for i in range(rows)]
            c_rows = [moved(c_data, builder.mul(c_row, _I64(i))) for i in range(rows)]

            begin = builder.block
            resume, start = (builder.append_basic_block(name) for name in ("resume", "start"))
            builder.cbranch(builder.icmp_signed("!=", add, _I64(0)), resume, start)
            builder.position_at_end(resume)
            before = {(i, j): vector.load(vector.at(c_rows[i], j), mask_of(j)) for i, j in everything}
            builder.branch(start)
            builder.position_at_end(start)
            sums = {ij: builder.phi(vector.type) for ij in everything}
            for ij, phi in sums.items():
                phi.add_incoming(vector.zero, begin)
                phi.add_incoming(before[ij], resume)
            k = _I64(0)
            for steps in sorted({unroll, 1}, reverse=True):
                k, sums = summing_loop(builder, k, sums, steps, depth, partial(advance, steps=steps))

            for i, j in everything:
                vector.store(sums[i, j], vector.at(c_rows[i], j), mask_of(j))
            return context.get_dummy_value()

        n = types.int64
        return types.void(a, n, b, n, n, c, n, n, n), generate

    return tile


def _make_rows(vectors: int, by_rows: bool, masked: bool = True) -> Any:
    """The function that computes rows of a result, `vectors` wide: the tallest tiles that fit, then smaller ones."""
    # A row wider than a panel is that of a packed right factor.
    padded = vectors > VECTORS
    # More than 8 rows of one vector gain little, and lie in the same places of the first-level cache if 1,024 wide.
    tall = 8 if vectors == 1 else ACCUMULATORS // vectors
    # Some steps at a time share the computation of addresses, as far as there are registers for it.
    unroll = {1: 4, 2: 1, 3: 1 if padded else 2, 4: 4}[vectors] if by_rows else 1
    whole = _make_tile(tall, vectors, by_rows, masked, padded, unroll)
    # Fewer than eight sums at a time wait for each other: of a rest of 4 or 5 rows, 4 together take half as long.
    four, two, single = (
        whole if (rows, 1) == (tall, unroll) else _make_tile(rows, vectors, by_rows, masked, padded)
        for rows in (4, 2, 1)
    )

    # As a part of `tiles`, products of two threads were a tenth slower, and those of one thread the same.
    @separate_helper
    def compute(a, pitch, b, b_step, depth, c, c_row, rows, last, add):
        a_row = pitch if by_rows else 1
        while rows >= tall:
            whole(a, pitch, b, b_step, depth, c, c_row, last, add)
            a, c, rows = further(a, tall * a_row), further(c, tall * c_row), rows - tall
        while rows >= 4:
            four(a, pitch, b, b_step, depth, c, c_row, last, add)
            a, c, rows = further(a, 4 * a_row), further(c, 4 * c_row), rows - 4
        if rows >= 2:
            two(a, pitch, b, b_step, depth, c, c_row, last, add)
            a, c, rows = further(a, 2 * a_row), further(c, 2 * c_row), rows - 2
        if rows >= 1:
            single(a, pitch, b, b_step, depth, c, c_row, last, add)

    return compute


def _make_choice(by_rows: bool) -> Any:
    """`compute` for the width at hand."""
    one, two, three = (_make_rows(v, by_rows) for v in (1, 2, 3))
    four = _make_rows(4, by_rows) if VECTORS == 4 else three
    # Where every column is there: a vector and a whole panel, the two widths that most rows are made of.
    plain, wide = (_make_rows(v, by_rows, masked=False) for v in (1, VECTORS)) if MASKS_COST else (one, two)

    @separate_helper
    def choose(a, pitch, b, b_step, depth, c, c_row, rows, vectors, last, add):
        if MASKS_COST and vectors == VECTORS and last == lanes_of(c):
            wide(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        elif MASKS_COST and vectors == 1 and last == lanes_of(c):
            plain(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        elif vectors == 1:
            one(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        elif vectors == 2:
            two(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        elif vectors == 3:
            three(a, pitch, b, b_step, depth, c, c_row, rows, last, add)
        else:
            four(a, pitch, b, b_step, depth, c, c_row, rows, last, add)

    return choose


_by_rows, _by_columns = _make_choice(True), _make_choice(False)


@kernel
def tiles(a, b, c, pitch, b_step, depth, c_row, rows, vectors, last, add, by_rows):
    """What `product.strip` does, on addresses."""
    if by_rows:
        _by_rows(a, pitch, b, b_step, depth, c, c_row, rows, vectors, last, add)
    else:
        _by_columns(a, pitch, b, b_step, depth, c, c_row, rows, vectors, last, add)


publish(tiles, TILES, 3, 9)
