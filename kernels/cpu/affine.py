"""Affine maps: a matrix product, and everything else while its result is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interface import NO_DROPOUT, Array
from .board import THREADS, bind, load
from .compiling import calling_kernel, helper
from .dots import columns_left, copy_columns, room_for_columns, times_columns
from .memory import borrowed, flat, keep, on_stack, scratch, shaped
from .philox import random_lanes
from .product import (
    CHUNKS_A_THREAD,
    group_of,
    groups_of,
    middle,
    panel_width,
    panels_of,
    part_of,
    parts_of,
    strip,
    times,
    worth_sharing,
)
from .sparse import MOST_NONZERO, sparse_times, wide_group_of, wide_panels, worth_skipping
from .sparse_weights import gated_weight_gradient
from .threads import ELEMENTS_WORTH_SHARING, launch
from .tile import TALL
from .weights import weight_gradient

MASK_ELEMENTS = 2048
"""Elements whose masks are drawn at a time: their random numbers stay in the first-level cache."""
MOST_ELEMENTS_TO_JOIN = 1 << 16
"""Of a result whose sums may be cut in two."""
MOST_ROWS_A_PART = 256
"""Rows of x for which a group of panels is packed again, and that stay in the second-level cache meanwhile."""


@helper
def _finish(out: Array, first: int, rows: int, left: int, width: int, b: Array, relu: bool, factor: float) -> None:
    """Bias, and ReLU and a factor if they are wanted."""
    bias = b[left : left + width]
    zero = out.dtype.type(0)
    for i in range(first, first + rows):
        row = out[i, left : left + width]
        if relu:
            for j in range(row.size):
                v = row[j] + bias[j]
                row[j] = zero if v <= 0 else v * factor
        else:
            for j in range(row.size):
                row[j] += bias[j]


@helper
def _finish_masked(
    out: Array, first: int, rows: int, left: int, width: int, b: Array, factor: float, threshold: int, state: Any
) -> None:
    """Bias, ReLU, mask and factor. Lane i % 8 of block i // 8 decides about element i of the flattened result."""
    seed, draw, stream = state
    zero = out.dtype.type(0)
    # The threshold reaches 65536, one more than 16 bits hold: compare with "at most threshold - 1".
    last = np.uint16(threshold - 1)
    values, columns = flat(out), out.shape[1]
    whole = width == columns
    # Whole rows share the blocks where one ends and the next begins; parts of rows have blocks of their own.
    blocks = (left % 8 + width + 7) // 8 + (columns % 8 != 0)
    group = max(1, MASK_ELEMENTS // (8 * blocks))
    counters = scratch(group * blocks + 1, on_stack(np.uint32))
    words = scratch(4 * counters.size, on_stack(np.uint32))
    lanes = words.view(np.uint16)
    for top in range(first, first + rows, group):
        some = min(group, first + rows - top)
        origin = top * columns // 8
        if whole:
            used = ((top + some) * columns + 7) // 8 - origin
            for k in range(used):
                counters[k] = np.uint32(origin + k)
        else:
            used = some * blocks
            for i in range(some):
                block = ((top + i) * columns + left) // 8
                of_row = counters[i * blocks : (i + 1) * blocks]
                for k in range(of_row.size):
                    of_row[k] = np.uint32(block + k)
        random_lanes(counters[:used], seed, draw, stream, words)
        _finish(out, top, some, left, width, b, True, factor)
        # Whole rows lie end to end, and so do their lanes: one long loop.
        runs, length = (1, some * columns) if whole else (some, width)
        for i in range(runs):
            place = (top + i) * columns + left
            row, chosen = values[place : place + length], lanes[8 * i * blocks + place % 8 :]
            for j in range(row.size):
                row[j] = row[j] if chosen[j] <= last else zero


@helper
def _finish_block(out: Array, first: int, rows: int, left: int, width: int, b: Array, epilogue: Any) -> None:
    relu, factor, threshold, state = epilogue
    if threshold == NO_DROPOUT:
        _finish(out, first, rows, left, width, b, relu, factor)
    else:
        _finish_masked(out, first, rows, left, width, b, factor, threshold, state)


@helper
def _forward_chunk(
    x: Array, w: Array, b: Array, epilogue: Any, out: Array, other: Array, half: int, cuts: Any, behind: Any, chunk: int
) -> None:
    """Some rows of a group, finished while in the cache; or one half of their sums, the second half into `other`.

    behind: how many columns are left behind those of the groups, and copies of them.
    """
    (groups, parts, skipping), (rest, copies) = cuts, behind
    second = chunk >= groups * parts
    # All groups of some rows, then other rows: a thread finds x in its second-level cache.
    first, rows = part_of(out.shape[0], chunk // groups % parts, parts, TALL)
    begin, end = (half, w.shape[0]) if second else (0, half)
    target, columns = other if second else out, out.shape[1] - rest
    if skipping:
        left, width = wide_group_of(chunk % groups, groups, columns, out)
        sparse_times(x, first, rows, w, False, left, width, begin, end, target)
    else:
        left, width = group_of(chunk % groups, groups, columns, out)
        times(x, first, rows, w, False, left, width, begin, end, target)
    if rest > 0 and left + width == columns:
        times_columns(x, first, rows, copies, rest, begin, end, target)
        width += rest
    if half == w.shape[0]:
        _finish_block(out, first, rows, left, width, b, epilogue)


@helper
def _joining_chunk(out: Array, other: Array, b: Array, epilogue: Any, parts: int, chunk: int) -> None:
    first, rows = part_of(out.shape[0], chunk, parts, 1)
    for i in range(first, first + rows):
        row, more = out[i], other[i]
        for j in range(row.size):
            row[j] += more[j]
    _finish_block(out, first, rows, 0, out.shape[1], b, epilogue)


@helper
def forward(x: Array, w: Array, b: Array, epilogue: Any, out: Array) -> None:
    """The product is cut by columns and rows; where the sums are much longer than the result is wide, by the sums.

    Then each thread reads only the weights that it updates in the backward pass, and its own half of x: both are in its
    cache, and what travels between the cores is the small result.
    """
    rows, columns = out.shape
    if rows == 0 or columns == 0:
        return
    shared, threads = worth_sharing(rows, w.size), load(THREADS)
    half = middle(w.shape[0])
    # Of a sum shorter than a cache line there is no second half.
    halved = shared and half < w.shape[0] > 2 * columns and out.size <= MOST_ELEMENTS_TO_JOIN
    half = half if halved else w.shape[0]
    sharing = (threads + 1) // 2 if halved else threads
    # Alone, whole rows: they are finished faster than parts of rows.
    groups, skipping = 1, shared and worth_skipping(x, columns, MOST_NONZERO)
    rest = columns_left(columns, w.shape[0], out)
    if skipping:
        groups = min(wide_panels(columns - rest, out), CHUNKS_A_THREAD * sharing)
    elif shared:
        groups = groups_of(columns - rest, out, sharing)
    parts = parts_of(rows, groups, TALL, sharing, shared)
    cuts = groups, max(parts, (rows + MOST_ROWS_A_PART - 1) // MOST_ROWS_A_PART), skipping
    copies = scratch(room_for_columns(rest, w.shape[0], w), on_stack(w))
    copy_columns(w, rest, copies)
    space = scratch(out.size if halved else 0, on_stack(out))
    other = shaped(space, out.shape) if halved else out
    chunks = groups * cuts[1] * (2 if halved else 1)
    launch(bind(_forward_chunk, (x, w, b, epilogue, out, other, half, cuts, (rest, copies))), chunks, shared)
    if halved:
        parts = min(rows, CHUNKS_A_THREAD * threads)
        launch(bind(_joining_chunk, (out, other, b, epilogue, parts)), parts, True)
    keep(copies)
    keep(other)


@helper
def _dx_chunk(dy: Array, w: Array, dx: Array, groups: int, parts: int, skipping: bool, chunk: int) -> None:
    first, rows = part_of(dx.shape[0], chunk % parts, parts, TALL)
    if skipping:
        left, width = wide_group_of(chunk // parts, groups, dx.shape[1], dx)
        sparse_times(dy, first, rows, w, True, left, width, 0, w.shape[1], dx)
    else:
        left, width = group_of(chunk // parts, groups, dx.shape[1], dx)
        times(dy, first, rows, w, True, left, width, 0, w.shape[1], dx)


@helper
def _dx(dy: Array, w: Array, dx: Array) -> None:
    rows, columns = dx.shape
    if rows and columns:
        shared, threads = worth_sharing(rows, w.size), load(THREADS)
        skipping = shared and worth_skipping(dy, columns, MOST_NONZERO)
        # Groups of one: a panel is used while the first-level cache has it, just transposed.
        groups = min(wide_panels(columns, dx), CHUNKS_A_THREAD * threads) if skipping else panels_of(columns, dx, True)
        parts = parts_of(rows, groups, TALL, threads, shared)
        launch(bind(_dx_chunk, (dy, w, dx, groups, parts, skipping)), groups * parts, shared)


@helper
def _column_sums(a: Array, out: Array) -> None:
    panel = panel_width(out)
    for left in range(0, out.size, panel):
        _sums_of(a, left, min(panel, out.size - left), out)


@helper
def _sums_of(a: Array, left: int, width: int, out: Array) -> None:
    """Sums of some columns, in the order of the rows: the product with a row of ones, which rounds as adding does."""
    if a.shape[0] == 0:
        out[left : left + width] = 0
        return
    one = on_stack(out)
    one[0] = 1
    strip(one, 0, 0, False, a, left, a.shape[1], a.shape[0], shaped(out, (1, out.size)), left, 1, width, False)


@helper
def _masked_chunk(
    dy: Array, y: Array, factor: float, dz: Array, db: Array, wanted: bool, group: int, chunk: int
) -> None:
    """Some columns of ``dz = dy * factor where y > 0``, and their sums."""
    zero = dy.dtype.type(0)
    panel, columns = panel_width(dz), dz.shape[1]
    left, right = chunk * group, min(columns, (chunk + 1) * group)
    # Where these are all columns, rows lie end to end: one long loop.
    runs, length = (1, dz.size) if right - left == columns else (dz.shape[0], right - left)
    above, output, target = flat(dy), flat(y), flat(dz)
    for i in range(runs):
        begin = i * columns + left
        end = begin + length
        given, active, masked = above[begin:end], output[begin:end], target[begin:end]
        for j in range(masked.size):
            masked[j] = given[j] * factor if active[j] > 0 else zero
    if wanted:
        for j in range(left, right, panel):
            _sums_of(dz, j, min(panel, right - j), db)


@helper
def _masked(dy: Array, y: Array, factor: float, dz: Array, db: Array, wanted: bool) -> None:
    shared, columns = dy.size >= ELEMENTS_WORTH_SHARING, dy.shape[1]
    panel, threads = panel_width(dz), load(THREADS)
    # In as few pieces of rows as there are threads: short ones take longer to begin than to end.
    group = (columns + panel * threads - 1) // (panel * threads) * panel if shared else max(1, columns)
    chunks = (columns + group - 1) // group
    launch(bind(_masked_chunk, (dy, y, factor, dz, db, wanted, group)), chunks, shared)


@helper
def no_update(like: Array) -> Any:
    """The last arguments of `backward` where nothing is updated."""
    none = like.dtype.type(0)
    return like, False, True, (none, none, none, False)


@helper
def backward(dy: Array, x: Array, w: Array, dx: Array, dx_wanted: bool, dw: Array, db: Array, update: Any) -> None:
    """`affine_backward` with dw and db, and the update of w as soon as a part of dw is there.

    update: (velocity, whether at all, whether dw is wanted besides, (penalty, rate, momentum, nesterov)), see
    `updates.step`.
    """
    if dx_wanted:
        _dx(dy, w, dx)
    weight_gradient(x, dy, dw, w, update)
    _column_sums(dy, db)


@helper
def backward_masked(
    dy: Array,
    x: Array,
    w: Array,
    y: Array,
    factor: float,
    dz: Array,
    dx: Array,
    dx_wanted: bool,
    dw: Array,
    db: Array,
    update: Any,
) -> None:
    """`affine_relu_dropout_backward` with dw and db, and the update as `backward`."""
    if not dx_wanted and gated_weight_gradient(x, dy, y, factor, dw, db, w, update):
        return
    _masked(dy, y, factor, dz, db, True)
    if dx_wanted:
        _dx(dz, w, dx)
    weight_gradient(x, dz, dw, w, update)


@calling_kernel
def affine(x: Array, w: Array, b: Array, out: Array) -> None:
    x, w, b, out = borrowed(x), borrowed(w), borrowed(b), borrowed(out)
    forward(x, w, b, (False, out.dtype.type(1), NO_DROPOUT, (0, 0, 0)), out)


@calling_kernel
def affine_backward(dy: Array, x: Array, w: Array, dx: Array | None, dw: Array | None, db: Array | None) -> None:
    dy, x, w = borrowed(dy), borrowed(x), borrowed(w)
    if dx is not None:
        _dx(dy, w, borrowed(dx))
    if dw is not None:
        weight_gradient(x, dy, borrowed(dw), w, no_update(w))
    if db is not None:
        _column_sums(dy, borrowed(db))


@calling_kernel
def affine_relu_dropout(
    x: Array,
    w: Array,
    b: Array,
    threshold: int,
    scale: float,
    seed: int,
    draw: int,
    stream: int,
    out: Array,
) -> None:
    x, w, b, out = borrowed(x), borrowed(w), borrowed(b), borrowed(out)
    forward(x, w, b, (True, out.dtype.type(scale), threshold, (seed, draw, stream)), out)


@calling_kernel
def affine_relu_dropout_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array,
    scale: float,
    dz: Array,
    dx: Array | None,
    dw: Array | None,
    db: Array | None,
) -> None:
    dy, x, w, y, dz = borrowed(dy), borrowed(x), borrowed(w), borrowed(y), borrowed(dz)
    factor = dy.dtype.type(scale)
    if dx is None and dw is not None and db is not None:
        backward_masked(dy, x, w, y, factor, dz, dz, False, borrowed(dw), borrowed(db), no_update(w))
        return
    if db is None:
        _masked(dy, y, factor, dz, flat(dz), False)
    else:
        _masked(dy, y, factor, dz, borrowed(db), True)
    if dx is not None:
        _dx(dz, w, borrowed(dx))
    if dw is not None:
        weight_gradient(x, dz, borrowed(dw), w, no_update(w))
