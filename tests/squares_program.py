"""Squares at the edges of their arrays, beyond which no memory may be touched.

Runs in a process of its own, see test_squares.py: what touches a protected page ends it. Arguments: what to do, and
the dtype.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import sys
from typing import Any

import numba
import numpy as np

from tinygrad_cr.kernels.cpu.memory import flat
from tinygrad_cr.kernels.cpu.packing import pack_gated
from tinygrad_cr.kernels.cpu.updates import step, step_turned_block
from tinygrad_cr.kernels.cpu.vectors import VECTOR_BYTES

UNITS = 64
"""Columns of a block that is updated, and rows of a panel, at most."""


def between(dtype: Any, *shape: int, at_end: bool) -> Any:
    """An array that ends, or begins, where a page that may not be touched begins, or ends."""
    page = mmap.PAGESIZE
    size = int(math.prod(shape)) * np.dtype(dtype).itemsize
    room = -(-size // page) * page
    memory = np.frombuffer(mmap.mmap(-1, room + 2 * page), np.uint8)
    for forbidden in (0, page + room):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(memory.ctypes.data + forbidden), page, 0) == 0
    begin = page + room - size if at_end else page
    return memory[begin : begin + size].view(dtype).reshape(shape)


def bits(values: Any) -> Any:
    """Numbers, so that -0 differs from 0 and any NaN, whose sign and payload nobody promised, equals another."""
    return np.where(np.isnan(values), values.dtype.type(np.nan), values).view(f"u{values.itemsize}")


def numbers(rng: Any, dtype: Any, *shape: int) -> Any:
    """Of every size down to what is negligible, and some that are infinite or NaN."""
    found = (rng.normal(size=shape) * 10.0 ** rng.integers(-34, 1, shape)).astype(dtype)
    for value in (np.nan, np.inf, -np.inf, -0.0):
        found[rng.random(shape) < 0.02] = value
    return found


@numba.njit
def turned(w: Any, velocity: Any, rows: Any, columns: Any, found: Any, rates: Any) -> None:
    step_turned_block(w, (velocity, True, False, rates), rows, columns, found)


@numba.njit
def by_rows(w: Any, velocity: Any, rows: Any, columns: Any, gradient: Any, rates: Any) -> None:
    penalty, rate, momentum, nesterov = rates
    for i in range(rows[1]):
        start = (rows[0] + i) * w.shape[1] + columns[0]
        part = slice(start, start + columns[1])
        step(flat(w)[part], gradient[i], flat(velocity)[part], penalty, rate, momentum, nesterov)


@numba.njit
def gate(dy: Any, y: Any, factor: Any, left: int, width: int, sums: Any, panel: Any, start: int, pitch: int) -> None:
    pack_gated(dy, y, factor, left, width, sums, panel, start, pitch)


def update(dtype: Any) -> None:
    """A block of weights by its transposed gradient, against the formula row by row."""
    rng, number, lanes = np.random.default_rng(0), np.dtype(dtype).type, VECTOR_BYTES // np.dtype(dtype).itemsize
    shapes = [(1, 1), (3, 2), (17, 33), (16, 64), (37, 65), (40, 129)]
    rates = [(0.0, 0.1, 0.9, False), (0.01, 0.1, 0.9, True), (0.5, -0.1, -0.5, True)]
    for (inputs, units), at_end, given, whole in itertools.product(shapes, (True, False), rates, (True, False)):
        w, velocity = (between(dtype, inputs, units, at_end=at_end) for _ in range(2))
        w[:], velocity[:] = (numbers(rng, dtype, inputs, units) for _ in range(2))
        first, left = (0, max(0, units - UNITS)) if whole else (rng.integers(inputs), rng.integers(units))
        some = inputs if whole else rng.integers(1, inputs - first + 1)
        width = min(UNITS, units - left) if whole else rng.integers(1, min(UNITS, units - left) + 1)
        gradient = numbers(rng, dtype, some, width)
        # Whole squares are read: what lies beyond the gradient is anything, and does nothing.
        height, pitch = (-(-size // lanes) * lanes for size in (width, some))
        found = between(dtype, height, pitch, at_end=at_end)
        found[:] = rng.normal(size=found.shape)
        found[:width, :some] = gradient.T
        constants = (*(number(value) for value in given[:3]), given[3])
        wanted = w.copy(), velocity.copy()
        by_rows(*wanted, (first, some), (left, width), gradient, constants)
        turned(w, velocity, (first, some), (left, width), found, constants)
        np.testing.assert_array_equal(bits(w), bits(wanted[0]))
        np.testing.assert_array_equal(bits(velocity), bits(wanted[1]))


def pack(dtype: Any) -> None:
    """The transpose of a gradient where the output is above 0, and sums of its columns, against NumPy."""
    rng, number, lanes = np.random.default_rng(0), np.dtype(dtype).type, VECTOR_BYTES // np.dtype(dtype).itemsize
    factor = number(1.6)
    for n, units, at_end in itertools.product(
        (1, 2, 7, 15, 16, 17, 33, 65), (1, 3, 15, 16, 17, 64, 65, 130), (True, False)
    ):
        dy, y = (between(dtype, n, units, at_end=at_end) for _ in range(2))
        dy[:], y[:] = numbers(rng, dtype, n, units), numbers(rng, dtype, n, units)
        height, pitch = (-(-size // lanes) * lanes for size in (units, n))
        panel = between(dtype, height, pitch, at_end=at_end)
        panel[:] = np.nan
        found = np.full(units, np.nan, dtype)
        for left in range(0, units, UNITS):
            width = min(UNITS, units - left)
            sums = between(dtype, -(-width // lanes) * lanes, at_end=at_end)
            sums[:] = np.nan
            gate(dy, y, factor, left, width, sums, panel.reshape(-1), left * pitch, pitch)
            found[left : left + width] = sums[:width]
        gated, wanted = np.where(y > 0, dy * factor, number(0)), np.zeros(units, dtype)
        with np.errstate(invalid="ignore"):
            for row in gated:
                wanted = wanted + row
        np.testing.assert_array_equal(bits(panel[:units, :n]), bits(gated.T))
        assert not panel[units:].any()
        assert not panel[:, n:].any()
        np.testing.assert_array_equal(found, wanted)


if __name__ == "__main__":
    {"update": update, "pack": pack}[sys.argv[1]](sys.argv[2])
