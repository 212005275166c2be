"""How the elements of arrays fall to blocks and threads. The shape alone decides, also in what order sums are taken."""

from __future__ import annotations

from typing import Any

from .batch import Batch, Stack
from .device import xp

WARP = 32
THREADS = 256
ELEMENTS = 8
"""Of a flat array for each thread; ELEMENTS in flat.cuh."""
SMALL = 2**17
"""A flat array of fewer elements is cut into small blocks, or it would keep only some of the multiprocessors busy."""
MAX_BLOCKS = 65535
"""In y and z."""
VECTOR_BYTES = 16

Grid = tuple[int, int, int]


def flat(batch: Batch, size: int) -> tuple[Grid, int]:
    """Blocks and threads for `size` elements, above 0, ELEMENTS for each thread.

    >>> flat(Batch((0,), None, None, []), 10_000)
    ((20, 1, 1), 64)
    """
    most = THREADS if size >= SMALL else 2 * WARP
    threads = min(most, -(-size // (WARP * ELEMENTS)) * WARP)
    return (-(-size // (threads * ELEMENTS)), 1, len(batch.members)), threads


def one_each(batch: Batch, size: int) -> tuple[Grid, int]:
    """Blocks and threads for `size` elements, above 0, one for each thread.

    >>> one_each(Batch((0,), None, None, []), 1000)
    ((4, 1, 1), 256)
    """
    return (-(-size // THREADS), 1, len(batch.members)), THREADS


def columns(width: int, itemsize: int) -> tuple[int, Grid]:
    """Blocks side by side, and threads in each, for rows of `width` elements, above 0.

    A thread has as many columns as 128 bits hold if rows are whole numbers of these, else one.

    >>> columns(4096, 4), columns(10, 4)
    ((32, (32, 8, 1)), (1, (16, 16, 1)))
    """
    vector = VECTOR_BYTES // itemsize
    lanes = width // vector if width % vector == 0 else width
    across = min(WARP, 2 ** (lanes - 1).bit_length())
    return -(-lanes // across), (across, THREADS // across, 1)


def scratch(batch: Batch, shape: tuple[int, ...], dtype: Any) -> Stack:
    """Memory of this shape for each member, indexed by its number as all arrays are."""
    array = xp.empty((max(batch.members) + 1, *shape), dtype)
    return Stack(array[0], array[0].size)
