"""Elementwise maps of flat arrays."""

from __future__ import annotations

from typing import Any

from .batch import Batch, Stack, alone, scalars
from .device import launch
from .layout import flat


@alone
def relu(batch: Batch, x: Stack, out: Stack) -> None:
    _run("relu", batch, out, *x, *out)


@alone
def relu_backward(batch: Batch, dy: Stack, y: Stack, dx: Stack) -> None:
    _run("relu_backward", batch, dx, *dy, *y, *dx)


@alone
def dropout(
    batch: Batch, x: Stack, threshold: int, scale: float, seed: int, draw: int, stream: int, out: Stack
) -> None:
    numbers = scalars("dropout", batch, threshold, scale, seed, draw, stream)
    _run("dropout", batch, out, *x, *out, *numbers)


@alone
def scale(batch: Batch, factor: Stack, x: Stack, out: Stack) -> None:
    """``out = factor[0] * x``; factor: [1] F, x, out: [n] F."""
    _run("scale", batch, out, *factor, *x, *out)


def _run(kernel: str, batch: Batch, out: Stack, *arguments: Any) -> None:
    size = out.array.size
    if size:
        launch("dropout", kernel, out.array.dtype, *flat(batch, size), (batch.index, size, *arguments))
