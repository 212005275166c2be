"""Memory of kernels on the CPU: what they take from the stack, and views."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from tinygrad_cr.kernels.aligned import LINE_BYTES
from tinygrad_cr.kernels.cpu.board import portable
from tinygrad_cr.kernels.cpu.memory import STACK_BYTES, borrowed, flat, on_stack, scratch, shaped

PRODUCTS = """
import numpy as np
from tinygrad_cr.kernels import backend

# Long sums in two halves; those, with a left factor that is packed; all factors packed. Then zeros of a factor skipped,
# and of a gradient that is turned at once.
for rows, inner, columns in ((100, 3072, 50), (130, 1100, 300), (261, 523, 521)):
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(shape).astype("f") for shape in ((rows, inner), (inner, columns), (rows, columns)))
    for zeros in (None, x, dy):
        if zeros is not None:
            zeros[rng.random(zeros.shape) < 0.8] = 0
        found, wanted = ([np.zeros_like(a) for a in (dy, x, w, w[0], w, w[0])] for _ in range(2))
        for kernels, (y, *gradients, dw, db) in ((backend("cpu"), found), (backend("reference"), wanted)):
            kernels.affine(x, w, w[0].copy(), y)
            kernels.affine_backward(dy, x, w, *gradients)
            kernels.affine_relu_dropout_backward(dy, x, w, dy, 2.0, np.empty_like(dy), None, dw, db)
        for a, b in zip(found, wanted):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * inner**0.5)
"""

EDGES = """
import ctypes
import itertools
import math
import mmap

import numpy as np
from tinygrad_cr.kernels import backend


def at_the_edge(dtype, *shape):
    # Behind the last element nothing may be read.
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, room + mmap.PAGESIZE), np.uint8)
    forbidden = ctypes.c_void_p(memory.ctypes.data + room)
    assert ctypes.CDLL(None).mprotect(forbidden, mmap.PAGESIZE, 0) == 0
    return memory[room - size : room].view(dtype).reshape(shape)


kernels = backend("cpu")
for dtype in ("float32", "float64"):
    for n, i, o in itertools.product((1, 5, 33, 100), (3, 17, 40, 130), (1, 3, 9, 10, 18, 24, 25, 50)):
        x, dx = (at_the_edge(dtype, n, i) for _ in range(2))
        w, dw = (at_the_edge(dtype, i, o) for _ in range(2))
        b, db = (at_the_edge(dtype, o) for _ in range(2))
        y, dy, dz = (at_the_edge(dtype, n, o) for _ in range(3))
        # Zeros of both factors are skipped, then of dy alone.
        x.reshape(-1)[::-3] = dy.reshape(-1)[::-3] = 1
        kernels.affine(x, w, b, y)
        kernels.affine_backward(dy, x, w, dx, dw, db)
        x[:] = 1
        kernels.affine_backward(dy, x, w, dx, dw, db)
        kernels.affine(x, w, b, y)
        kernels.affine_relu_dropout(x, w, b, 32768, 2.0, 0, 0, 0, y)
        for wanted in (dx, None):
            kernels.affine_relu_dropout_backward(dy, x, w, y, 2.0, dz, wanted, dw, db)
        # Two layers, i -> o -> o, each array and each buffer at an edge.
        layers = np.array([[o, 0, i, o, 32768], [o + i * o, o + i * o + o * o, o, o, 0]])
        values, gradients = (at_the_edge(dtype, o + i * o + o * o + o) for _ in range(2))
        hidden, scales = at_the_edge(dtype, n * o), at_the_edge("float64", 2)
        kernels.feed_forward(x, values, layers, scales, 0, 0, 0, hidden, y)
        kernels.feed_forward_backward(dy, x, values, layers, scales, hidden, y, gradients, dx)
"""


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


def test_a_borrowed_array_is_the_same_memory_without_an_owner() -> None:
    matrix = np.zeros((3, 4))[:, ::2]
    before = sys.getrefcount(matrix)
    same, part = numba.njit(lambda a: (borrowed(a), borrowed(a)[1:, 1]))(matrix)
    assert same.base is part.base is None
    assert sys.getrefcount(matrix) == before
    same[1, 1] = part[1] = 1
    assert (matrix == [[0, 0], [0, 1], [0, 1]]).all()


@pytest.mark.slow
def test_memory_of_jobs_is_there_until_they_are_done(tmp_path: Path) -> None:
    """Where numba does not prune reference counts, and memory that is given back is overwritten."""
    environment = os.environ | {"NUMBA_LLVM_REFPRUNE_PASS": "0", "MALLOC_PERTURB_": "165"}
    environment |= {"TINYGRAD_CR_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", PRODUCTS]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not portable(), reason="pages are protected by a function of POSIX")
def test_products_read_nothing_behind_their_arrays(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", EDGES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("matrix", [np.zeros((3, 4)).T, np.zeros((3, 4))[:, ::2]])
def test_a_view_of_what_is_not_contiguous_is_refused(matrix: Any) -> None:
    with pytest.raises(TypingError, match="contiguous in C's order"):
        numba.njit(lambda a: shaped(a, (2, 2)))(matrix)


def test_a_view_shows_the_same_memory() -> None:
    matrix = np.zeros((3, 4))
    numba.njit(lambda a: flat(a))(matrix)[5] = 1
    assert matrix[1, 1] == 1
    numba.njit(lambda a: shaped(a, (4, 2)))(matrix)[3, 1] = 2
    assert matrix[1, 3] == 2
