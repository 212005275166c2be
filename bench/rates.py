"""How fast the libraries here, and our kernels, multiply matrices and copy memory: what the limit is made of."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BLOCKS = 7
BLOCK_SECONDS = 0.003

Repeat = Callable[[int], None]


def best(repeat: Repeat) -> float:
    """Seconds a call: the median of several blocks, each of enough calls."""
    repeat(2)
    count, seconds = 1, 0.0
    while seconds < BLOCK_SECONDS and count < 1 << 20:
        count *= 2
        begin = time.perf_counter()
        repeat(count)
        seconds = time.perf_counter() - begin
    times = []
    for _ in range(BLOCKS):
        begin = time.perf_counter()
        repeat(count)
        times.append((time.perf_counter() - begin) / count)
    return statistics.median(times)


def operands(kind: str, rows: int, inner: int, outer: int) -> tuple[Any, Any, Any]:
    """The two factors and the result of a product, in the layouts that a training step has."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inner), dtype=np.float32)
    w = rng.standard_normal((inner, outer), dtype=np.float32)
    dz = rng.standard_normal((rows, outer), dtype=np.float32)
    factors = {"forward": (x, w), "dw": (x.T, dz), "dx": (dz, w.T)}[kind]
    return *factors, np.empty((factors[0].shape[0], factors[1].shape[1]), np.float32)


class NumPy:
    """NumPy's own OpenBLAS; its thread count comes from the environment."""

    def product(self, kind: str, a: Any, b: Any, out: Any) -> Repeat:
        """Calls that multiply the factors that `operands` gives, in this library's fastest way."""

        def repeat(calls: int) -> None:
            for _ in range(calls):
                np.matmul(a, b, out=out)

        return repeat

    def copy(self, source: Any, target: Any) -> Repeat:
        def repeat(calls: int) -> None:
            for _ in range(calls):
                np.copyto(target, source)

        return repeat


class Numba:
    """SciPy's OpenBLAS through numba's np.dot, in a compiled loop: no Python between the calls."""

    def __init__(self) -> None:
        import numba

        @numba.njit
        def products(a: Any, b: Any, out: Any, calls: int) -> None:
            for _ in range(calls):
                np.dot(a, b, out)

        @numba.njit(parallel=True)
        def copies(source: Any, target: Any, calls: int) -> None:
            for _ in range(calls):
                for i in numba.prange(source.size):
                    target[i] = source[i]

        numba.set_num_threads(int(os.environ.get("BENCH_THREADS", numba.get_num_threads())))
        self.products, self.copies = products, copies

    def product(self, kind: str, a: Any, b: Any, out: Any) -> Repeat:
        return lambda calls: self.products(a, b, out, calls)

    def copy(self, source: Any, target: Any) -> Repeat:
        return lambda calls: self.copies(source, target, calls)


class Torch:
    """PyTorch's products (MKL or oneDNN)."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(int(os.environ.get("BENCH_THREADS", torch.get_num_threads())))

    def product(self, kind: str, a: Any, b: Any, out: Any) -> Repeat:
        torch = self.torch
        p, q, r = (torch.from_numpy(m) for m in (a, b, out))

        def repeat(calls: int) -> None:
            with torch.inference_mode():
                for _ in range(calls):
                    torch.mm(p, q, out=r)

        return repeat

    def copy(self, source: Any, target: Any) -> Repeat:
        p, q = self.torch.from_numpy(source), self.torch.from_numpy(target)

        def repeat(calls: int) -> None:
            for _ in range(calls):
                q.copy_(p)

        return repeat


class Jax(NumPy):
    """XLA's products, jitted. Copies are NumPy's."""

    def product(self, kind: str, a: Any, b: Any, out: Any) -> Repeat:
        import jax

        # A transposed view would be copied into place; XLA is given what it is a view of and told to transpose.
        turned = [m.T if kind == of else m for m, of in ((a, "dw"), (b, "dx"))]
        product = jax.jit(lambda p, q: (p.T if kind == "dw" else p) @ (q.T if kind == "dx" else q))
        p, q = jax.device_put(turned)
        np.copyto(out, product(p, q))

        def repeat(calls: int) -> None:
            for _ in range(calls):
                product(p, q).block_until_ready()

        return repeat


class Ours(NumPy):
    """The products inside our layers: forward with a bias of zeros, dW and dX without the rest. Copies are NumPy's."""

    def __init__(self) -> None:
        import tinygrad_cr
        from tinygrad_cr.kernels import backend

        tinygrad_cr.set_num_threads(int(os.environ.get("BENCH_THREADS", tinygrad_cr.get_num_threads())))
        self.kernels = backend("cpu")

    def product(self, kind: str, a: Any, b: Any, out: Any) -> Repeat:
        unused = np.zeros_like(out)
        call, *arguments = {
            "forward": (self.kernels.affine, a, b, unused[0], out),
            "dw": (self.kernels.affine_backward, b, a.T, unused, None, out, None),
            "dx": (self.kernels.affine_backward, a, unused, b.T, out, None, None),
        }[kind]

        def repeat(calls: int) -> None:
            for _ in range(calls):
                call(*arguments)

        return repeat


LIBRARIES = {"numpy": NumPy, "numba": Numba, "torch": Torch, "jax": Jax, "tinygrad_cr": Ours}


class Rates:
    """The session of a worker that measures one library with one thread count."""

    def __init__(self, library: str) -> None:
        self.library: Any = LIBRARIES[library]()

    def products(self, products: list[list[Any]]) -> dict[str, Any]:
        """Seconds of each product; a product is [kind, rows, inner, outer]."""
        found = []
        for kind, *shape in products:
            a, b, out = operands(kind, *shape)
            found.append(best(self.library.product(kind, a, b, out)) if math.prod(shape) else 0.0)
        return {"seconds": found}

    def bandwidths(self, sizes: list[int]) -> dict[str, Any]:
        """Bytes a second, read and written, of a copy; sizes: of both arrays together, in bytes."""
        found = []
        for size in sizes:
            source = np.ones(size // 8, np.float32)
            found.append(2 * source.nbytes / best(self.library.copy(source, np.zeros_like(source))))
        return {"bytes_per_second": found}
