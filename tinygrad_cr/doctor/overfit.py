"""Can the network learn 20 examples by heart? If not, it will learn nothing from more.

Plain gradient descent on a fixed handful of rows, without penalty and dropout, until the loss is very small. The rate
is found on the way (Armijo 1966: a step has to gain a fair part of what the gradient promises, else it is taken back
and the next one is half as long), so that neither the user's rate nor the scale of the loss matters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.doctor.case import MIN_ROWS, Case, Patient, Stepper
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.nn import Module
from tinygrad_cr.optim import SGD
from tinygrad_cr.tape import no_grad
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import evaluation

ROWS = MIN_ROWS
STEPS = 3000
LOOK = 20
"""Steps between two looks at loss and accuracy."""
SMALL = 0.01
"""A loss at which the right class of every row has a probability of 0.8 or more."""
LARGE = 0.1
"""A loss that can be told from 0, whatever the accuracy: something keeps it up."""
FIRST_RATE, GAIN, LONGER, SHORTER = 1e-3, 0.3, 1.3, 0.5
NAME = "overfit"
EXPECTED = f"accuracy 1.00, loss below {SMALL:g}"


def check(case: Case) -> Check:
    """Descend, and say where it ended."""
    rows = distinct_rows(case, ROWS)
    x, y = case.seen(rows), case.labels[rows]
    model, _, loss = case.copies()
    steps, cost, accuracy = _learn(Patient(model, SGD(model, FIRST_RATE), loss), x, y)
    size = sum(p.size for p in model.parameters() if p.requires_grad)
    status, advice = Status.PASS, ""
    if accuracy < 1 or not cost <= LARGE:
        small = size < len(rows) * (case.outputs - 1)
        status = Status.WARN if small else Status.FAIL
        advice = (
            f"a network of {size} parameters may be too small for {len(rows)} rows: try a hidden layer, or more units"
            if small
            else "look for a bug before training on more: outputs that are squashed or cut off (the loss wants logits, "
            "not probabilities), a layer that is left out, labels that contradict each other"
        )
    elif not cost <= SMALL:
        status, advice = (
            Status.WARN,
            "it learns by heart, but slowly: are the inputs alike, or is the network very small?",
        )
    return Check(
        NAME,
        status,
        f"{len(rows)} rows: accuracy {accuracy:.2f}, loss {cost:.2g} after {steps} steps",
        EXPECTED,
        advice,
        {"rows": len(rows), "accuracy": accuracy, "loss": cost, "steps": steps, "parameters": size},
    )


def distinct_rows(case: Case, wanted: int) -> np.ndarray[Any, Any]:
    """Rows of as many classes as there are, no two of them equal, so that no two can contradict each other."""
    order = case.generator(4).permutation(len(case.train))[: 100 * wanted]
    turns: dict[int, int] = {}
    queue: list[tuple[int, int, int]] = []
    for row in order:
        label = int(case.labels[row])
        turns[label] = turns.get(label, -1) + 1
        queue.append((turns[label], len(queue), int(row)))
    chosen: dict[bytes, int] = {}
    for _, _, row in sorted(queue):
        if len(chosen) < wanted:
            chosen.setdefault(case.seen(np.array([row])).tobytes(), row)
    return np.array(sorted(chosen.values()))


def _learn(patient: Patient, x: Any, y: Any) -> tuple[int, float, float]:
    """Steps made, and the cross-entropy and accuracy after them."""
    model, optimizer, _ = patient
    step, rows, weights = Stepper(patient), Tensor(x), optimizer.flat.values
    before, cost, promised, again = weights.copy(), math.inf, 0.0, False
    rounding = 4 * float(np.finfo(model.dtype).eps)
    loss, accuracy = math.inf, 0.0
    with evaluation(model, recording=True):
        for i in range(1, STEPS + 1):
            here, rate = weights.copy(), optimizer.lr
            now, norms = step(rows, y)
            if again or now <= cost - GAIN * promised + rounding * abs(now):
                before, cost, promised = here, now, float(norms[:, 1].sum()) / rate
                optimizer.lr = rate if again else rate * LONGER
                again = False
            else:
                weights[...] = before
                optimizer.lr = rate * SHORTER
                again = True
            if i % LOOK == 0:
                loss, accuracy = _judge(model, rows, y)
                if loss <= SMALL and accuracy == 1:
                    return i, loss, accuracy
    return STEPS, loss, accuracy


def _judge(model: Module, x: Tensor, y: Any) -> tuple[float, float]:
    with no_grad():
        logits = model(x)
        return ops.cross_entropy(logits, y).item(), float((logits.numpy().argmax(axis=1) == y).mean())
