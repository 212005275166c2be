"""Gradients of weights where a factor is mostly zeros, as ReLU and dropout leave them.

The factor is turned first, so that what is summed up lies end to end, and words say which of it is not zero: see
`sparse.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aligned import LINE_BYTES
from ..interface import Array
from .board import THREADS, bind, load
from .compiling import helper
from .memory import flat, keep, on_stack, scratch, shaped
from .packing import PACKED_AT_ONCE, pack_gated, pack_transposed
from .product import CHUNKS_A_THREAD, part_of, worth_sharing
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
from .threads import launch
from .updates import step_block, step_turned_block
from .vectors import REGISTERS, VECTOR_BYTES, lanes_of

TURNING = 8 if REGISTERS == 32 else 6
"""Samples whose sums take as long as transposing the result, with AVX-512 and without."""
TURNED_AT_ONCE = 64
"""Rows of the transpose of a factor that one thread makes at a time."""
ROWS_AT_ONCE = 64
"""Rows of dW that meet a panel while it is in the first-level cache."""
UNITS_AT_ONCE = 64
"""As many rows of the transpose of dW."""
COLUMNS_AT_ONCE = 256
"""Of dW that are updated at a time."""
FEATURES_TOGETHER = 16
"""Whose rows of dW one thread computes."""
DENSE, SPARSE_X, SPARSE_DY = range(3)
"""Ways to compute dW."""


@helper
def _copy(source: Array, target: Array) -> None:
    """As an assignment to a slice, which numba makes number by number: it cannot know that the two do not overlap."""
    for k in range(source.size):
        target[k] = source[k]


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
        _copy(sums[:rows], db[first : first + rows])
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
    top, rows = part_of(inputs, chunk, parts, ROWS_AT_ONCE)
    group = min(max(1, PACKED_AT_ONCE // (across * room)), wide_panels(columns, dw)) * panel
    own = scratch(group // panel * across * room, on_stack(dw))
    always = scratch(group // panel * across, on_stack(np.int64))
    space = scratch(0 if in_place else ROWS_AT_ONCE * min(group, columns), on_stack(dw))
    for left in range(0, columns, group):
        right = min(left + group, columns)
        local = dw if in_place else shaped(space, (ROWS_AT_ONCE, right - left))
        for j in range(left, right, panel):
            width, p = min(panel, right - j), (j - left) // panel * across
            for q in range(across):
                top_row, depth = q * WORD_BITS, min(WORD_BITS, batch - q * WORD_BITS)
                always[p + q] = pack_wide(dy, False, top_row, depth, j, width, own[(p + q) * room :], panel)
        for first in range(top, top + rows, ROWS_AT_ONCE):
            some = min(ROWS_AT_ONCE, top + rows - first)
            begin = first * columns + left if in_place else 0
            for j in range(left, right, panel):
                width, p, place = min(panel, right - j), (j - left) // panel * across, begin + j - left
                for q in range(across):
                    left_factor = x, first * row + q * WORD_BITS, row, words, first * across + q, across
                    right_factor = own, (p + q) * room, panel, always[p + q]
                    meet(left_factor, right_factor, local, place, some, width, q > 0)
            step_block(w, update, (first, some), (left, right - left), flat(local), begin, local.shape[1])


@helper
def _turns_in_registers(dw: Array, update: Any) -> bool:
    """Whether squares of the transpose of dW are turned and used in registers; if not, whole rows are, in memory.

    A square updates a part of each of its rows. Where vectors are as long as a cache line and rows are not whole lines,
    nearly every part crosses one: steps of 34 to 100 columns took 2 to 6 % longer than with the rows in memory, of 200
    as long. Rows wider than `COLUMNS_AT_ONCE` come in parts, which do not lie end to end there.
    """
    _, early, wanted, (_, _, momentum, _) = update
    columns = dw.shape[1]
    fits = VECTOR_BYTES < LINE_BYTES or columns % lanes_of(dw) == 0 or columns > COLUMNS_AT_ONCE
    return bool(early and not wanted and momentum != 0 and fits)


@helper
def _sparse_dy_chunk(turned: Any, x: Array, dw: Array, w: Array, update: Any, parts: int, chunk: int) -> None:
    """Some rows of dW where dy is mostly zeros: its columns, sums over the samples that reach a unit, transposed."""
    dy, row, words = turned
    wanted, at_once = update[2], _turns_in_registers(dw, update)
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
            # From the last ones to the first: `pack_transposed` wants it where rows lie end to end.
            for u in range((width - 1) // UNITS_AT_ONCE, -1, -1):
                unit = left + u * UNITS_AT_ONCE
                units = min(UNITS_AT_ONCE, left + width - unit)
                for q in range(across):
                    left_factor = dy, unit * row + q * WORD_BITS, row, words, unit * across + q, across
                    meet(left_factor, (own, q * room, panel, always[q]), sums, 0, units, some, q > 0)
                if at_once:
                    step_turned_block(w, update, (first, some), (unit, units), sums)
                else:
                    pack_transposed(sums, 0, some, 0, units, space[unit - left :], group)
            if wanted:
                runs, length = (1, some * columns) if group == columns else (some, width)
                for i in range(runs):
                    place = (first + i) * columns + left
                    _copy(space[i * group : i * group + length], gradient[place : place + length])
            if not at_once:
                step_block(w, update, (first, some), (left, width), space, 0, group)


@helper
def _by_zeros_of_x(turned: Any, dy: Array, dw: Array, w: Array, update: Any) -> None:
    """`weight_gradient`, of an x that `_turn` turned."""
    parts = max(1, min(CHUNKS_A_THREAD * load(THREADS), dw.shape[0] // ROWS_AT_ONCE))
    launch(bind(_sparse_x_chunk, (turned, dy, dw, w, update, parts)), parts, True)


@helper
def _by_zeros_of_dy(turned: Any, x: Array, dw: Array, w: Array, update: Any) -> None:
    """`weight_gradient`, of a dy that `_turn` or `_turn_gated` turned."""
    rows, most = dw.shape[0] // FEATURES_TOGETHER, CHUNKS_A_THREAD * load(THREADS)
    # Twice as many where panels stay wide: neighbours seldom leave two cores the same speed.
    parts = max(1, min(most, rows // 2), min(2 * most, rows // 6))
    launch(bind(_sparse_dy_chunk, (turned, x, dw, w, update, parts)), parts, True)


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
def sparse_weight_gradient(x: Array, dy: Array, dw: Array, w: Array, update: Any) -> bool:
    """`weights.weight_gradient` if skipping the zeros of a factor pays; returns whether, or else nothing was done."""
    way = _way(x, dy, dw)
    if way == DENSE:
        return False
    factor = x if way == SPARSE_X else dy
    room = _room_turned(factor)
    _turn(factor, room)
    if way == SPARSE_X:
        _by_zeros_of_x(room, dy, dw, w, update)
    else:
        _by_zeros_of_dy(room, x, dw, w, update)
    keep(room)
    return True


@helper
def gated_weight_gradient(
    x: Array, dy: Array, y: Array, factor: float, dw: Array, db: Array, w: Array, update: Any
) -> bool:
    """`weights.weight_gradient` of ``dz = dy * factor where y > 0``, and db, if dW is computed by the zeros of dz.

    dz is then written transposed only, as dW wants it. Returns whether it was; otherwise nothing was done.
    """
    if _way(x, y, dw) != SPARSE_DY:
        return False
    room = _room_turned(dy)
    _turn_gated(dy, y, factor, db, room)
    _by_zeros_of_dy(room, x, dw, w, update)
    keep(room)
    return True
