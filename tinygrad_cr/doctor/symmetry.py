"""Are the weights finite, and can the units of a layer become different from each other?

Units with equal weights that get equal gradients stay equal for ever: the layer is one unit, however wide. So it is
seen by what happens, not by what the weights are: zeros are fine in a last layer whose inputs differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.nn import Module, Parameter
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import evaluation

ROWS = 128
STEPS = 4
"""A difference travels one layer a step."""
CHANGE = 0.01
"""Of its largest weight, or absolutely where all are zero: so much a step may change a tensor."""
ALIKE = 1e-4
"""Relative difference below which two numbers are the same up to rounding in float32."""
NAME = "initialisation"


def check(case: Case) -> Check:
    """A few steps of gradient descent; the matrices whose columns are alike before and after."""
    if case.broken:
        return _broken(case.broken)
    model, _, loss = case.copies()
    x, y = case.sample(ROWS)
    matrices = {name: p for name, p in model.named_parameters() if p.data.ndim == 2 and p.shape[1] > 1}
    same = {name for name, p in matrices.items() if _alike(p.data)}
    for _ in range(STEPS):
        if not same:
            break
        _descend(model, loss, x, y)
        same = {name for name in same if _alike(matrices[name].data)}
    zero = [name for name in matrices if name in same and not np.any(matrices[name].data)]
    measured = f"{len(same)} of {len(matrices)} layers have units that stay alike"
    if same:
        kind = "zero weights" if zero else "equal weights"
        advice = (
            f"{', '.join(sorted(same))}: {kind} make all units of a layer learn the same; draw them at random ('he')"
        )
    return Check(
        NAME,
        Status.FAIL if same else Status.PASS,
        measured,
        "none: units begin different",
        advice if same else "",
        {"alike": sorted(same), "layers": len(matrices)},
    )


def _broken(names: list[str]) -> Check:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Check(
        NAME,
        Status.FAIL,
        f"a parameter holds NaN or inf: {shown}",
        "finite numbers",
        "make the network anew, or load weights from before they were lost",
        {"broken": names},
    )


def _alike(weight: Any) -> bool:
    """Whether all columns, the units, are the same."""
    largest = float(np.abs(weight).max())
    return not largest or bool(np.abs(weight - weight[:, :1]).max() <= ALIKE * CHANGE * largest)


def _descend(model: Module, loss: Any, x: Any, y: Any) -> None:
    """A step that changes every tensor by the same part of itself."""
    model.zero_grad()
    with evaluation(model, recording=True):
        loss(model(Tensor(x)), y).backward()
    for p in model.parameters():
        _step(p)


def _step(p: Parameter) -> None:
    if p.grad is None:
        return
    steepest = float(np.abs(p.grad).max())
    if steepest and np.isfinite(steepest):
        size = float(np.abs(p.data).max()) or 1.0
        p.data -= (CHANGE * size / steepest) * p.grad
