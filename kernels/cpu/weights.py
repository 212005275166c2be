"""Gradients of weights, and the update of the weights while their gradient is in the cache."""

from __future__ import annotations

from typing import Any

from ..interface import Array
from .board import THREADS, bind, load
from .compiling import helper
from .memory import flat, keep, on_stack, scratch, shaped
from .packing import PACKED_AT_ONCE, pack
from .product import (
    CHUNKS_A_THREAD,
    NARROW,
    pack_group,
    panel_of,
    panel_width,
    panels_of,
    part_of,
    strip,
    worth_sharing,
)
from .sparse_weights import sparse_weight_gradient
from .threads import launch
from .tile import TALL
from .updates import step_block
from .vectors import lanes_of

X_BLOCK = (4 if NARROW else 8) * TALL
"""Features of x that are packed together for dW: whole vectors and whole tiles."""
X_IN_CACHE = 1 << 17
"""Elements of x up to which dW reads it where it lies.

Rows 4 KiB apart share their places in the caches: without packed factors dW of D took a quarter longer, with AVX-512 a
tenth.
"""
FEATURES_WORTH_PACKING = 512
"""Features of x from which that pays: of 150 and 300 it takes as long or, on two threads, a little longer."""
ROWS_A_GRADIENT = 8 * TALL
"""Rows of dW that are computed and then used by the update, while they are in the first-level cache."""
SAMPLES_A_COLUMN = 8
"""From so many samples on, a column pays for being computed in the transpose and written element by element."""


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
def _columns_left_over(width: int, batch: int, like: Array) -> int:
    """How many columns are left behind the last whole vector, if few enough to be computed as rows of the transpose."""
    rest = width % lanes_of(like)
    return rest if 2 * rest <= lanes_of(like) and batch >= SAMPLES_A_COLUMN * rest else 0


@helper
def _rest_of_rows(x: Array, first: int, rows: int, dy: Array, left: int, rest: int, dw: Array, place: int) -> None:
    """The columns of dW from `left` on, for some rows, to position `place` of `dw`.

    Two columns of fifty take a vector as sixteen do. As rows of the transpose, they fill vectors with features.
    """
    batch, inputs, columns = x.shape[0], x.shape[1], dy.shape[1]
    panel, row, target = panel_width(dw), dw.shape[1], flat(dw)
    sums = shaped(on_stack(dw), (rest, panel))
    for i in range(0, rows, panel):
        some = min(panel, rows - i)
        strip(dy, left, columns, False, x, first + i, inputs, batch, sums, 0, rest, some, False)
        for j in range(rest):
            column, begin = sums[j], place + i * row + j
            for k in range(some):
                target[begin + k * row] = column[k]


@helper
def _dense_chunk(
    x: Array, blocks: Array, dy: Array, packed: Array, dw: Array, w: Array, update: Any, parts: int, chunk: int
) -> None:
    """Some rows of dW, as many columns at a time as have their part of dy in the second-level cache.

    A gradient that nobody looks at after the update stays in the first-level cache, and no memory is written for it.
    """
    in_place = update[2]
    panel = panel_width(dw)
    batch, inputs, columns = x.shape[0], dw.shape[0], dw.shape[1]
    top, rows = part_of(inputs, chunk, parts, TALL)
    direct, both_packed = columns <= panel, blocks.size > 0
    group = columns if direct else max(1, PACKED_AT_ONCE // (batch * panel)) * panel
    own = scratch(0 if direct or both_packed else batch * min(group, columns + panel), on_stack(dw))
    space = scratch(0 if in_place else ROWS_A_GRADIENT * min(group, columns), on_stack(dw))
    for left in range(0, columns, group):
        right = min(left + group, columns)
        local = dw if in_place else shaped(space, (ROWS_A_GRADIENT, right - left))
        count = panels_of(right - left, dw, not both_packed)
        if not direct and not both_packed:
            pack_group(dy, 0, batch, left, right - left, count, own, batch * panel)
        first = top
        while first < top + rows:
            # After the first ones, rows that begin with a block of x.
            some = min(ROWS_A_GRADIENT - first % ROWS_A_GRADIENT, top + rows - first)
            begin = first * columns + left if in_place else 0
            for p in range(count):
                j, width, pitch = panel_of(p, count, right - left, dw)
                place = begin + j
                rest = 0 if both_packed else _columns_left_over(width, batch, dw)
                width -= rest
                if width == 0:
                    pass
                elif direct:
                    strip(x, first, inputs, False, dy, 0, columns, batch, local, place, some, width, False)
                elif both_packed:
                    start, i = (left + j) * batch, 0
                    while i < some:
                        inside = (first + i) % X_BLOCK
                        lies, few = (first + i - inside) * batch + inside, min(X_BLOCK - inside, some - i)
                        goes = place + i * local.shape[1]
                        strip(blocks, lies, X_BLOCK, False, packed, start, panel, batch, local, goes, few, width, False)
                        i += few
                else:
                    strip(x, first, inputs, False, own, j * batch, pitch, batch, local, place, some, width, False)
                if rest > 0:
                    _rest_of_rows(x, first, some, dy, left + j + width, rest, local, place + width)
            step_block(w, update, (first, some), (left, right - left), flat(local), begin, local.shape[1])
            first += some


@helper
def weight_gradient(x: Array, dy: Array, dw: Array, w: Array, update: Any) -> None:
    """``dw = x.T @ dy``, and the update of w as soon as a part of dw is there.

    update: (velocity, whether at all, whether dw is wanted besides, (penalty, rate, momentum, nesterov)), see
    `updates.step`. One of the two is wanted; where dw is not, nothing is written there.
    """
    rows, columns = dw.shape
    if x.shape[0] == 0:
        dw[:] = 0
    if rows and columns:
        batch, most = x.shape[0], CHUNKS_A_THREAD * load(THREADS)
        if sparse_weight_gradient(x, dy, dw, w, update):
            return
        shared, panel = worth_sharing(batch, dw.size), panel_width(dw)
        # Narrow results read x too seldom to be worth the copy. Each chunk packs a small dy again: it waits for nobody.
        large = x.size > X_IN_CACHE and rows >= FEATURES_WORTH_PACKING
        both_packed = shared and large and columns > 4 * panel
        blocks, packed = _in_panels(x, X_BLOCK, both_packed), _in_panels(dy, panel, both_packed)
        parts = max(1, min(most, rows // (2 * TALL))) if shared else 1
        launch(bind(_dense_chunk, (x, blocks, dy, packed, dw, w, update, parts)), parts, shared)
        keep(packed)
        keep(blocks)
