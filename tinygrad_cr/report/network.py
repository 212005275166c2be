"""The pictures that need the network of a run, and the data that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_cr import plots
from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, RunError
from tinygrad_cr.report import alternatives
from tinygrad_cr.report.drawing import NO_EPOCH, RESULTS, Omission, Picture
from tinygrad_cr.train import Record, Run, load_parts, load_run, predict_proba

UNITS = 64
"""So many first-layer units are shown."""

MISTAKES = 12

CLASSES = 60
"""Of more classes, a matrix is a grey square."""

WEIGHTS, MATRIX, WORST, MASK = "first-layer weights", "confusion matrix", "worst mistakes", "dropout mask"


def from_network(record: Record) -> Iterator[Picture | Omission]:
    """First-layer weights, confusion matrix, worst mistakes and a dropout mask, or why they are not there."""
    if record.config.get("model", False) is None:
        reason = "the network is no MLP, so only the program that made it can load it"
        yield from (Omission(name, reason) for name in (WEIGHTS, MATRIX, WORST, MASK))
        return
    try:
        run = load_run(record.path)
    except RunError as error:
        there_is_none = not (record.path / "model.safetensors").exists()
        reason = NO_EPOCH if there_is_none else str(error)
        yield from (Omission(name, reason) for name in (WEIGHTS, MATRIX, WORST, MASK))
        return
    if run.model.members is not None:
        run = run._replace(model=run.model[record.config.get("member", 0)])
        run.model.eval()
    yield _weights(run)
    if record.config.get("data") is None:
        reason = "this run was trained on arrays, which its folder does not hold"
        yield from (Omission(name, reason) for name in (MATRIX, WORST, MASK))
        return
    try:
        parts = load_parts(record.config, download=False)
    except DataError as error:
        yield from (Omission(name, str(error)) for name in (MATRIX, WORST, MASK))
        return
    part, called = (parts.train, "training") if parts.validation is None else (parts.validation, "validation")
    yield from _predictions(run, part, called)
    yield _mask(run, part)


def _weights(run: Run) -> Picture | Omission:
    shape = run.config.get("image_shape")
    if not shape:
        return Omission(WEIGHTS, "the rows are no images")
    weights = run.model.state_dict()["layers.0.weight"]
    hidden = len(run.model.sizes) > 2
    what = "what a hidden unit looks for" if hidden else "the template of a class"
    return Picture(
        RESULTS,
        WEIGHTS,
        lambda ax: plots.first_layer_weights(weights, shape, ax=ax, limit=UNITS),
        alternatives.weights(weights, shape, UNITS),
        f"First-layer weights: each image is {what}. Smooth, distinct patterns mean a layer that has learned; "
        "noise means too little training, too little regularisation or too high a learning rate.",
        height=4.6,
        image=True,
    )


def _predictions(run: Run, part: Dataset, called: str) -> Iterator[Picture | Omission]:
    assert part.y is not None
    labels, names = part.y, run.class_names
    probabilities = predict_proba(run.model, part.x, run.standardizer)
    predicted = probabilities.argmax(axis=1)
    where = f"the {called} part"
    if len(names) > CLASSES:
        yield Omission(MATRIX, f"of {len(names)} classes nobody could read one")
    else:
        yield Picture(
            RESULTS,
            MATRIX,
            lambda ax: plots.confusion_matrix(labels, predicted, names, ax=ax),
            alternatives.confusions(labels, predicted, names),
            f"Which classes of {where} are taken for which.",
            height=4.6,
        )
    if part.image_shape is None:
        yield Omission(WORST, "the rows are no images")
        return
    yield Picture(
        RESULTS,
        WORST,
        lambda ax: plots.worst_mistakes(part, probabilities, ax=ax, count=MISTAKES),
        alternatives.mistakes(labels, probabilities, names, MISTAKES),
        f"The rows of {where} that the network is most wrong about: true class, → predicted class and its probability. "
        "Look for wrong labels.",
        height=4.6,
        image=True,
        bare=True,
    )


def _mask(run: Run, part: Dataset) -> Picture | Omission:
    model = run.model
    if not model.dropout or len(model.sizes) < 3:
        return Omission(MASK, "there is no dropout")
    x = run.standardizer.transform(part.x[:1], dtype=str(model.dtype))
    state = model.state_dict()
    units = np.maximum(x @ state["layers.0.weight"] + state["layers.0.bias"], 0)[0]
    shape = _rectangle(len(units))

    def draw(ax: Any) -> Any:
        # Any mask shows what masks do.
        return plots.dropout_mask(units, model.dropout, generator=0, mode=model.dropout_mode, image_shape=shape, ax=ax)

    active = int((units > 0).sum())
    return Picture(
        RESULTS,
        MASK,
        draw,
        f"The {len(units)} units of the first hidden layer for one row of the data, {active} of them active, and what "
        f"is left of them when a fraction of {model.dropout:g} is dropped.",
        "What dropout does in training: the first hidden layer's outputs for one example, a mask, and what the next "
        "layer gets. Each step draws another mask; in evaluation there is none.",
        height=2.4,
        image=True,
        bare=True,
    )


def _rectangle(count: int) -> tuple[int, int] | None:
    """Rows and columns that hold so many units, as near to a square as possible; None for a strip.

    >>> _rectangle(256), _rectangle(50), _rectangle(13)
    ((16, 16), (5, 10), None)
    """
    rows = max(n for n in range(1, int(count**0.5) + 1) if count % n == 0)
    return (rows, count // rows) if rows * 4 >= count // rows else None
