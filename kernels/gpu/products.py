"""Matrix products of members on the current stream, and how precise they are."""

from __future__ import annotations

from .batch import Batch, Stack
from .cublas import Cublas
from .device import cublas, launch, xp
from .layout import one_each

_cublas = Cublas(cublas, xp)


def product(
    batch: Batch, a: Stack, b: Stack, out: Stack, *, transpose_a: bool = False, transpose_b: bool = False
) -> None:
    """``out = a @ b`` for each member; a, b and out are matrices, a or b taken transposed.

    float32 is computed in float32, unless `set_tf32` allows less.
    """
    size = out.array.size
    if a.array.size and b.array.size:
        _cublas.product(batch, a, b, out, transpose_a, transpose_b)
    elif size:
        launch("affine", "clear", out.array.dtype, *one_each(batch, size), (batch.index, size, *out))


def set_tf32(allowed: bool) -> None:
    """Let products of float32 round their factors to 10 bits of mantissa (TF32), which tensor cores multiply faster."""
    _cublas.tf32 = bool(allowed)


def tf32() -> bool:
    """Whether that is allowed."""
    return _cublas.tf32
