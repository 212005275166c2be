"""Gradients of weights, and the update of the weights while their gradient is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interface import Array
from .board import THREADS, bind, load
from .compiling import helper
from .memory import flat, keep, on_stack, scratch, shaped
from .packing import pack, pack_gated, pack_transposed
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
from .sparse import (
    MOST_NONZERO,
    WORD_BITS,
    meet,
    pack_wide,
    wide_panel,
    wide_panels,
    words_across,
    worth_skipping,
    write_words,
)
from .squares import update_some, update_square
from .threads import launch
from .tile import ACCUMULATORS, TALL, lanes_of
from .updates import step

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
PACKED_AT_ONCE = 1 << 16
"""Elements of dy that are packed for dW at a time: they stay in the second-level cache."""
TURNING = 16 if ACCUMULATORS == 24 else 6
"""Samples whose sums take as long as transposing the result, with AVX-512 and without."""
TURNED_AT_ONCE = 64
"""Rows of the transpose of a factor that one thread makes at a time."""
SPARSE_ROWS = 64
"""Rows of dW that meet a panel while it is in the first-level cache."""
SAMPLES_A_COLUMN = 8
"""From so many samples on, a column pays for being computed in the transpose and written element by element."""
UNITS_AT_ONCE = 64
"""As many rows of the transpose of dW."""
COLUMNS_AT_ONCE = 256
"""Of dW that are updated at a time."""
FEATURES_TOGETHER = 16
"""Whose rows of dW one thread computes."""
DENSE, SPARSE_X, SPARSE_DY = range(3)
"""Ways to compute dW."""


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
def _update(w: Array, update: Any, rows: Any, columns: Any, found: Array, begin: int, pitch: int) -> None:
    """The update of a block of w; its gradient begins at `begin`, and `pitch` leads from row to row.

    rows, columns: of the block, the first and how many.
    """
    velocity, early, _, (penalty, rate, momentum, nesterov) = update
    weights, speed = flat(w), flat(velocity)
    (first, some), (left, width) = rows, columns
    runs, length = (1, some * width) if width == w.shape[1] == pitch else (some, width)
    for i in range(runs if early else 0):
        start, place = (first + i) * w.shape[1] + left, begin + i * pitch
        own = found[place : place + length]
        step(weights[start : start + length], own, speed[start : start + length], penalty, rate, momentum, nesterov)


@helper
def _update_turned(w: Array, update: Any, rows: Any, columns: Any, found: Array) -> None:
    """`_update` of a block of w, whose gradient is turned in registers.

    found: the transpose of it, with room for whole squares. The block in memory, turned and then read again, took a
    quarter longer, and the place of others in the second-level cache.
    """
    velocity, _, _, rates = update
    weights, speed, gradient, lanes = flat(w), flat(velocity), flat(found), lanes_of(w)
    (first, some), (left, width) = rows, columns
    row, pitch = w.shape[1], found.shape[1]
    for i in range(0, some, lanes):
        for k in range(0, width, lanes):
            start, lies = (first + i) * row + left + k, k * pitch + i
            if i + lanes <= some and k + lanes <= width:
                update_square(gradient, lies, pitch, weights, speed, start, row, lanes, lanes, rates)
            else:
                update_some(gradient, lies, pitch, weights, speed, start, row, some - i, width - k, rates)


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
            _update(w, update, (first, some), (left, right - left), flat(local), begin, local.shape[1])
            first += some


@helper
def _room_turned(a: Array) -> Any:
    """Room for the transpose of a factor, how many elements lead from row to row, and room for words.

    The caller has to `keep` it.
    """
    batch, rows = a.shape
    lanes = lanes_of(a)
    pitch, height = (batch + lanes - 1) // lanes * lanes, (rows + lanes - 1) // lanes * lanes
    return scratch(height * pitch, flat(a)[:0]), pitch, scratch(rows * words_across(batch), on_stack(np.int64)[:0])


@helper
def _turned_chunk(a: Array, room: Any, chunk: int) -> None:
    turned, pitch, words = room
    first, batch = chunk * TURNED_AT_ONCE, a.shape[0]
    rows = min(TURNED_AT_ONCE, a.shape[1] - first)
    pack_transposed(a, first, rows, 0, batch, turned[first * pitch :], pitch)
    write_words(turned, first * pitch, pitch, rows, batch, words, first * words_across(batch))


@helper
def _turn(a: Array, room: Any) -> None:
    """The transpose of a factor, and words that say which of its elements are not zero."""
    launch(bind(_turned_chunk, (a, room)), (a.shape[1] + TURNED_AT_ONCE - 1) // TURNED_AT_ONCE, True)


@helper
def _gated_chunk(dy: Array, y: Array, factor: float, db: Array, room: Any, group: int, chunk: int) -> None:
    """Some columns of dz, turned, their words and their sums."""
    turned, pitch, words = room
    batch, right = dy.shape[0], min((chunk + 1) * group, dy.shape[1])
    for first in range(chunk * group, right, TURNED_AT_ONCE):
        rows = min(TURNED_AT_ONCE, right - first)
        sums = on_stack(dy)
        pack_gated(dy, y, factor, first, rows, sums, turned, first * pitch, pitch)
        db[first : first + rows] = sums[:rows]
        write_words(turned, first * pitch, pitch, rows, batch, words, first * words_across(batch))


@helper
def _turn_gated(dy: Array, y: Array, factor: float, db: Array, room: Any) -> None:
    """`_turn` of ``dz = dy * factor where y > 0``, and the sums of its columns to db."""
    columns = dy.shape[1]
    group = max(1, columns // (TURNED_AT_ONCE * load(THREADS))) * TURNED_AT_ONCE
    launch(bind(_gated_chunk, (dy, y, factor, db, room, group)), (columns + group - 1) // group, True)


@helper
def _sparse_x_chunk(turned: Any, dy: Array, dw: Array, w: Array, update: Any, parts: int, chunk: int) -> None:
    """Some rows of dW where x is mostly zeros: each is a sum over the samples in which its feature is not."""
    x, row, words = turned
    in_place = update[2]
    batch, inputs, columns = dy.shape[0], dw.shape[0], dw.shape[1]
    panel, across = wide_panel(columns, dw), words_across(batch)
    room = WORD_BITS * panel
    top, rows = part_of(inputs, chunk, parts, SPARSE_ROWS)
    group = min(max(1, PACKED_AT_ONCE // (across * room)), wide_panels(columns, dw)) * panel
    own = scratch(group // panel * across * room, on_stack(dw))
    always = scratch(group // panel * across, on_stack(np.int64))
    space = scratch(0 if in_place else SPARSE_ROWS * min(group, columns), on_stack(dw))
    for left in range(0, columns, group):
        right = min(left + group, columns)
        local = dw if in_place else shaped(space, (SPARSE_ROWS, right - left))
        for j in range(left, right, panel):
            width, p = min(panel, right - j), (j - left) // panel * across
            for q in range(across):
                top_row, depth = q * WORD_BITS, min(WORD_BITS, batch - q * WORD_BITS)
                always[p + q] = pack_wide(dy, False, top_row, depth, j, width, own[(p + q) * room :], panel)
        for first in range(top, top + rows, SPARSE_ROWS):
            some = min(SPARSE_ROWS, top + rows - first)
            begin = first * columns + left if in_place else 0
            for j in range(left, right, panel):
                width, p, place = min(panel, right - j), (j - left) // panel * across, begin + j - left
                for q in range(across):
                    left_factor = x, first * row + q * WORD_BITS, row, words, first * across + q, across
                    right_factor = own, (p + q) * room, panel, always[p + q]
                    meet(left_factor, right_factor, local, place, some, width, q > 0)
            _update(w, update, (first, some), (left, right - left), flat(local), begin, local.shape[1])


@helper
def _sparse_dy_chunk(turned: Any, x: Array, dw: Array, w: Array, update: Any, parts: int, chunk: int) -> None:
    """Some rows of dW where dy is mostly zeros: its columns, sums over the samples that reach a unit, transposed."""
    dy, row, words = turned
    _, early, wanted, (_, _, momentum, _) = update
    at_once = early and not wanted and momentum != 0
    batch, inputs, columns = x.shape[0], dw.shape[0], dw.shape[1]
    top, rows = part_of(inputs, chunk, parts, FEATURES_TOGETHER)
    panel, across = wide_panel(rows, dw), words_across(batch)
    room = WORD_BITS * panel
    # All columns, if they are few: their rows lie end to end, and the update is one long loop.
    group = min(COLUMNS_AT_ONCE, columns)
    own = scratch(across * room, on_stack(dw))
    always = scratch(across, on_stack(np.int64))
    sums = shaped(scratch(UNITS_AT_ONCE * panel, on_stack(dw)), (UNITS_AT_ONCE, panel))
    space = scratch(0 if at_once else panel * group + lanes_of(dw), on_stack(dw))
    gradient = flat(dw)
    for first in range(top, top + rows, panel):
        some = min(panel, top + rows - first)
        for q in range(across):
            depth = min(WORD_BITS, batch - q * WORD_BITS)
            always[q] = pack_wide(x, False, q * WORD_BITS, depth, first, some, own[q * room :], panel)
        for left in range(0, columns, group):
            width = min(group, columns - left)
            # From the last ones to the first, as `pack_transposed` wants it.
            for u in range((width - 1) // UNITS_AT_ONCE, -1, -1):
                unit = left + u * UNITS_AT_ONCE
                units = min(UNITS_AT_ONCE, left + width - unit)
                for q in range(across):
                    left_factor = dy, unit * row + q * WORD_BITS, row, words, unit * across + q, across
                    meet(left_factor, (own, q * room, panel, always[q]), sums, 0, units, some, q > 0)
                if at_once:
                    _update_turned(w, update, (first, some), (unit, units), sums)
                else:
                    pack_transposed(sums, 0, some, 0, units, space[unit - left :], group)
            if wanted:
                runs, length = (1, some * columns) if group == columns else (some, width)
                for i in range(runs):
                    place = (first + i) * columns + left
                    gradient[place : place + length] = space[i * group : i * group + length]
            if not at_once:
                _update(w, update, (first, some), (left, width), space, 0, group)


@helper
def _way(x: Array, dy: Array, dw: Array) -> int:
    """How dW is computed: DENSE, or by the zeros of x or of dy; dy: or what is zero in the same places."""
    if not worth_sharing(x.shape[0], dw.size):
        return DENSE
    if worth_skipping(x, dw.shape[1], MOST_NONZERO):
        return SPARSE_X
    # The result is transposed, whatever the batch: sums of more samples pay for it sooner.
    batch = x.shape[0]
    sparse_dy = batch >= WORD_BITS and worth_skipping(dy, dw.shape[0], MOST_NONZERO - TURNING / batch)
    return SPARSE_DY if sparse_dy else DENSE


@helper
def _by_zeros_of_dy(turned: Any, x: Array, dw: Array, w: Array, update: Any) -> None:
    """`weight_gradient`, of a dy that `_turn` or `_turn_gated` turned."""
    parts = max(1, min(CHUNKS_A_THREAD * load(THREADS), dw.shape[0] // (2 * FEATURES_TOGETHER)))
    launch(bind(_sparse_dy_chunk, (turned, x, dw, w, update, parts)), parts, True)


@helper
def gated_weight_gradient(
    x: Array, dy: Array, y: Array, factor: float, dw: Array, db: Array, w: Array, update: Any
) -> bool:
    """`weight_gradient` of ``dz = dy * factor where y > 0``, and db, if dW is computed by the zeros of dz.

    dz is then written transposed only, as dW wants it. Returns whether it was; otherwise nothing was done.
    """
    if _way(x, y, dw) != SPARSE_DY:
        return False
    room = _room_turned(dy)
    _turn_gated(dy, y, factor, db, room)
    _by_zeros_of_dy(room, x, dw, w, update)
    keep(room)
    return True


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
        shared, panel, way = worth_sharing(batch, dw.size), panel_width(dw), _way(x, dy, dw)
        if way != DENSE:
            room = _room_turned(x if way == SPARSE_X else dy)
            _turn(x if way == SPARSE_X else dy, room)
            if way == SPARSE_X:
                parts = max(1, min(most, rows // SPARSE_ROWS))
                launch(bind(_sparse_x_chunk, (room, dy, dw, w, update, parts)), parts, True)
            else:
                _by_zeros_of_dy(room, x, dw, w, update)
            keep(room)
            return
        # Narrow results read x too seldom to be worth the copy. Each chunk packs a small dy again: it waits for nobody.
        large = x.size > X_IN_CACHE and rows >= FEATURES_WORTH_PACKING
        both_packed = shared and large and columns > 4 * panel
        blocks, packed = _in_panels(x, X_BLOCK, both_packed), _in_panels(dy, panel, both_packed)
        parts = max(1, min(most, rows // (2 * TALL))) if shared else 1
        launch(bind(_dense_chunk, (x, blocks, dy, packed, dw, w, update, parts)), parts, shared)
        keep(packed)
        keep(blocks)
