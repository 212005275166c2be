"""Does regularisation do what it says: raise the cost by 0.5 * reg * sum(W**2), and pull weights towards 0?

And does it leave the data a say? A penalty that costs more than the data from the start is what training will lower.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cr.doctor.case import Case, Patient, counted_from_one
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.optim import SGD
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import evaluation

STRENGTH = 0.1
"""Strong enough that a float32 weight shows the step."""
RATE = 0.1
EXACT = 1e-4
"""Relative: what float32 may lose."""
SHARE_LIMIT = 1.0
"""The penalty over the data loss, before training."""
SHARE_WANTED = 0.1
ROWS = 1000
NAME = "regularisation"


def check(case: Case) -> Check:
    """One step of the optimiser, with gradients of zero: what is left of it is the penalty."""
    patient = case.copies()
    model, optimizer, _ = patient
    _at_rest(patient, case)
    before = {name: np.array(p.data, np.float64) for name, p in model.named_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    penalised = {name: p.regularized for name, p in trained.items()}
    norms = optimizer.step(reg=STRENGTH, norms=True)
    squares = sum(float((before[name] ** 2).sum()) for name, p in model.named_parameters() if p.regularized)
    raised = _raised(patient, norms)
    decay = optimizer.weight_decay + STRENGTH
    problems = [] if abs(raised / (0.5 * STRENGTH * squares) - 1) <= EXACT else ["the cost is raised by something else"]
    for name, p in trained.items():
        change = np.asarray(p.data, np.float64) - before[name]
        problems += [f"{name}: {what}" for what in _wrong(change, before[name], penalised[name], optimizer, decay)]
    ratio = raised / squares / STRENGTH
    advice, status = "", Status.FAIL if problems else Status.PASS
    part = share(case)
    if problems:
        advice = (
            f"{'; '.join(problems[:3])}: the optimizer must add reg * W to the gradient of weights, of biases nothing"
        )
    elif part > SHARE_LIMIT:
        status = Status.WARN
        advice = (
            f"at reg={case.reg:g} the penalty on the first weights is {part:.3g} times the data loss, and training "
            f"will mostly shrink them: try reg={case.reg * SHARE_WANTED / part:.0e}"
        )
    return Check(
        NAME,
        status,
        f"cost + {ratio:.6g} * reg * sum(W**2); " + ("a step pulls weights to 0" if not problems else problems[0]),
        "cost + 0.5 * reg * sum(W**2); a step pulls weights to 0",
        advice,
        {"raised": raised, "expected": 0.5 * STRENGTH * squares, "problems": problems, "share": part},
    )


def share(case: Case) -> float:
    """The penalty over the data loss, both before training; the loss counts as ln C where it cannot be computed."""
    if not case.reg:
        return 0.0
    model, _, loss = case.copies()
    squares = sum(float(np.square(p.data, dtype=np.float64).sum()) for p in model.parameters() if p.regularized)
    cost = math.log(case.outputs)
    if case.finite and not counted_from_one(case.train, case.outputs):
        x, y = case.sample(ROWS)
        with evaluation(model):
            cost = abs(float(loss(model(Tensor(x)), y).data)) or cost
    return 0.5 * case.reg * squares / cost


def _at_rest(patient: Patient, case: Case) -> None:
    """Gradients of zero, no momentum, and weights that are not zero: a penalty on zeros shows nothing."""
    model, optimizer, _ = patient
    generator = case.generator(3)
    for p in model.parameters():
        if not np.any(p.data):
            p.data[...] = 0.1 * generator.normal(p.shape)
        p.grad = np.zeros_like(p.data)
    for name in optimizer.buffers:
        getattr(optimizer, name)[...] = 0
    optimizer.steps = 0
    optimizer.lr = RATE


def _raised(patient: Patient, norms: Any) -> float:
    """By how much the trainer says that the penalty raises the cost."""
    weights = [p.regularized for p in patient.optimizer.flat.parameters]
    return 0.0 if norms is None else 0.5 * STRENGTH * float(norms[weights, 0].sum())


def _wrong(change: Any, before: Any, penalised: bool, optimizer: Any, decay: float) -> list[str]:
    """What is wrong with the change of a tensor by one step without gradient."""
    size = float(np.abs(before).max()) * RATE
    if not penalised:
        return ["moved although it is no weight"] if np.abs(change).max() > EXACT * size else []
    towards = float((change * before).sum())
    if not towards < 0:
        return ["moves away from 0" if towards > 0 else "does not move"]
    if isinstance(optimizer, SGD):
        exact = -RATE * decay * before * (1 + optimizer.momentum if optimizer.nesterov else 1)
        if np.abs(change - exact).max() > EXACT * size:
            return ["moves by another amount than lr * reg * W"]
    return []
