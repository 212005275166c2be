"""Minibatches: gather, convert and standardise in one pass."""

from __future__ import annotations

from ..interface import Array
from .compiling import kernel


@kernel
def gather(data: Array, rows: Array, mean: Array, scale: Array, out: Array) -> None:
    number = out.dtype.type
    for i in range(rows.size):
        source, target = data[rows[i]], out[i]
        for j in range(source.size):
            target[j] = (number(source[j]) - mean[j]) * scale[j]
