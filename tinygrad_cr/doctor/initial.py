"""Is the loss before training that of a network that knows nothing: ln C?

Two questions, on one batch with dropout and penalty off. Does the loss agree with the logits? And are the logits nearly
equal, as they should be before anything is learned?
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.nn import Module
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import evaluation

Array = np.ndarray[Any, Any]

ROWS = 1000
DEVIATIONS = 5.0
"""Among 4,800 healthy networks, of 2 to 100 classes, the farthest was off by 3.8."""
ROUNDING = 1e-4
"""Relative: what float32 may lose in a loss."""
FACTOR = 1.4
"""The loss over the cross-entropy of the same logits and labels: smoothed labels change it by less, a sum by more."""
SPREAD_LIMIT, SPREAD_FAILS = 1.5, 3.0
"""Nats above ln C that the first logits may cost: He's initialisation costs 0.3 to 1, in deep networks up to 2."""
LIKE_HE = 0.3
"""Relative: by so much the deviation of weights drawn by He's rule may differ from it, in small layers."""
LARGE_INPUT = 20.0
"""Standardised inputs are seldom larger."""
NAME = "initial loss"


def check(case: Case) -> Check:
    """Loss and logits of a sample."""
    model, _, loss = case.copies()
    x, y = case.sample(ROWS)
    with evaluation(model):
        logits = model(Tensor(x))
        measured = float(loss(logits, y).data)
    know_nothing = math.log(case.outputs)
    z = np.asarray(logits.data, np.float64)
    expected, deviation = chance(z, y)
    cost = float((_log_sums(z) - z[np.arange(len(y)), y]).mean())
    tolerance = DEVIATIONS * deviation + ROUNDING * max(1.0, expected)
    excess = expected - know_nothing
    status, advice = _judge(measured / cost, measured, expected, tolerance, excess, case)
    values = {
        "loss": measured,
        "cross_entropy": cost,
        "expected": expected,
        "tolerance": tolerance,
        "ln_classes": know_nothing,
        "excess": excess,
        "rows": len(y),
    }
    return Check(
        NAME,
        status,
        f"{measured:.4g} (ln {case.outputs} is {know_nothing:.4g})",
        f"{expected:.4g} ± {tolerance:.2g} for these logits, at most {know_nothing + SPREAD_LIMIT:.3g}",
        advice,
        values,
    )


def chance(z: Array, y: Array) -> tuple[float, float]:
    """The cross-entropy to expect of logits z [n, c] that know nothing of labels y [n], and its standard deviation.

    To a network that knows nothing, it is an accident which output stands for which class. So the loss is compared with
    that of all permutations of the outputs: mean and variance have a closed form (Hoeffding 1951). Permuting rows
    instead would be wrong: rows of one class have similar logits, and do not average out. The mean of each output over
    all rows stays where it is, so that a bias set to the logarithms of the class frequencies is no knowledge.
    """
    n, c = z.shape
    centred = z - z.mean(axis=1, keepdims=True)
    shares = np.bincount(y, minlength=c) / n
    means = np.zeros((c, c))
    np.add.at(means, y, centred)
    means /= n
    overall = means.sum(axis=0)
    expected = float((_log_sums(z) - z.mean(axis=1)).mean() - shares @ overall)
    own = means - shares[:, None] * overall
    own = own - own.mean(axis=0) - own.mean(axis=1, keepdims=True) + own.mean()
    by_output = float((own**2).sum()) / max(1, c - 1)
    by_row = float((np.square(centred) @ shares - np.square(centred @ shares)).sum()) / n**2
    return expected, math.sqrt(max(by_output, by_row))


def drawn_by_he(model: Module) -> bool:
    """Whether every matrix [inputs, units] has about the deviation sqrt(2 / inputs) already."""
    matrices = [p.data for p in model.parameters() if p.data.ndim == 2]
    return all(abs(float(w.std()) / math.sqrt(2 / w.shape[0]) - 1) <= LIKE_HE for w in matrices)


def _log_sums(z: Array) -> Array:
    high = z.max(axis=1, keepdims=True)
    result: Array = high[:, 0] + np.log(np.exp(z - high).sum(axis=1))
    return result


def _judge(
    factor: float, loss: float, expected: float, tolerance: float, excess: float, case: Case
) -> tuple[Status, str]:
    if not math.isfinite(expected):
        return Status.FAIL, "the network gives NaN or inf: its weights are too large, or not finite"
    if not 1 / FACTOR <= factor <= FACTOR:
        return Status.FAIL, (
            f"{factor:.3g} times the mean cross-entropy of these logits: average the loss over rows, do not sum it, "
            "and use natural logarithms"
        )
    if loss < expected - tolerance:
        return Status.FAIL, (
            "less than a network that knows nothing can reach: it was trained before, or the labels leak into the "
            "inputs"
        )
    if loss > expected + tolerance:
        return Status.FAIL, "more than a network that knows nothing costs: do the outputs stand for other classes?"
    if excess > SPREAD_LIMIT:
        remedy = "smaller weights in the last layer"
        if np.abs(case.seen(case.sample_rows(ROWS), "float64")).max() > LARGE_INPUT:
            remedy = "standardize='per-feature', or " + remedy
        if not drawn_by_he(case.patient.model):
            remedy = "init='he', or " + remedy
        status = Status.FAIL if excess > max(SPREAD_FAILS, math.log(case.outputs)) else Status.WARN
        return status, (
            "the logits are far apart before anything was learned: the weights are too large for these inputs; try "
            + remedy
        )
    return Status.PASS, ""
