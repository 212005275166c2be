"""How kernels are compiled: lazily, cached on disk where that is possible, releasing the GIL.

numba's cache notices edits of the file that holds a function, not of files it takes helpers from: whoever edits
`philox.py` removes the ``*.nb?`` files beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

FLOAT_RULES = {"contract", "reassoc", "nsz", "arcp"}
"""Licence to fuse and reorder, but not to assume that NaN and inf never happen: divergence must stay visible."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first call; where no folder is writable, compile anew in each process instead of failing."""
    return _compile(function, FLOAT_RULES)


def exact_kernel(function: Callable[..., Any]) -> Any:
    """As `kernel`, but each operation rounds where it stands: all versions compiled of it agree bit for bit."""
    return _compile(function, set())


def _compile(function: Callable[..., Any], rules: set[str]) -> Any:
    # "numpy" divides without asking whether the divisor is 0: the question keeps a loop from being vectorised.
    options: dict[str, Any] = {"nogil": True, "fastmath": rules, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


def helper(function: Callable[..., Any]) -> Any:
    """A function that only kernels call, compiled into each of them."""
    return njit(nogil=True, fastmath=FLOAT_RULES, error_model="numpy", inline="never")(function)
