"""Memory of kernels on the CPU: what they take from the stack, and views."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from tinygrad_cr.kernels.cpu.memory import LINE_BYTES, STACK_BYTES, flat, on_stack, scratch, shaped


@numba.njit
def two_vectors(like: Any, size: int) -> Any:
    """Sums of two vectors that are in use at once, where they begin, and how long they are."""
    ones, twos = scratch(size, on_stack(like)), scratch(size, on_stack(like))
    for i in range(ones.size):
        ones[i] = 1
    for i in range(twos.size):
        twos[i] = 2
    return ones.sum(), twos.sum(), ones.ctypes.data, twos.ctypes.data, ones.size


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
@pytest.mark.parametrize("bytes_", [0, 8, STACK_BYTES, STACK_BYTES + 8, 5 * STACK_BYTES])
def test_vectors_are_as_long_as_wanted_apart_and_begin_on_cache_lines(dtype: str, bytes_: int) -> None:
    like = np.zeros(1, dtype)
    size = bytes_ // like.itemsize
    first, second, here, there, length = two_vectors(like, size)
    assert (first, second, length) == (size, 2 * size, size)
    assert (here % LINE_BYTES, there % LINE_BYTES) == (0, 0)


@numba.njit
def shape_of_what_goes_out_of_scope(n: int) -> Any:
    values = np.arange(n)
    return shaped(values, (2, n // 2))


def test_a_view_keeps_what_it_shows() -> None:
    view = shape_of_what_goes_out_of_scope(100_000)
    assert view.base is not None
    np.testing.assert_array_equal(view, np.arange(100_000).reshape(2, -1))


def test_a_view_shows_the_same_memory() -> None:
    matrix = np.zeros((3, 4))
    numba.njit(lambda a: flat(a))(matrix)[5] = 1
    assert matrix[1, 1] == 1
    numba.njit(lambda a: shaped(a, (4, 2)))(matrix)[3, 1] = 2
    assert matrix[1, 3] == 2
