"""`Batches`: the shuffled, standardised minibatches of one epoch after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cr.data.dataset import Dataset
from tinygrad_cr.data.standardize import Standardizer
from tinygrad_cr.errors import DataError
from tinygrad_cr.kernels import aligned, backend
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator


class Batches:
    """Iterating yields one epoch of ``(x [b, d] float, y [b] int64)``; every row is seen once.

    **x and y are views into two buffers that the next step overwrites: copy what you keep.** For the same
    reason two iterations over one `Batches` must not run at once. Fresh arrays would cost a page fault every
    4 KiB of every step.

    dataset: labelled rows. batch_size: rows a step; the last step of an epoch has what is left, and a
    batch_size beyond the number of rows gives one step. standardizer: a fitted `Standardizer`, applied in the
    same pass that gathers and converts the rows. generator: each epoch draws its permutation from it; None
    means ``Generator(0)``. shuffle=False keeps the rows in order and draws nothing. dtype: "float32" or
    "float64".

    Raises `OptionError` for a batch_size that is no integer of at least 1, `DataError` for rows without
    labels or with values that dtype cannot hold, `ShapeError` for a standardizer fitted on other features.

    >>> data = Dataset([[1, 2], [3, 4], [5, 6]], [0, 1, 0])
    >>> [(x.tolist(), y.tolist()) for x, y in Batches(data, 2, shuffle=False)]
    [([[1.0, 2.0], [3.0, 4.0]], [0, 1]), ([[5.0, 6.0]], [0])]
    >>> len(Batches(data, 2))
    2
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        standardizer: Standardizer | None = None,
        generator: Generator | None = None,
        shuffle: bool = True,
        dtype: str = "float32",
    ) -> None:
        size = integer("batch_size", batch_size, least=1)
        if dataset.y is None:
            raise DataError("minibatches for training need labels and this data set has none: give y")
        standardizer = Standardizer("none").fit(dataset.x[:1]) if standardizer is None else standardizer
        self.dataset = dataset
        self.batch_size = min(size, len(dataset))
        self.generator = Generator(0) if generator is None else generator
        self.shuffle = shuffle
        self._labels = dataset.y
        self._mean, self._scale = standardizer.parameters(dataset.x, dtype)
        if self._mean.dtype != dtype:
            _check_range(dataset.x, self._mean, self._scale, dtype)
        self._x = aligned((self.batch_size, dataset.features), dtype)
        # The kernel writes into x itself unless float64 rows are wanted in float32.
        self._gathered = self._x if self._mean.dtype == dtype else aligned(self._x.shape, self._mean.dtype)
        self._y = np.empty(self.batch_size, np.int64)
        self._cut: dict[int, tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]] = {}

    def _views(self, rows: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        """The buffers for so many rows, kept: a compiled step knows the same objects again."""
        views = self._cut[rows] = (self._x[:rows], self._gathered[:rows], self._y[:rows])
        return views

    def source(self) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[Any]]:
        """What minibatches are gathered from, for callers who choose rows themselves: data, labels, mean, scale.

        ``(data[rows] - mean) * scale`` are the standardised rows, see the kernel `gather`. Wider data than the
        minibatches are wanted in is converted here, once.
        """
        if self._gathered is self._x:
            return self.dataset.x, self._labels, self._mean, self._scale
        dtype = self._x.dtype
        data = ((self.dataset.x - self._mean) * self._scale).astype(dtype)
        return data, self._labels, np.zeros(data.shape[1], dtype), np.ones(data.shape[1], dtype)

    def order(self) -> NDArray[np.int64]:
        """The rows in the order in which one epoch takes them; the next one, as far as the generator is concerned.

        >>> Batches(Dataset([[1], [2], [3]], [0, 1, 2]), 2, shuffle=False).order()
        array([0, 1, 2])
        """
        n = len(self.dataset)
        return self.generator.permutation(n) if self.shuffle else np.arange(n)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        return self.epoch()

    def epoch(self, skip: int = 0) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """One epoch without its first `skip` minibatches; it draws the same permutation as a whole one.

        >>> data = Dataset([[1], [2], [3]], [0, 1, 2])
        >>> [y.tolist() for _, y in Batches(data, 2, shuffle=False).epoch(skip=1)]
        [[2]]
        """
        gather, data, labels, mean, scale = backend("cpu").gather, self.dataset.x, self._labels, self._mean, self._scale
        narrowed = self._gathered is not self._x
        n, size, order = len(data), self.batch_size, self.order()
        for start in range(skip * size, n, size):
            chosen = order[start : start + size]
            x, gathered, y = self._cut.get(len(chosen)) or self._views(len(chosen))
            gather(data, chosen, mean, scale, gathered)
            if narrowed:
                x[...] = gathered
            # mode="clip" only because NumPy buffers the output otherwise; no row is out of range. The method: np.take
            # itself costs more than what it does.
            labels.take(chosen, out=y, mode="clip")
            yield x, y


def _check_range(x: NDArray[Any], mean: NDArray[Any], scale: NDArray[Any], dtype: str) -> None:
    """Raise for values that are finite as they stand, but inf once they are standardised and narrowed."""
    with np.errstate(over="ignore"):
        extremes = np.abs((np.stack([x.min(axis=0), x.max(axis=0)]) - mean) * scale).max(axis=0)
    column = int(extremes.argmax())
    if not extremes[column] <= np.finfo(dtype).max:
        raise DataError(
            f"column {column} reaches {extremes[column]:g} after standardisation, more than {dtype} holds: "
            "rescale it, or train in float64"
        )
