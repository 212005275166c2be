"""What a trained network says about data: probabilities, loss and accuracy, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data import Batches, Dataset, Standardizer
from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.nn import Module, member_of
from tinygrad_cr.tape import each_member, no_grad
from tinygrad_cr.tensor import Tensor

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
    if data.y is None:
        raise DataError("evaluate wants labelled data; use predict_proba for data without labels")
    members = model.members
    networks = [model] if members is None else [member_of(model, m) for m in range(members)]
    loss, right = np.zeros(len(networks)), np.zeros(len(networks))
    with ExitStack() as modes:
        for network in networks:
            modes.enter_context(evaluation(network))
        for x, y in Batches(data, ROWS, standardizer=standardizer, shuffle=False, dtype=str(model.dtype)):
            for m in (0,) if members is None else each_member(members):
                logits = networks[m](Tensor(x))
                loss[m] += ops.cross_entropy(logits, y).item() * len(y)
                right[m] += int((logits.numpy().argmax(axis=1) == y).sum())
    loss, accuracy = loss / len(data), right / len(data)
    return (float(loss[0]), float(accuracy[0])) if members is None else (loss, accuracy)


def predict_proba(model: Module, x: Any, standardizer: Standardizer | None = None) -> np.ndarray[Any, Any]:
    """Class probabilities, float [n, classes]; x: [n, features], or images that flatten to that.

    Of a population [members, n, classes].

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
    return np.concatenate(parts, axis=-2)


def check_fit(model: Module, data: Dataset) -> None:
    """Raise unless the network takes this many features and has an output for each class.

    Raises:
        ShapeError, DataError: it does not.
    """
    with evaluation(model):
        logits = model(Tensor(np.zeros((1, data.features), model.dtype)))
    if logits.ndim != (2 if model.members is None else 3):
        raise ShapeError(f"a classifier gives logits [n, classes], this model gives {logits.shape} for one row")
    if logits.shape[-1] < data.classes:
        raise DataError(
            f"the model has {logits.shape[-1]} outputs, the data {data.classes} classes; "
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
