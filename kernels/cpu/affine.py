"""Affine maps: a matrix product, and everything else while its result is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interface import Array
from .board import THREADS, bind, load
from .compiling import helper, kernel
from .memory import flat, keep, on_stack, scratch, shaped
from .packing import pack
from .philox import random_lanes
from .product import (
    CHUNKS_A_THREAD,
    NARROW,
    group_of,
    groups_of,
    middle,
    pack_group,
    panel_of,
    panel_width,
    panels_of,
    part_of,
    parts_of,
    strip,
    times,
    worth_sharing,
)
from .threads import ELEMENTS_WORTH_SHARING, launch
from .tile import TALL
from .updates import step

MASK_ELEMENTS = 2048
"""Elements whose masks are drawn at a time: their random numbers stay in the first-level cache."""
MOST_ELEMENTS_TO_JOIN = 1 << 16
"""Of a result whose sums may be cut in two."""
MOST_ROWS_A_PART = 256
"""Rows of x for which a group of panels is packed again, and that stay in the second-level cache meanwhile."""
X_BLOCK = 4 * TALL
"""Features of x that are packed together for dW: whole vectors, where x is packed at all."""
X_IN_CACHE = 1 << 17
"""Elements of x up to which dW reads it where it lies.

Rows 4 KiB apart share their places in the caches: without packed factors dW of D took a quarter longer.
"""
ROWS_A_GRADIENT = 8 * TALL
"""Rows of dW that are computed and then used by the update, while they are in the first-level cache."""
PACKED_AT_ONCE = 1 << 16
"""Elements of dy that are packed for dW at a time: they stay in the second-level cache."""
NO_DROPOUT = 65536


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
    x: Array, w: Array, b: Array, epilogue: Any, out: Array, other: Array, half: int, cuts: Any, chunk: int
) -> None:
    """Some rows of a group, finished while in the cache; or one half of their sums, the second half into `other`."""
    groups, parts = cuts
    second = chunk >= groups * parts
    # All groups of some rows, then other rows: a thread finds x in its second-level cache.
    left, width = group_of(chunk % groups, groups, out.shape[1], out)
    first, rows = part_of(out.shape[0], chunk // groups % parts, parts, TALL)
    begin, end = (half, w.shape[0]) if second else (0, half)
    times(x, first, rows, w, False, left, width, begin, end, other if second else out)
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
def _forward(x: Array, w: Array, b: Array, epilogue: Any, out: Array) -> None:
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
    groups = groups_of(columns, out, sharing) if shared else 1
    parts = parts_of(rows, groups, TALL, sharing, shared)
    cuts = groups, max(parts, (rows + MOST_ROWS_A_PART - 1) // MOST_ROWS_A_PART)
    space = scratch(out.size if halved else 0, on_stack(out))
    other = shaped(space, out.shape) if halved else out
    chunks = groups * cuts[1] * (2 if halved else 1)
    launch(bind(_forward_chunk, (x, w, b, epilogue, out, other, half, cuts)), chunks, shared)
    if halved:
        parts = min(rows, CHUNKS_A_THREAD * threads)
        launch(bind(_joining_chunk, (out, other, b, epilogue, parts)), parts, True)
    keep(other)


@helper
def _dx_chunk(dy: Array, w: Array, dx: Array, groups: int, parts: int, chunk: int) -> None:
    left, width = group_of(chunk // parts, groups, dx.shape[1], dx)
    first, rows = part_of(dx.shape[0], chunk % parts, parts, TALL)
    times(dy, first, rows, w, True, left, width, 0, w.shape[1], dx)


@helper
def _dx(dy: Array, w: Array, dx: Array) -> None:
    rows, columns = dx.shape
    if rows and columns:
        shared, threads = worth_sharing(rows, w.size), load(THREADS)
        # Groups of one: a panel is used while the first-level cache has it, just transposed.
        groups = panels_of(columns, dx, True)
        parts = parts_of(rows, groups, TALL, threads, shared)
        launch(bind(_dx_chunk, (dy, w, dx, groups, parts)), groups * parts, shared)


@helper
def _panels_chunk(a: Array, pitch: int, group: int, panels: Array, chunk: int) -> None:
    left, batch = chunk * group, a.shape[0]
    width = min(group, a.shape[1] - left)
    last_left = (width - 1) // pitch * pitch
    pack(a, 0, batch, left, width, panels[left * batch :], batch * pitch, pitch, last_left, pitch)


@helper
def _in_panels(a: Array, pitch: int, wanted: bool) -> Array:
    """A factor in panels of `pitch` columns, see `pack`; empty if that is not wanted. The caller has to `keep` it."""
    if not wanted:
        return flat(a)[:0]
    batch, columns = a.shape
    across = (columns + pitch - 1) // pitch
    panels = scratch(across * pitch * batch, flat(a)[:0])
    group = pitch * max(1, across // (CHUNKS_A_THREAD * load(THREADS)))
    launch(bind(_panels_chunk, (a, pitch, group, panels)), (columns + group - 1) // group, True)
    return panels


@helper
def _dw_chunk(
    x: Array, blocks: Array, dy: Array, packed: Array, dw: Array, w: Array, update: Any, cuts: Any, chunk: int
) -> None:
    """Some rows of dW, as many columns at a time as have their part of dy in the second-level cache.

    A gradient that nobody looks at after the update stays in the first-level cache, and no memory is written for it.
    """
    velocity, wanted, kept, (penalty, rate, momentum, nesterov) = update
    panel = panel_width(dw)
    batch, inputs, columns = x.shape[0], dw.shape[0], dw.shape[1]
    top, rows = part_of(inputs, chunk, *cuts)
    direct, both_packed = columns <= panel, blocks.size > 0
    group = columns if direct else max(1, PACKED_AT_ONCE // (batch * panel)) * panel
    own = scratch(0 if direct or both_packed else batch * min(group, columns + panel), on_stack(dw))
    gradient, weights, speed = flat(dw), flat(w), flat(velocity)
    space = scratch(ROWS_A_GRADIENT * min(group, columns) if wanted and not kept else 0, on_stack(dw))
    for left in range(0, columns, group):
        right = min(left + group, columns)
        local = shaped(space, (ROWS_A_GRADIENT, right - left)) if wanted and not kept else dw
        count = panels_of(right - left, dw, not both_packed)
        if not direct and not both_packed:
            pack_group(dy, 0, batch, left, right - left, count, own, batch * panel)
        for first in range(top, top + rows, ROWS_A_GRADIENT):
            some = min(ROWS_A_GRADIENT, top + rows - first)
            for p in range(count):
                j, width, pitch = panel_of(p, count, right - left, dw)
                place = first * columns + left + j if kept else j
                if direct:
                    strip(x, first, inputs, False, dy, 0, columns, batch, local, place, some, width, False)
                elif both_packed:
                    start = (left + j) * batch
                    for i in range(0, some, X_BLOCK):
                        lies, goes, few = (first + i) * batch, place + i * local.shape[1], min(X_BLOCK, some - i)
                        strip(blocks, lies, X_BLOCK, False, packed, start, panel, batch, local, goes, few, width, False)
                else:
                    strip(x, first, inputs, False, own, j * batch, pitch, batch, local, place, some, width, False)
            if wanted and right - left == columns:
                begin, end = first * columns, (first + some) * columns
                found = gradient[begin:end] if kept else space[: some * columns]
                step(weights[begin:end], found, speed[begin:end], penalty, rate, momentum, nesterov)
            elif wanted:
                for i in range(first, first + some):
                    begin, end = i * columns + left, i * columns + right
                    row = (i - first) * (right - left)
                    found = gradient[begin:end] if kept else space[row : row + right - left]
                    step(weights[begin:end], found, speed[begin:end], penalty, rate, momentum, nesterov)


@helper
def _dw(x: Array, dy: Array, dw: Array, w: Array, update: Any) -> None:
    rows, columns = dw.shape
    if x.shape[0] == 0:
        dw[:] = 0
    if rows and columns:
        shared, panel = worth_sharing(x.shape[0], dw.size), panel_width(dw)
        # Narrow results read x too seldom to be worth the copy. Each chunk packs a small dy again: it waits for nobody.
        both_packed = NARROW and shared and x.size > X_IN_CACHE and columns > 4 * panel
        blocks, packed = _in_panels(x, X_BLOCK, both_packed), _in_panels(dy, panel, both_packed)
        tile = X_BLOCK if both_packed else TALL
        parts = max(1, min(CHUNKS_A_THREAD * load(THREADS), rows // (2 * tile))) if shared else 1
        launch(bind(_dw_chunk, (x, blocks, dy, packed, dw, w, update, (parts, tile))), parts, shared)
        keep(packed)
        keep(blocks)


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
    group = panel_width(dz) if shared else max(1, columns)
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
    _dw(x, dy, dw, w, update)
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
    _masked(dy, y, factor, dz, db, True)
    if dx_wanted:
        _dx(dz, w, dx)
    _dw(x, dz, dw, w, update)


@kernel
def affine(x: Array, w: Array, b: Array, out: Array) -> None:
    _forward(x, w, b, (False, out.dtype.type(1), NO_DROPOUT, (0, 0, 0)), out)


@kernel
def affine_backward(dy: Array, x: Array, w: Array, dx: Array | None, dw: Array | None, db: Array | None) -> None:
    if dx is not None:
        _dx(dy, w, dx)
    if dw is not None:
        _dw(x, dy, dw, w, no_update(w))
    if db is not None:
        _column_sums(dy, db)


@kernel
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
    _forward(x, w, b, (True, out.dtype.type(scale), threshold, (seed, draw, stream)), out)


@kernel
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
    if db is None:
        _masked(dy, y, dy.dtype.type(scale), dz, flat(dz), False)
    else:
        _masked(dy, y, dy.dtype.type(scale), dz, db, True)
    if dx is not None:
        _dx(dz, w, dx)
    if dw is not None:
        _dw(x, dz, dw, w, no_update(w))
