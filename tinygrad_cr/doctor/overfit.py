"""Can the network learn 20 examples by heart? If not, it will learn nothing from more.

Plain gradient descent on a fixed handful of rows, without penalty and dropout, until the loss is very small. The rate
is found on the way (Armijo 1966: a step has to gain a fair part of what the gradient promises, else it is taken back
and the next one is half as long), so that neither the user's rate nor the scale of the loss matters.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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
"""For a loss that is not the cross-entropy: what that may still be when all rows are right."""
STUCK, FALLS = 0.5, 0.02
"""Stuck is a loss above this part of what a constant answer costs, that fell by less than 2 % in the last third."""
STUCK_AMONG_FEW = 0.9
"""The same with fewer features than rows, where no plane need divide the classes: one noisy feature left up to 0.87."""
CANDIDATES = 10
"""Among so many rows of a class, the one that lies apart is taken."""
LOWEST_RATE = 1e-30
"""Halved so often, a step changes nothing any more."""
FIRST_RATE, GAIN, LONGER, SHORTER = 1e-3, 0.3, 1.3, 0.5
NAME = "overfit"


class End(NamedTuple):
    """Steps made, cross-entropy and accuracy after them, and the part by which the loss fell in their last third."""

    steps: int
    loss: float
    accuracy: float
    fall: float


def check(case: Case) -> Check:
    """Descend, and say where it ended."""
    rows = distinct_rows(case, ROWS)
    x, y = case.seen(rows), case.labels[rows]
    model, _, loss = case.copies()
    # Another loss need not end where the cross-entropy is 0: smoothed labels end above it.
    small = SMALL if loss is ops.cross_entropy else LARGE
    end = _learn(Patient(model, SGD(model, FIRST_RATE), loss), x, y, small)
    size = sum(p.size for p in model.parameters() if p.requires_grad)
    status, advice = Status.PASS, ""
    if end.accuracy < 1 or not end.loss <= small:
        status, advice = _judge(end, model, y, size, case)
    return Check(
        NAME,
        status,
        f"{len(rows)} rows: accuracy {end.accuracy:.2f}, loss {end.loss:.2g} after {end.steps} steps",
        f"accuracy 1.00, loss below {small:g}",
        advice,
        {"rows": len(rows), "parameters": size} | end._asdict(),
    )


def _judge(end: End, model: Module, y: Any, size: int, case: Case) -> tuple[Status, str]:
    """Why not all was learned: a bug only where the descent is stuck far from the end, and has room enough."""
    outputs = case.outputs
    if size < len(y) * (outputs - 1):
        few = f"a network of {size} parameters may be too small for {len(y)} rows: try a hidden layer, or more units"
        return Status.WARN, few
    narrow = [name for name, p in model.named_parameters() if p.data.ndim == 2 and p.shape[1] < outputs]
    if narrow:
        return Status.WARN, f"{', '.join(narrow)}: fewer units than classes; all has to pass there, try more units"
    shares = np.bincount(y) / len(y)
    constant = -float(sum(share * math.log(share) for share in shares if share))
    limit = STUCK if case.varying >= len(y) else STUCK_AMONG_FEW
    if not (end.loss <= limit * constant or end.fall >= FALLS):
        return Status.FAIL, (
            f"it is stuck (a constant answer costs {constant:.2g}); look for a bug before training on more: outputs "
            "that are squashed or cut off (the loss wants logits, not probabilities), or a layer that is left out"
        )
    return Status.WARN, (
        "it learns by heart, but slowly: rows of different classes may lie close together (few features, noise), or "
        "layers are narrow; try more units"
    )


def distinct_rows(case: Case, wanted: int) -> np.ndarray[Any, Any]:
    """Rows of as many classes as there are, in turn; no two of them equal, so that no two can contradict each other.

    Each is that of a few which lies farthest from the rows chosen before: rows that lie close together are hard to
    tell apart, and that is no bug.
    """
    order = case.generator(4).permutation(len(case.train))[: 100 * wanted]
    queues: dict[int, list[int]] = {}
    for row in order.tolist():
        queues.setdefault(int(case.labels[row]), []).append(row)
    chosen: list[int] = []
    while len(chosen) < wanted and any(queues.values()):
        for queue in queues.values():
            if len(chosen) < wanted and queue:
                _choose(case, queue, chosen)
    return np.array(sorted(chosen))


def _choose(case: Case, queue: list[int], chosen: list[int]) -> None:
    """Move a row from the front of the queue to those chosen, and drop what equals one of them."""
    front = queue[:CANDIDATES]
    x = case.seen(np.array(front + chosen), "float64")
    rows, others = x[: len(front)], x[len(front) :]
    gaps = [float(np.square(others - row).sum(axis=1).min(initial=math.inf)) for row in rows]
    best = max(range(len(front)), key=lambda i: gaps[i])
    if gaps[best]:
        chosen.append(front[best])
    queue[: len(front)] = [row for i, row in enumerate(front) if gaps[i] and i != best]


def _learn(patient: Patient, x: Any, y: Any, small: float) -> End:
    """Descend until the cross-entropy is small, no step gains anything, or the steps are used up."""
    model, optimizer, _ = patient
    step, rows, weights = Stepper(patient), Tensor(x), optimizer.flat.values
    before, cost, promised, again = weights.copy(), math.inf, 0.0, False
    rounding = 4 * float(np.finfo(model.dtype).eps)
    losses, accuracy = [], 0.0
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
                loss, accuracy = _look(model, rows, y)
                losses.append(loss)
                if (loss <= small and accuracy == 1) or optimizer.lr < LOWEST_RATE:
                    break
    earlier = losses[len(losses) * 2 // 3 - 1] if len(losses) > 2 else losses[0]
    return End(i, losses[-1], accuracy, 1 - losses[-1] / earlier if earlier else 0.0)


def _look(model: Module, x: Tensor, y: Any) -> tuple[float, float]:
    with no_grad():
        logits = model(x)
        return ops.cross_entropy(logits, y).item(), float((logits.numpy().argmax(axis=1) == y).mean())
