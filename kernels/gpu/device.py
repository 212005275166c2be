"""CUDA as the rest of this folder sees it: arrays, launches, libraries, graphs. The only module that imports CuPy."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import cupy as xp
import numpy as np

from ..interface import Array, BackendError
from .sources import OPTIONS, source

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
NO_MEMORY = 2
"""cudaErrorMemoryAllocation"""


@cache
def _function(family: str, kernel: str, real: str) -> Any:
    return _module(family, real).get_function(kernel)


@cache
def _module(family: str, real: str) -> Any:
    return xp.RawModule(code=source(family), options=(*OPTIONS, f"-DREAL={real}"))


def launch(
    family: str,
    kernel: str,
    dtype: Any,
    grid: tuple[int, int, int],
    threads: int | tuple[int, int, int],
    arguments: Sequence[Any],
    shared: int = 0,
) -> None:
    """Run a kernel of ``family.cu`` on the current stream.

    Args:
        dtype: float32 or float64; what REAL stands for.
        grid, threads: how many blocks, all above 0, and threads in each.
        arguments: arrays of the GPU, None for no array, whole numbers and real numbers, in the kernel's order.
        shared: bytes of dynamic shared memory.
    """
    block = (threads, 1, 1) if isinstance(threads, int) else threads
    given = tuple(argument if isinstance(argument, xp.ndarray) else _scalar(argument) for argument in arguments)
    _function(family, kernel, REALS[np.dtype(dtype)])(grid, block, given, shared_mem=shared)


def _scalar(value: Any) -> Any:
    if value is None:
        return np.uint64(0)
    return np.float64(value) if isinstance(value, float | np.floating) else np.int64(value)


def cublas() -> Any:
    """NVIDIA's cuBLAS, the one that CuPy found, too.

    Raises:
        BackendError: there is none.
    """
    try:
        from cuda import pathfinder

        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"cuBLAS was not found ({error}): pip install 'tinygrad_cr[gpu]' brings it, or install the CUDA toolkit"
        ) from None


def to_numpy(array: Array) -> Any:
    """A copy in the host's memory; waits for the GPU."""
    return array.get()


def shifted(array: Array, elements: int) -> Array:
    """The contiguous array of that shape and dtype that lies so many elements later in the same allocation."""
    return xp.ndarray(array.shape, array.dtype, array.data + elements * array.itemsize) if elements else array


def memory() -> tuple[int, int]:
    """Bytes of the GPU's memory that are free, what CuPy's pool holds unused included, and all there are."""
    free, total = xp.cuda.runtime.memGetInfo()
    return free + xp.get_default_memory_pool().free_bytes(), total


def memory_asked(error: Exception) -> int | None:
    """The bytes that there were not, by this error; 0 if it does not say how many, None if it is another error."""
    if isinstance(error, xp.cuda.memory.OutOfMemoryError):
        return int(getattr(error, "_size", 0))
    failed = isinstance(error, xp.cuda.runtime.CUDARuntimeError) and error.status == NO_MEMORY
    return 0 if failed else None


class Graph:
    """Launches that were captured and run again as one; their arrays, and memory they were given, are theirs."""

    def __init__(self, graph: Any, stream: Any, pool: Any) -> None:
        self._graph, self._stream, self._pool = graph, stream, pool

    def launch(self) -> None:
        """Run it once more on the current stream."""
        self._graph.launch(xp.cuda.get_current_stream())


def capture(run: Callable[[], None]) -> Graph:
    """The work of a function as a graph. It is run once before, and so may have effects once.

    Memory that it asks for comes from a pool of the graph's own: nobody else is given it later.

    Raises:
        RuntimeError: it waits for the GPU, copies memory of the host, or does something else that a graph cannot hold.
    """
    pool, stream = xp.cuda.MemoryPool(), xp.cuda.Stream(non_blocking=True)
    before = xp.cuda.get_current_stream().record()
    with xp.cuda.using_allocator(pool.malloc), stream:
        stream.wait_event(before)
        run()
        stream.synchronize()
        stream.begin_capture()
        try:
            with _no_copies_from_host():
                run()
        except BaseException:
            # The capture has to be ended, or the stream cannot be used; what it holds is of no use.
            _end(stream)
            raise
        graph = stream.end_capture()
    return Graph(graph, stream, pool)


@contextmanager
def _no_copies_from_host() -> Iterator[None]:
    """Refuse to this thread the memory through which CuPy copies from the host.

    CUDA would let it: the graph would copy from there again in each launch, whatever lies there by then.
    """
    thread, pool = threading.get_ident(), xp.get_default_pinned_memory_pool()

    def allocate(size: int) -> Any:
        if threading.get_ident() == thread:
            raise RuntimeError("it copies memory of the host, which a graph would find changed")
        return pool.malloc(size)

    xp.cuda.set_pinned_memory_allocator(allocate)
    try:
        yield
    finally:
        xp.cuda.set_pinned_memory_allocator(pool.malloc)


def _end(stream: Any) -> None:
    with suppress(RuntimeError):
        stream.end_capture()
