"""The arrays of a task: the same for every contestant, made anew in each worker from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads import RANDOM, VALIDATION_ROWS, Task

CLASSES = 10


@dataclass(frozen=True)
class Inputs:
    """Rows to train or predict on.

    Attributes:
        x: [rows, features] float32, or uint8 for images.
        y: [rows] int64.
        mean, scale: [features] float32, to be applied to uint8 rows as ``(x - mean) * scale``; None for float32 rows.
        validation: standardised float32 rows and their labels, for the race to an accuracy.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    mean: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None
    validation: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None


def fashion_mnist_is_here() -> bool:
    """Whether Fashion-MNIST is on this machine; nothing is downloaded."""
    try:
        _fashion_mnist()
    except ImportError:
        return False
    except Exception as problem:
        if type(problem).__name__ != "DataError":
            raise
        return False
    return True


def make_inputs(task: Task) -> Inputs:
    """The arrays of a task. Where Fashion-MNIST is missing, random bytes of its size stand in."""
    rng = np.random.default_rng(0)
    if task.data == RANDOM:
        normal = rng.standard_normal((task.rows, task.sizes[0]), dtype=np.float32)
        return Inputs(normal, rng.integers(0, CLASSES, task.rows))
    if fashion_mnist_is_here():
        x, y = _fashion_mnist()
    else:
        x = rng.integers(0, 256, (60_000, task.sizes[0]), dtype=np.uint8)
        y = rng.integers(0, CLASSES, len(x))
    mean, scale = _standardisation(x[: task.rows])
    validation = None
    if task.kind == "accuracy":
        held_out = slice(len(x) - VALIDATION_ROWS, None)
        validation = ((x[held_out] - mean) * scale, y[held_out])
    return Inputs(x[: task.rows], y[: task.rows], mean, scale, validation)


def _fashion_mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from tinygrad_cr import data

    found = data.load("fashion-mnist", download=False)
    assert found.y is not None
    return found.x, found.y


def _standardisation(x: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of each pixel and one over its deviation, which counts as at least a tenth of the pooled one."""
    from tinygrad_cr import data

    fitted = data.Standardizer("per-feature").fit(x)
    return fitted.mean_.astype(np.float32), fitted.scale_.astype(np.float32)
