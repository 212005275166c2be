"""Are the hidden units alive, and do activations keep their scale from layer to layer?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.initial import drawn_by_he
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.nn import Module
from tinygrad_cr.nn.probe import observed
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import evaluation

ROWS = 512
DEAD_LIMIT = 0.5
"""Of the units of a layer, so many may be 0 for every row. He's initialisation leaves a few dead in deep networks."""
SCALE_LIMIT, SCALE_FAILS = 1e3, 1e6
"""Activations may be so many times larger or smaller than the inputs; at 1e6, float32 loses the gradients behind."""
NAME = "units"
EXPECTED = f"at most {DEAD_LIMIT:.0%} of a layer dead, size within {SCALE_LIMIT:g} times the inputs'"


class Activations(NamedTuple):
    """What a hidden layer gives: its size (root of the mean square), and the parts of units and values that are 0."""

    name: str
    size: float
    dead: float
    zeros: float


def check(case: Case) -> Check:
    """One pass in evaluation mode over a sample."""
    model, _, _ = case.copies()
    x, _ = case.sample(ROWS)
    layers = hidden(model, x)
    if not layers:
        return Check(NAME, Status.SKIP, "no hidden layer", EXPECTED)
    size = math.sqrt(float(np.square(x, dtype=np.float64).mean())) or 1.0
    worst = max(layers, key=lambda layer: layer.dead)
    status, advice = _judge(layers, worst, size, model)
    sizes = ", ".join(f"{layer.size:.2g}" for layer in layers)
    measured = f"dead {worst.dead:.0%} at most; sizes {sizes} from inputs of {size:.2g}"
    values = {"input_size": size, "layers": {layer.name: layer._asdict() for layer in layers}}
    return Check(NAME, status, measured, EXPECTED, advice, values)


def _judge(layers: list[Activations], worst: Activations, size: float, model: Module) -> tuple[Status, str]:
    if worst.dead == 1:
        return Status.FAIL, (
            f"every unit of {worst.name} is 0 for every row, and no gradient passes: its biases are too low, or its "
            "weights were ruined by a learning rate that was too high"
        )
    if worst.dead > DEAD_LIMIT:
        return Status.WARN, (
            f"most units of {worst.name} are 0 for every row and learn nothing: raise its biases" + _or_he(model)
        )
    farthest = max(layers, key=lambda layer: abs(math.log(layer.size / size)))
    ratio = farthest.size / size
    if 1 / SCALE_LIMIT <= ratio <= SCALE_LIMIT:
        return Status.PASS, ""
    status = Status.WARN if 1 / SCALE_FAILS <= ratio <= SCALE_FAILS else Status.FAIL
    what = "shrink, and the loss will start flat" if ratio < 1 else "grow"
    return (
        status,
        f"activations {what}: {farthest.size:.2g} in {farthest.name}, from inputs of {size:.2g}"
        + ("; scale its weights" if drawn_by_he(model) else "; use init='he'"),
    )


def _or_he(model: Module) -> str:
    """A way out, unless that is how the weights were drawn."""
    return "" if drawn_by_he(model) else ", or use init='he'"


def hidden(model: Module, x: Any) -> list[Activations]:
    """The activations of every hidden layer, in order; x: [n, features].

    Hidden is what another layer takes in: also what a function outside of layers made of it, a ReLU say.
    """
    given = Tensor(x)
    made: dict[int, tuple[str, Tensor]] = {}
    order: list[tuple[str, np.ndarray[Any, Any]]] = []

    def see(name: str, layer: Module, taken: Tensor, y: Tensor) -> None:
        if made and taken is not given:
            order.append((made.get(id(taken), (f"input of {name}",))[0], np.array(taken.data)))
        made[id(y)] = (name, y)

    with evaluation(model), observed(model, see):
        model(given)
    found: dict[str, Activations] = {}
    for name, y in order:
        rows = y.reshape(len(y), -1)
        size = math.sqrt(float(np.square(rows, dtype=np.float64).mean()))
        zero = rows == 0
        found.setdefault(name, Activations(name, size, float(zero.all(axis=0).mean()), float(zero.mean())))
    return list(found.values())
