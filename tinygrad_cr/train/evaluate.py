"""What a trained network says about data: probabilities, loss and accuracy, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data import Batches, Dataset, Standardizer
from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.nn import Module
from tinygrad_cr.tape import no_grad
from tinygrad_cr.tensor import Tensor

ROWS = 1024
"""Rows evaluated at a time: enough for the matrix products to run at full rate, little memory."""


def evaluate(model: Module, data: Dataset, standardizer: Standardizer | None = None) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of a classifier on labelled data.

    Raises:
        DataError: data without labels, or labels that the network has no output for.
        ShapeError: another number of features than the network or the standardisation takes.

    >>> from tinygrad_cr.nn import MLP
    >>> data = Dataset(np.zeros((4, 3), "float32"), [0, 1, 1, 1])
    >>> loss, accuracy = evaluate(MLP([3, 2], init=0.0), data)
    >>> round(loss, 4), accuracy
    (0.6931, 0.25)
    """
    if data.y is None:
        raise DataError("evaluate wants labelled data; use predict_proba for data without labels")
    loss, right = 0.0, 0
    with evaluation(model):
        for x, y in Batches(data, ROWS, standardizer=standardizer, shuffle=False, dtype=str(model.dtype)):
            logits = model(Tensor(x))
            loss += ops.cross_entropy(logits, y).item() * len(y)
            right += int((logits.numpy().argmax(axis=1) == y).sum())
    return loss / len(data), right / len(data)


def predict_proba(model: Module, x: Any, standardizer: Standardizer | None = None) -> np.ndarray[Any, Any]:
    """Class probabilities, float [n, classes]; x: [n, features], or images that flatten to that.

    >>> from tinygrad_cr.nn import MLP
    >>> predict_proba(MLP([3, 2], init=0.0), np.zeros((1, 3), "float32"))
    array([[0.5, 0.5]], dtype=float32)
    """
    rows = Dataset(x).x
    parts = []
    with evaluation(model):
        for start in range(0, len(rows), ROWS):
            chunk = rows[start : start + ROWS]
            if standardizer is None:
                batch = chunk.astype(model.dtype)
            else:
                batch = standardizer.transform(chunk, dtype=str(model.dtype))
            parts.append(ops.softmax(model(Tensor(batch))).numpy())
    return np.concatenate(parts)


def check_fit(model: Module, data: Dataset) -> None:
    """Raise unless the network takes this many features and has an output for each class.

    Raises:
        ShapeError, DataError: it does not.
    """
    with evaluation(model):
        logits = model(Tensor(np.zeros((1, data.features), model.dtype)))
    if logits.ndim != 2:
        raise ShapeError(f"a classifier gives logits [n, classes], this model gives {logits.shape} for one row")
    if logits.shape[1] < data.classes:
        raise DataError(
            f"the model has {logits.shape[1]} outputs, the data {data.classes} classes; "
            f"make the last size {data.classes}"
        )


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
