"""Matrix products, cut into panels, strips and chunks that fit the caches.

Every sum is one chain of fused multiply-adds in the order of the summed index, or two (see `affine.forward`): cutting
the work, for one thread or many, changes no bit of it, and neither does the width of the vector registers. Only the
last few columns of a forward product are sums of more chains (`dots.py`).

After Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication", for the shapes of training
steps: the right factor is packed into panels as wide as a tile unless it is small; the left one is read where it lies.
"""

from __future__ import annotations

from typing import Any

from ..interface import Array
from .addresses import caller
from .compiling import helper
from .memory import on_stack, scratch
from .packing import pack, pack_transposed
from .tile import TALL, TILES, VECTORS
from .vectors import VECTOR_BYTES, lanes_of

DEPTH = (1 << 15) // (VECTORS * VECTOR_BYTES)
"""Rows of a panel: 32 KiB, about as much as the first-level cache keeps while a strip of tiles passes."""
ROWS_WORTH_PACKING = 32
"""With fewer rows, copying a panel costs more than it saves."""
BYTES_AS_THEY_LIE = 1 << 14
"""Of a right factor that stays in the first-level cache without being packed."""
NARROW = VECTORS == 2
"""Whether tiles are narrow, as without AVX-512.

Then the right factor is packed by groups of panels, of which the last may be a vector wider.
"""
ROWS_AT_ONCE = 4 * TALL
"""Rows of the left factor that meet all panels of a group, one after the other."""
MOST_PANELS = 8
"""Panels in a group of a shared product, about 256 KiB: a few rows of the left factor after the other meet them."""
CHUNKS_A_THREAD = 2
WORTH_SHARING = 1 << 18
"""Multiply-adds from which waking another thread pays."""
WEIGHTS_WORTH_SHARING = 1 << 17
"""Of one row alone: reading the weights, or writing their gradient, takes longer than multiplying."""

_call_tiles = caller(TILES)


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

    A packed panel, whose rows end with whole vectors, may be a vector wider where `NARROW`.

    Each array is given with the position of its first element. by_rows: a is contiguous in k, and `pitch` elements lead
    from i to i + 1; else it is contiguous in i, and `pitch` leads from k to k + 1. `b_step` leads from k to k + 1; b
    and c are contiguous in j. depth >= 1. add: go on from what c holds.
    """
    lanes = lanes_of(c)
    vectors = (width + lanes - 1) // lanes
    last, c_row = width - lanes * (vectors - 1), c.shape[1]
    numbers = pitch, b_step, depth, c_row, rows, vectors, last, int(add), int(by_rows)
    _call_tiles((a, b, c), (a_start, b_start, c_start), numbers)


@helper
def worth_sharing(rows: int, weights: int) -> bool:
    """Whether so many rows times so many weights are worth waking another thread."""
    return bool(rows * weights >= (WORTH_SHARING if rows > 1 else WEIGHTS_WORTH_SHARING))


@helper
def panel_width(like: Array) -> int:
    """Columns of a panel."""
    return int(VECTORS * lanes_of(like))


@helper
def panels_of(width: int, like: Array, widened: bool) -> int:
    """How many panels so many columns make; widened: a vector or less that is left makes the last one wider.

    A tile of a vector alone, as would be left, takes more than half the time of one as wide as a panel.
    """
    panel = panel_width(like)
    rest = width % panel
    joined = NARROW and widened and width > panel and 0 < rest <= lanes_of(like)
    return int((width + panel - 1) // panel - (1 if joined else 0))


@helper
def panel_of(p: int, panels: int, width: int, like: Array) -> Any:
    """Panel p: its first column, its columns, and how many elements lead from row to row of its copy."""
    panel, lanes = panel_width(like), lanes_of(like)
    left = p * panel
    if p < panels - 1:
        return left, panel, panel
    return left, width - left, max(panel, (width - left + lanes - 1) // lanes * lanes)


@helper
def groups_of(columns: int, like: Array, threads: int) -> int:
    """How many groups of panels there are: none is too large for the second-level cache, each thread gets as many.

    The right factor is packed by groups, each of its rows in a piece as long as the group is wide: panel by panel took
    a tenth of C's forward product, most of it waiting for memory.
    """
    panels, shares = panels_of(columns, like, True), CHUNKS_A_THREAD * threads
    least = (panels + MOST_PANELS - 1) // MOST_PANELS
    return int(min(panels, (least + shares - 1) // shares * shares) if NARROW else panels)


@helper
def group_of(g: int, groups: int, columns: int, like: Array) -> Any:
    """First column of a group, and how many it has; the last takes what is left."""
    panels, panel = panels_of(columns, like, True), panel_width(like)
    left = g * panels // groups * panel
    return left, (columns if g == groups - 1 else (g + 1) * panels // groups * panel) - left


@helper
def pack_group(b: Array, top: int, depth: int, left: int, width: int, panels: int, target: Array, room: int) -> None:
    """`pack` for a group of so many panels, whose last may be wider than the others."""
    last_left, _, last_pitch = panel_of(panels - 1, panels, width, b)
    pack(b, top, depth, left, width, target, room, panel_width(b), last_left, last_pitch)


@helper
def lies_well(b: Array, transposed: bool, rows: int) -> bool:
    """Whether a right factor is read where it lies, for so many rows of the left one."""
    small = b.shape[1] <= panel_width(b) or b.size * b.itemsize <= BYTES_AS_THEY_LIE
    return not transposed and (small or rows < ROWS_WORTH_PACKING)


@helper
def depth_of(length: int, like: Array) -> int:
    """Rows of a panel of a sum so long: in whole vectors, because `pack_transposed` fills squares."""
    lanes = lanes_of(like)
    return int((min(length, DEPTH) + lanes - 1) // lanes * lanes)


@helper
def times(
    a: Array, first: int, rows: int, b: Array, transposed: bool, left: int, width: int, begin: int, end: int, c: Array
) -> None:
    """``c[i, j] = sum_k a[i, k] b[k, j]`` (or ``b[j, k]``) for begin <= k < end, some rows, the columns of a group."""
    direct = lies_well(b, transposed, rows)
    # Where it lies, a row does not end with a whole vector, as a wider panel does; and with a pitch that the compiler
    # does not know, transposing was slower.
    count, panel = panels_of(width, c, not direct and not transposed), panel_width(c)
    room = depth_of(end - begin, c) * panel
    # A wider last panel takes no more room than the two that it is made of.
    panels = scratch(0 if direct else room * ((width + panel - 1) // panel), on_stack(c))
    a_row, c_row = a.shape[1], c.shape[1]
    # A few rows meet all panels while they are in the cache; a panel that was just transposed meets all rows.
    block = rows if direct or transposed else ROWS_AT_ONCE
    if begin == end:
        c[first : first + rows, left : left + width] = 0
    for top in range(begin, end, DEPTH):
        some, more = min(DEPTH, end - top), top > begin
        if not direct and not transposed:
            pack_group(b, top, some, left, width, count, panels, room)
        for i in range(first, first + rows, block):
            few, start = min(block, first + rows - i), i * a_row + top
            for p in range(count):
                j, columns, pitch = panel_of(p, count, width, c)
                place, place_b = i * c_row + left + j, p * room
                # Transposed panels packed 1,024 rows at a time were 5 % slower in D: they leave the first-level cache.
                if transposed:
                    pack_transposed(b, top, some, left + j, columns, panels[place_b:], panel)
                if direct:
                    place_b = top * b.shape[1] + left + j
                    strip(a, start, a_row, True, b, place_b, b.shape[1], some, c, place, few, columns, more)
                else:
                    strip(a, start, a_row, True, panels, place_b, pitch, some, c, place, few, columns, more)


@helper
def middle(length: int) -> int:
    """Where the first of two halves ends: at the end of a cache line."""
    return min(length, (length // 2 + 15) // 16 * 16)


@helper
def parts_of(rows: int, groups: int, tile: int, threads: int, shared: bool) -> int:
    """How many parts of the rows there are, so that every thread gets its share of groups; at least 1."""
    parts = max(1, (CHUNKS_A_THREAD * threads + groups - 1) // groups)
    return max(1, min(parts, rows // (2 * tile))) if shared else 1


@helper
def part_of(rows: int, part: int, parts: int, tile: int) -> Any:
    """First row and number of rows of one part; all but the last consist of whole tiles."""
    tiles = (rows + tile - 1) // tile
    first, end = part * tiles // parts * tile, min(rows, (part + 1) * tiles // parts * tile)
    return first, end - first
