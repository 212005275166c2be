"""cuBLAS as NVIDIA documents it, on the host: matrices by columns, leading dimensions, strides, tables of pointers."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import numpy as np

from .state import state

SUCCESS, INVALID_VALUE = 0, 7
TRANSPOSED = 1


class Library:
    """The functions of cuBLAS that this package calls, as `ctypes` would find them.

    Attributes:
        calls: names of the products that were asked for.
        math: what `cublasSetMathMode` was told last.
        handles: how many were made.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.math = 0
        self.handles = 0
        self._workspace = False
        self.cublasSgemm_v2_64 = partial(self._single, "cublasSgemm_v2_64", np.float32)
        self.cublasDgemm_v2_64 = partial(self._single, "cublasDgemm_v2_64", np.float64)
        self.cublasSgemmStridedBatched_64 = partial(self._strided, "cublasSgemmStridedBatched_64", np.float32)
        self.cublasDgemmStridedBatched_64 = partial(self._strided, "cublasDgemmStridedBatched_64", np.float64)
        self.cublasSgemmBatched_64 = partial(self._batched, "cublasSgemmBatched_64", np.float32)
        self.cublasDgemmBatched_64 = partial(self._batched, "cublasDgemmBatched_64", np.float64)

    def cublasCreate_v2(self, handle: Any) -> int:
        self.handles += 1
        handle._obj.value = self.handles
        return SUCCESS

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self._workspace = False
        return SUCCESS

    def cublasSetWorkspace_v2(self, handle: Any, pointer: Any, size: Any) -> int:
        self._workspace = True
        return SUCCESS

    def cublasSetMathMode(self, handle: Any, mode: int) -> int:
        self.math = mode
        return SUCCESS

    def _single(
        self, name: str, real: Any, handle: Any, transpose_a: int, transpose_b: int, m: Any, n: Any, k: Any,
        alpha: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any, c: Any, ldc: Any,
    ) -> int:  # fmt: skip
        tables = [[p.value] for p in (a, b, c)]
        return self._submit(name, real, (transpose_a, transpose_b), (m, n, k), (alpha, beta), tables, (lda, ldb, ldc))

    def _strided(
        self, name: str, real: Any, handle: Any, transpose_a: int, transpose_b: int, m: Any, n: Any, k: Any,
        alpha: Any, a: Any, lda: Any, stride_a: Any, b: Any, ldb: Any, stride_b: Any,
        beta: Any, c: Any, ldc: Any, stride_c: Any, count: Any,
    ) -> int:  # fmt: skip
        size = np.dtype(real).itemsize
        steps = (stride_a, stride_b, stride_c)
        tables = [
            [p.value + i * size * step.value for i in range(count.value)]
            for p, step in zip((a, b, c), steps, strict=True)
        ]
        return self._submit(name, real, (transpose_a, transpose_b), (m, n, k), (alpha, beta), tables, (lda, ldb, ldc))

    def _batched(
        self, name: str, real: Any, handle: Any, transpose_a: int, transpose_b: int, m: Any, n: Any, k: Any,
        alpha: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any, c: Any, ldc: Any, count: Any,
    ) -> int:  # fmt: skip
        # The tables lie on the GPU, and are read when the product is computed.
        tables = [_Table(p.value, count.value) for p in (a, b, c)]
        return self._submit(name, real, (transpose_a, transpose_b), (m, n, k), (alpha, beta), tables, (lda, ldb, ldc))

    def _submit(
        self, name: str, real: Any, transposed: Any, sizes: Any, factors: Any, tables: Any, leading: Any
    ) -> int:
        m, n, k = (size.value for size in sizes)
        lda, ldb, ldc = (width.value for width in leading)
        rows = (k if transposed[0] == TRANSPOSED else m, n if transposed[1] != TRANSPOSED else k)
        if not self._workspace:
            raise AssertionError(f"{name} without a workspace allocates in a capture")
        if lda < max(1, rows[0]) or ldb < max(1, k if transposed[1] != TRANSPOSED else n) or ldc < max(1, m):
            return INVALID_VALUE
        alpha, beta = (factor._obj.value for factor in factors)
        self.calls.append(name)

        def compute() -> None:
            for a, b, c in zip(*tables, strict=True):
                left = _by_columns(a, *((k, m) if transposed[0] == TRANSPOSED else (m, k)), lda, real)
                right = _by_columns(b, *((n, k) if transposed[1] == TRANSPOSED else (k, n)), ldb, real)
                out = _by_columns(c, m, n, ldc, real)
                left = left.T if transposed[0] == TRANSPOSED else left
                right = right.T if transposed[1] == TRANSPOSED else right
                out[...] = alpha * (left @ right) + (beta * out if beta else 0)

        state.launches += 1
        state.submit(compute)
        return SUCCESS


class _Table:
    """Addresses that lie in memory."""

    def __init__(self, address: int, count: int) -> None:
        self._address, self._count = address, count

    def __iter__(self) -> Any:
        return iter((ctypes.c_uint64 * self._count).from_address(self._address))


def _by_columns(address: int, rows: int, columns: int, leading: int, real: Any) -> Any:
    """The matrix [rows, columns] that lies there by columns, each `leading` after the one before."""
    size = np.dtype(real).itemsize
    count = leading * (columns - 1) + rows
    flat = np.frombuffer((ctypes.c_byte * (count * size)).from_address(address), real)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, leading * size))
