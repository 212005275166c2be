"""Matrix products by NVIDIA's cuBLAS, also on a stream that captures a graph, which CuPy's own binding refuses.

cuBLAS stores matrices by columns. A matrix stored by rows is its transpose, and ``out = a @ b`` is computed as
``out.T = b.T @ a.T``.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from ..interface import BackendError
from .batch import Batch, Stack

DEFAULT_MATH, TF32_MATH = 0, 3
WORKSPACE = 32 * 2**20
"""Bytes that the products of a thread may use; what NVIDIA recommends for the largest of today's GPUs."""


class _Handle:
    """A handle of cuBLAS, the memory that its products use, and what it was told last."""

    def __init__(self, library: Any, xp: Any) -> None:
        self.pointer = ctypes.c_void_p()
        _check("cublasCreate_v2", library.cublasCreate_v2(ctypes.byref(self.pointer)))
        self.workspace = xp.cuda.memory.Memory(WORKSPACE)
        self.stream: int | None = None
        self.math: int | None = None


class _Loan:
    """The handle of a thread. When the thread is gone it goes back: graphs that were captured there use its memory."""

    def __init__(self, library: Any, xp: Any, free: list[_Handle]) -> None:
        self._free = free
        self.handle = free.pop() if free else _Handle(library, xp)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._free.append(self.handle)


class Cublas:
    """A handle for each thread and GPU, made on the first product.

    Its products share one workspace: a thread must not let products on two streams run at the same time.

    Args:
        load: gives the library; asked on the first product.
        xp: the array library.

    Attributes:
        tf32: whether products of float32 may be computed in TF32.
    """

    def __init__(self, load: Callable[[], Any], xp: Any) -> None:
        self.tf32 = False
        self._load, self._xp = load, xp
        self._library: Any = None
        self._own = threading.local()
        self._free: dict[str, list[_Handle]] = {}

    def product(self, batch: Batch, a: Stack, b: Stack, out: Stack, transpose_a: bool, transpose_b: bool) -> None:
        """See `products.product`; no length is 0."""
        rows, columns = out.array.shape
        inner = a.array.shape[0 if transpose_a else 1]
        letter, real = ("S", ctypes.c_float) if out.array.dtype.itemsize == 4 else ("D", ctypes.c_double)
        one, zero = ctypes.byref(real(1)), ctypes.byref(real(0))
        sizes = (int(transpose_b), int(transpose_a), *map(ctypes.c_int64, (columns, rows, inner)))
        first, steps = batch.members[0], {after - before for before, after in pairwise(batch.members)} or {1}
        # A leading dimension is the length of a stored row, and at least 1.
        operands = [(s, ctypes.c_int64(max(1, s.array.shape[1]))) for s in (b, a, out)]
        parts: list[tuple[Any, ...]]
        count: tuple[Any, ...] = (ctypes.c_int64(len(batch.members)),)
        if len(batch.members) == 1:
            # What is made for batches knows fewer ways to spread one product over the whole GPU.
            parts, count = [(_address(s, first), width) for s, width in operands], ()
            name = f"cublas{letter}gemm_v2_64"
        elif len(steps) == 1:
            (step,) = steps
            parts = [(_address(s, first), width, ctypes.c_int64(s.stride * step)) for s, width in operands]
            name = f"cublas{letter}gemmStridedBatched_64"
        else:
            tables = [_table(batch, tuple(_address(s, m).value for m in batch.members), self._xp) for s, _ in operands]
            widths = [width for _, width in operands]
            parts = [(ctypes.c_void_p(t.data.ptr), width) for t, width in zip(tables, widths, strict=True)]
            name = f"cublas{letter}gemmBatched_64"
        (b_part, a_part, out_part) = parts
        self._call(name, *sizes, one, *b_part, *a_part, zero, *out_part, *count)

    def _call(self, name: str, *arguments: Any) -> None:
        handle = self._handle()
        _check(name, getattr(self._library, name)(handle, *arguments))

    def _handle(self) -> Any:
        """This thread's handle for the current device, set to the current stream."""
        if self._library is None:
            self._library = self._load()
        xp = self._xp
        loans = self._own.__dict__
        device, stream = xp.cuda.runtime.getDevice(), xp.cuda.get_current_stream().ptr
        key = f"device {device}"
        if key not in loans:
            loans[key] = _Loan(self._library, xp, self._free.setdefault(key, []))
        handle: _Handle = loans[key].handle
        if stream != handle.stream:
            _check("cublasSetStream_v2", self._library.cublasSetStream_v2(handle.pointer, ctypes.c_void_p(stream)))
            # A change of stream takes it back; without it, products that are captured would each allocate some.
            pointer, size = ctypes.c_void_p(handle.workspace.ptr), ctypes.c_size_t(WORKSPACE)
            _check("cublasSetWorkspace_v2", self._library.cublasSetWorkspace_v2(handle.pointer, pointer, size))
            handle.stream = stream
        math = TF32_MATH if self.tf32 else DEFAULT_MATH
        if math != handle.math:
            _check("cublasSetMathMode", self._library.cublasSetMathMode(handle.pointer, math))
            handle.math = math
        return handle.pointer


class _Table(NamedTuple):
    """Where the matrices of members lie, known to the host and to the GPU."""

    addresses: tuple[int | None, ...]
    array: Any


def _table(batch: Batch, addresses: tuple[int | None, ...], xp: Any) -> Any:
    """The addresses on the GPU. A capture cannot copy from the host: it finds the table of the run before it."""
    for kept in batch.kept:
        if isinstance(kept, _Table) and kept.addresses == addresses:
            return kept.array
    batch.kept.append(table := _Table(addresses, xp.asarray(addresses, "uint64")))
    return table.array


def _address(stack: Stack, m: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(stack.array.data.ptr + m * stack.stride * stack.array.dtype.itemsize)


def _check(name: str, status: int) -> None:
    if status:
        raise BackendError(f"{name} of cuBLAS failed with status {status}")
