"""A stand-in for `tinygrad_cr.kernels.gpu.device`: the same names, computed on the host.

Kernels are the package's own `.cu` files, compiled for the host; products go through the package's own calls of cuBLAS
to a library that does what NVIDIA documents; graphs are lists of the work that was captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import host
from .arrays import _view, ndarray, xp
from .library import Library
from .state import OutOfMemoryError, state

__all__ = [
    "Graph",
    "capture",
    "cublas",
    "launch",
    "memory",
    "memory_asked",
    "shifted",
    "to_numpy",
    "xp",
]

REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def launch(
    family: str,
    kernel: str,
    dtype: Any,
    grid: tuple[int, int, int],
    threads: int | tuple[int, int, int],
    arguments: Sequence[Any],
    shared: int = 0,
) -> None:
    """Run a kernel, or add it to the graph that is captured."""
    block = (threads, 1, 1) if isinstance(threads, int) else tuple(threads)
    state.launches += 1
    given = [_argument(argument) for argument in arguments]
    state.submit(partial(host.run, family, kernel, REALS[np.dtype(dtype)], grid, block, given, shared))


def _argument(value: Any) -> Any:
    """What the host's code is given: arrays as they lie in memory, None, int and float."""
    if isinstance(value, np.ndarray):
        raise TypeError("a kernel cannot read memory of the host")
    if isinstance(value, ndarray):
        return value._host
    if value is None:
        return None
    return float(value) if isinstance(value, float | np.floating) else int(value)


def cublas() -> Library:
    """See the real one."""
    return Library()


def to_numpy(array: Any) -> Any:
    """A copy in the host's memory; waits for the GPU."""
    return array.get()


def shifted(array: Any, elements: int) -> Any:
    """The array that lies so many elements later."""
    if not elements:
        return array
    whole = array if array.base is None else array.base
    place = array.data.ptr - whole.data.ptr + elements * array.itemsize
    flat = whole._host.reshape(-1).view(np.uint8)[place : place + array.nbytes]
    return _view(flat.view(array.dtype).reshape(array.shape), whole)


def memory() -> tuple[int, int]:
    """Bytes that are free, and all there are."""
    free, total = xp.cuda.runtime.memGetInfo()
    return free, total


def memory_asked(error: Exception) -> int | None:
    """The bytes that an error says there were not."""
    return error._size if isinstance(error, OutOfMemoryError) else None


class Graph:
    """Work that was captured."""

    def __init__(self, work: list[Callable[[], Any]]) -> None:
        self._work = work

    def launch(self) -> None:
        """Do it once more."""
        state.launches += 1
        state.submit(lambda: [work() for work in self._work])


def capture(run: Callable[[], None]) -> Graph:
    """The work of a function as a graph; it is run once before."""
    run()
    with state.capturing() as work:
        run()
    return Graph(work)
