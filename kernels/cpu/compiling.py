"""How kernels are compiled: lazily, cached on disk where that is possible, releasing the GIL.

numba's cache notices edits of the file that holds a function, not of files it takes helpers from: whoever edits
`philox.py` removes the ``*.nb?`` files beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# "numpy" divides without asking whether the divisor is 0: the question keeps a loop from being vectorised.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first call; where no folder is writable, compile anew in each process instead of failing.

    Floating-point operations round where they stand, none is fused or reordered: a kernel gives the same bits alone,
    for other arguments, and as a part of a larger function (`program.run`), whatever the compiler makes of it there.
    """
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:
        return njit(**_OPTIONS)(function)


def helper(function: Callable[..., Any]) -> Any:
    """A function that only kernels call, compiled into each of them."""
    return njit(inline="never", no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)


def reordering_helper(function: Callable[..., Any]) -> Any:
    """A helper whose sums may be reordered, and so vectorised; NaN and inf stay visible."""
    return njit(inline="never", fastmath={"reassoc", "contract"}, **_OPTIONS)(function)
