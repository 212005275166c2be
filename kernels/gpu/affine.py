"""Affine maps: products by cuBLAS, and one pass over what goes in or comes out of them."""

from __future__ import annotations

from .batch import Batch, Stack, alone
from .device import launch, product

THREADS = 256


@alone
def affine(batch: Batch, x: Stack, w: Stack, b: Stack, out: Stack) -> None:
    n, o = out.array.shape
    product(batch, x, w, out)
    blocks = -(-n * o // THREADS)
    if blocks:
        arguments = (batch.index, n, o, *b, *out)
        launch("affine", "add_bias", out.array.dtype, (blocks, 1, len(batch.members)), THREADS, arguments)
