"""What a trained network says about data: probabilities, loss and accuracy, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.compile import compile as capturing
from tinygrad_cr.data import Batches, Dataset, Standardizer
from tinygrad_cr.errors import CaptureError, DataError, ShapeError
from tinygrad_cr.kernels import Array, Kernels, backend
from tinygrad_cr.nn import Module
from tinygrad_cr.operands import check_labels
from tinygrad_cr.tape import no_grad
from tinygrad_cr.tensor import Tensor, wrap

ROWS = 1024
"""Rows evaluated at a time: enough for the matrix products to run at full rate, little memory."""


def evaluate(model: Module, data: Dataset, standardizer: Standardizer | None = None) -> tuple[Any, Any]:
    """Mean cross-entropy and accuracy of a classifier on labelled data: floats, or arrays [members] of a population.

    Raises:
        DataError: data without labels, or labels that the network has no output for.
        ShapeError: another number of features than the network or the standardisation takes.

    >>> from tinygrad_cr.nn import MLP
    >>> data = Dataset(np.zeros((4, 3), "float32"), [0, 1, 1, 1])
    >>> loss, accuracy = evaluate(MLP([3, 2], init=0.0), data)
    >>> round(loss, 4), accuracy
    (0.6931, 0.25)
    """
    return Evaluation(model, data, standardizer).measure()


class Evaluation:
    """`evaluate` for the same model and data again and again: the data lies where the model computes, and stays there.

    Raises:
        DataError, ShapeError: as `evaluate` says.
    """

    def __init__(self, model: Module, data: Dataset, standardizer: Standardizer | None = None) -> None:
        if data.y is None:
            raise DataError("evaluate wants labelled data; use predict_proba for data without labels")
        self.model, self.kernels, self.labels = model, kernels_of(model), data.y
        dtype, xp = str(model.dtype), self.kernels.xp
        batches = Batches(data, ROWS, standardizer=standardizer, shuffle=False, dtype=dtype)
        self.rows, self.y, self.mean, self.scale = (xp.asarray(array) for array in batches.source())
        self.order = xp.arange(len(data))
        room = self.kernels.empty((batches.batch_size, data.features), dtype)
        labels = xp.empty(batches.batch_size, np.int64)
        # The same objects each time, so that a compiled call knows them again.
        self.parts = {n: (room[:n], labels[:n]) for n in {batches.batch_size, (len(data) - 1) % ROWS + 1}}
        self.compiled: capturing | None = capturing(self._look, in_place=True)

    def measure(self, *, compiled: bool = False) -> tuple[Any, Any]:
        """Loss and accuracy of the model as it is now; compiled: by calls that are captured and replayed, if possible.

        The GPU is waited for once.
        """
        xp, n = self.kernels.xp, len(self.labels)
        losses, right, sizes = [], [], []
        with evaluation(self.model):
            for start in range(0, n, ROWS):
                rows, labels = self.order[start : start + ROWS], self.y[start : start + ROWS]
                x, y = self.parts[len(rows)]
                self.kernels.gather(self.rows, rows, self.mean, self.scale, x)
                y[...] = labels
                loss, logits = self._seen(x, y, compiled)
                losses.append(loss.data.astype(np.float64))
                right.append((xp.argmax(logits.data, axis=-1) == y).sum(axis=-1).astype(np.float64))
                sizes.append(len(rows))
        # [2, chunks], or [2, chunks, members].
        each = self.kernels.to_numpy(xp.stack([xp.stack(losses), xp.stack(right)]))
        if np.isnan(each).any():
            check_labels(self.labels, logits.shape[-1])
        # One by one, in order.
        loss = sum(cost * size for cost, size in zip(each[0], sizes, strict=True)) / n
        accuracy = each[1].sum(axis=0) / n
        return (loss, accuracy) if each.ndim == 3 else (float(loss), float(accuracy))

    def _seen(self, x: Array, y: Array, compiled: bool) -> tuple[Tensor, Tensor]:
        if compiled and self.compiled is not None:
            try:
                result: tuple[Tensor, Tensor] = self.compiled(x, y)
                return result
            except CaptureError:
                self.compiled = None
        return self._look(x, y)

    def _look(self, x: Array, y: Array) -> tuple[Tensor, Tensor]:
        """Cross-entropy and logits."""
        logits = self.model(wrap(x, self.kernels))
        return ops.cross_entropy(logits, wrap(y, self.kernels)), logits


def predict_proba(model: Module, x: Any, standardizer: Standardizer | None = None) -> np.ndarray[Any, Any]:
    """Class probabilities, float [n, classes]; x: [n, features], or images that flatten to that.

    Of a population [members, n, classes].

    >>> from tinygrad_cr.nn import MLP
    >>> predict_proba(MLP([3, 2], init=0.0), np.zeros((1, 3), "float32"))
    array([[0.5, 0.5]], dtype=float32)
    """
    rows, kernels = Dataset(x).x, kernels_of(model)
    parts = []
    with evaluation(model):
        for start in range(0, len(rows), ROWS):
            chunk = rows[start : start + ROWS]
            if standardizer is None:
                batch = chunk.astype(model.dtype)
            else:
                batch = standardizer.transform(chunk, dtype=str(model.dtype))
            parts.append(kernels.to_numpy(ops.softmax(model(input_of(model, batch))).data))
    return np.concatenate(parts, axis=-2)


def input_of(model: Module, x: Any) -> Tensor:
    """Standardised rows as a tensor where the model computes."""
    return Tensor(x, device=kernels_of(model).name)


def check_fit(model: Module, data: Dataset) -> None:
    """Raise unless the network takes this many features and has an output for each class.

    Raises:
        ShapeError, DataError: it does not.
    """
    with evaluation(model):
        logits = model(input_of(model, np.zeros((1, data.features), model.dtype)))
    if logits.ndim != (2 if model.members is None else 3):
        raise ShapeError(f"a classifier gives logits [n, classes], this model gives {logits.shape} for one row")
    if logits.shape[-1] < data.classes:
        raise DataError(
            f"the model has {logits.shape[-1]} outputs, the data {data.classes} classes; "
            f"make the last size {data.classes}"
        )


def kernels_of(model: Module) -> Kernels:
    """The backend that a model computes with.

    >>> from tinygrad_cr.nn import MLP
    >>> kernels_of(MLP([4, 2], generator=0)).name
    'cpu'
    """
    parameters = model.parameters()
    return parameters[0].backend if parameters else backend("cpu")


@contextmanager
def evaluation(model: Module, *, recording: bool = False) -> Iterator[None]:
    """The model in evaluation mode and, unless wanted, nothing recorded; every module's mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with nullcontext() if recording else no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
