"""`preflight`: every check before training, in the lecture's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data import Standardizer
from tinygrad_cr.doctor import (
    dropout,
    evaluation,
    gradients,
    initial,
    inputs,
    labels,
    learning_rate,
    overfit,
    overlap,
    penalty,
    rates,
    signal,
    symmetry,
    units,
    updates,
)
from tinygrad_cr.doctor.case import Case, Data, Loss, make_case
from tinygrad_cr.doctor.verdict import Check, Report, Status
from tinygrad_cr.nn import Module
from tinygrad_cr.optim import Optimizer
from tinygrad_cr.random import Generator


class Examination(NamedTuple):
    """A check, and the checks that have to be passed first: without them its finding would mean nothing.

    rows: whether it computes with the rows, and so can do nothing with NaN and inf, nor with constants.
    model: whether it computes with the model, and so can do nothing with parameters that are NaN or inf.
    """

    name: str
    check: Callable[..., Check]
    needs: tuple[str, ...] = ()
    rows: bool = True
    model: bool = True
    rates: bool = False


LEARNS = ("inputs", "labels", "initial loss", "initialisation", "gradients", "units")
TRAINS = (*LEARNS, "signal", "regularisation", "overfit")

EXAMINATIONS = (
    Examination(inputs.NAME, inputs.check, rows=False, model=False),
    Examination(labels.NAME, labels.check, rows=False, model=False),
    Examination(signal.NAME, signal.check, model=False),
    Examination(overlap.NAME, overlap.check, rows=False, model=False),
    Examination(initial.NAME, initial.check, ("inputs", "labels")),
    Examination(symmetry.NAME, symmetry.check, ("labels",)),
    Examination(penalty.NAME, penalty.check, rows=False),
    Examination(gradients.NAME, gradients.check, ("labels",)),
    Examination(evaluation.NAME, evaluation.check),
    Examination(dropout.NAME, dropout.check, ("evaluation mode",)),
    Examination(overfit.NAME, overfit.check, (*LEARNS, "evaluation mode")),
    Examination(learning_rate.NAME, learning_rate.check, TRAINS, rates=True),
    Examination(updates.NAME, updates.check, TRAINS, rates=True),
    Examination(units.NAME, units.check, ("inputs", "initial loss", "initialisation")),
)
"""In the order of the report. What a check needs may stand behind it: it is then done earlier, not shown earlier."""


def preflight(
    model: Module,
    data: Data,
    validation: Data | None = None,
    *,
    loss: Loss = ops.cross_entropy,
    optimizer: str | Optimizer = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    reg: float = 0.0,
    batch_size: int = 32,
    standardize: str | Standardizer = "per-feature",
    generator: Generator | int | None = 0,
) -> Report:
    """Look for trouble before training: inputs, labels, loss, gradients, learning rate and units, with verdicts.

    Everything happens on copies: model, optimiser, generators and data come back exactly as they were.

    Args:
        model: gives logits [n, classes] for x [n, features]; not trained yet.
        data, validation: a `Dataset`, or a pair of arrays (x, y); as many classes as the model has outputs.
        loss: of logits and labels, averaged over rows.
        optimizer: "sgd", "adam", "adamw", or an optimiser made for this model.
        lr: the learning rate you mean to use; left out, that of the optimiser, or one is only suggested.
        momentum, reg, batch_size, standardize: as you mean to give them to the `Trainer`.
        generator: of the rows and minibatches that are looked at: a Generator, which is not advanced, or a seed.

    Raises:
        OptionError: an option outside its range, an unknown name, an optimiser of another model, a loss that gives no
            scalar Tensor.
        DataError: fewer than 20 rows, one class, no labels, or another number of classes than of outputs.
        ShapeError: another number of features than the model takes, or no logits [n, classes].
        GraphError: nothing can be learned, because every parameter is frozen or under ``no_grad()``.

    >>> from tinygrad_cr.data import load, split
    >>> from tinygrad_cr.nn import MLP
    >>> parts = split(load("digits"), seed=0)
    >>> report = preflight(MLP([64, 32, 10], generator=0), parts.train, parts.validation, lr=10.0)
    >>> report.ok, report["overfit"].status.value, report["learning rate"].status.value
    (False, 'PASS', 'FAIL')
    """
    case = make_case(
        model,
        data,
        validation,
        loss=loss,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        reg=reg,
        batch_size=batch_size,
        standardize=standardize,
        generator=generator,
    )
    # A run at too high a rate overflows; that is what it is there for.
    with np.errstate(all="ignore"):
        return _Round(case).report()


class _Round:
    """One round of examinations: what was found so far, and what stands in the way of the rest."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.done: dict[str, Check] = {}
        self.blocked: dict[str, str] = {}
        self.range: rates.RateRange | None = None

    def report(self) -> Report:
        for examination in EXAMINATIONS:
            self.examine(examination)
        return Report([self.done[examination.name] for examination in EXAMINATIONS])

    def examine(self, examination: Examination) -> None:
        """Do it, after what it needs; or say what has to be put right first."""
        if examination.name in self.done:
            return
        cause = self.obstacle(examination)
        broken = examination.name == symmetry.NAME and bool(self.case.broken)
        for needed in (each for each in EXAMINATIONS if each.name in examination.needs):
            self.examine(needed)
            cause = cause or self.blocked.get(needed.name)
        if cause is None or broken:
            check = self.measure(examination)
        else:
            self.blocked[examination.name] = cause
            check = Check(examination.name, Status.SKIP, "not measured", "", f"put this right first: {cause}")
        self.done[examination.name] = check
        if check.status is Status.FAIL:
            self.blocked[examination.name] = examination.name

    def obstacle(self, examination: Examination) -> str | None:
        """The check that says why rows or model cannot be computed with, if this one has to."""
        if examination.model and self.case.broken and examination.name != symmetry.NAME:
            return symmetry.NAME
        if examination.rows and (not self.case.finite or self.case.constant):
            return inputs.NAME
        return None

    def measure(self, examination: Examination) -> Check:
        if not examination.rates:
            return examination.check(self.case)
        self.range = self.range or rates.find(self.case)
        return examination.check(self.case, self.range)
