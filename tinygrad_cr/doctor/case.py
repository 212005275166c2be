"""`Case`: what is examined. Each check gets a copy of its own, so that nothing it does can be seen outside."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.compile import compile as capturing
from tinygrad_cr.data import Batches, Dataset, Standardizer, load
from tinygrad_cr.errors import CaptureError, DataError, GraphError, OptionError, ShapeError
from tinygrad_cr.nn import Module
from tinygrad_cr.optim import Optimizer, make_optimizer
from tinygrad_cr.options import integer, number
from tinygrad_cr.random import Generator, as_generator
from tinygrad_cr.tape import mode, no_grad
from tinygrad_cr.tensor import CPU, Tensor
from tinygrad_cr.train.evaluate import evaluation, kernels_of
from tinygrad_cr.train.trainer import DEFAULT_LR

Loss = Callable[[Tensor, Any], Tensor]
Data = Dataset | tuple[Any, Any]

MIN_ROWS = 20
"""As many as the lecture overfits; of fewer rows nothing can be said."""

NEARLY_NONE = 0.05
"""If no more than this part of the features vary, something went wrong where they were made."""

STREAM = 1 << 20
"""The streams of randomness that the checks draw from begin here, far from those that a run uses."""


class Patient(NamedTuple):
    """A copy that a check may do with as it likes."""

    model: Module
    optimizer: Optimizer
    loss: Loss


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its data, and how it is to be trained.

    Attributes:
        patient: copies of the user's model, optimiser and loss; only `copies` touches them.
        train, validation: labelled data.
        standardizer: learned from the training part; None if that holds numbers that are not finite.
        outputs, classes: how many the model gives and the data has. They differ by one where labels count from 1.
        lr: the rate that was chosen; None if none was.
        reg, batch_size: as the trainer takes them.
        seed: where the randomness of the checks comes from.
    """

    patient: Patient
    train: Dataset
    validation: Dataset | None
    standardizer: Standardizer | None
    outputs: int
    classes: int
    lr: float | None
    reg: float
    batch_size: int
    seed: int

    def copies(self) -> Patient:
        """Fresh copies of model, optimiser and loss, without gradients."""
        patient = copy.deepcopy(self.patient)
        patient.model.zero_grad()
        return patient

    def generator(self, purpose: int) -> Generator:
        """The same randomness each time it is asked for."""
        return Generator(self.seed, stream=STREAM + purpose)

    @cached_property
    def labels(self) -> np.ndarray[Any, Any]:
        """Of the training part: int64 [n]."""
        assert self.train.y is not None
        return self.train.y

    @cached_property
    def dtype(self) -> str:
        """What the network computes in."""
        return str(self.patient.model.dtype)

    @cached_property
    def finite(self) -> bool:
        """Whether every number is finite, as it stands and as the network sees it."""
        return self.standardizer is not None and self.overflow is None

    @cached_property
    def overflow(self) -> str | None:
        """What the network could not hold of the data, if anything."""
        try:
            self.batches()
        except DataError as problem:
            return str(problem)
        return None

    @cached_property
    def varying(self) -> int:
        """How many features have more than one value in the training part."""
        return int((self.train.x.min(axis=0) != self.train.x.max(axis=0)).sum())

    @cached_property
    def constant(self) -> bool:
        """Whether (nearly) all features are constant, so that there is nothing to learn from."""
        return self.varying <= NEARLY_NONE * self.train.features

    @cached_property
    def broken(self) -> list[str]:
        """The parameters that hold NaN or inf."""
        return [name for name, p in self.patient.model.named_parameters() if not np.isfinite(p.data).all()]

    def batches(self, rows: np.ndarray[Any, Any] | None = None) -> Batches:
        """Shuffled minibatches of the training part, or of some rows of it; the same ones each time."""
        data = self.train if rows is None else self.train.take(rows)
        return Batches(
            data, self.batch_size, standardizer=self.standardizer, generator=self.generator(0), dtype=self.dtype
        )

    def sample(self, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """At most so many rows, as the network sees them, and their labels; the same ones each time."""
        chosen = self.sample_rows(rows)
        return self.seen(chosen), self.labels[chosen]

    def sample_rows(self, rows: int) -> np.ndarray[Any, Any]:
        """Positions of at most so many rows, in order."""
        n = len(self.train)
        if n <= rows:
            return np.arange(n)
        chosen: np.ndarray[Any, Any] = np.sort(self.generator(1).permutation(n)[:rows])
        return chosen

    def seen(self, rows: np.ndarray[Any, Any], dtype: str | None = None) -> np.ndarray[Any, Any]:
        """Rows of the training part as the network sees them: [n, d]."""
        assert self.standardizer is not None
        return self._standardized(self.train.x[rows], dtype or self.dtype)

    def sample_validation(self, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """At most so many rows of the validation part as the network sees them, float64 [n, d], and their labels."""
        assert self.standardizer is not None
        assert self.validation is not None
        chosen = np.sort(self.generator(6).permutation(len(self.validation))[:rows])
        return self._standardized(self.validation.x[chosen], "float64"), _y(self.validation)[chosen]

    def _standardized(self, x: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
        """Rows in the network's own dtype first: only for that are kernels sure to be compiled."""
        assert self.standardizer is not None
        return self.standardizer.transform(x, self.dtype).astype(dtype, copy=False)


class Stepper:
    """Updates of a patient: compiled where the trainer would compile them too, and the loss is the trainer's."""

    def __init__(self, patient: Patient, reg: float = 0.0) -> None:
        self.model, self.optimizer, self.loss = patient
        self.reg = reg
        parts = [*(type(module) for module in self.model.modules()), type(self.optimizer)]
        known = all(kind.__module__.startswith(("tinygrad_cr.nn", "tinygrad_cr.optim")) for kind in parts)
        self._weights = [parameter.regularized for parameter in self.optimizer.flat.parameters]
        self._compiled = capturing(self._step, in_place=True) if known and self.loss is ops.cross_entropy else None

    def __call__(self, x: Tensor, y: Any) -> tuple[float, Any]:
        """One update: the cost before it, penalty included, and the optimiser's norms (None if it gives none)."""
        loss, norms = self._run(x, y)
        cost = float(loss.data)
        if self.reg and norms is not None:
            cost += 0.5 * self.reg * float(norms[self._weights, 0].sum())
        return cost, norms

    def _run(self, x: Tensor, y: Any) -> tuple[Tensor, Any]:
        if self._compiled is not None:
            try:
                result: tuple[Tensor, Any] = self._compiled(x, y)
                return result
            except CaptureError:
                self._compiled = None
        return self._step(x, y)

    def _step(self, x: Tensor, y: Any) -> tuple[Tensor, Any]:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        return loss, self.optimizer.step(reg=self.reg, norms=True)


def make_case(
    model: Module,
    data: Data,
    validation: Data | None,
    *,
    loss: Loss,
    optimizer: str | Optimizer,
    lr: float | None,
    momentum: float,
    reg: float,
    batch_size: int,
    standardize: str | Standardizer,
    generator: Generator | int | None,
) -> Case:
    """The case, or an error about what cannot be examined at all. Nothing that was given is changed.

    Raises:
        OptionError: an option outside its range, an unknown name, an optimiser of another model, a loss that gives no
            scalar Tensor.
        DataError: fewer than 20 rows, one class, no labels, or as many classes as the model has no outputs for.
        ShapeError: another number of features than the model takes, or no logits [n, classes].
        GraphError: nothing can be learned, because every parameter is frozen or under ``no_grad()``.
    """
    if not isinstance(model, Module):
        raise OptionError(f"model must be a Module, got {model!r}")
    if not callable(loss):
        raise OptionError(f"loss must be a function of logits and labels, got {loss!r}")
    if not mode.recording or not any(p.requires_grad for p in model.parameters()):
        raise GraphError("nothing can be learned: every parameter is frozen, or preflight was called under no_grad()")
    batch_size, reg = integer("batch_size", batch_size, least=1), number("reg", reg)
    train, validation = _labelled(data, "training"), None if validation is None else _labelled(validation, "validation")
    _refuse_too_little(train)
    patient, lr = _patient(model, optimizer, loss, lr, momentum)
    logits = _logits(copy.deepcopy(patient.model), train)
    outputs = int(logits.shape[1])
    _refuse_shifted(train, validation, outputs)
    classes = max(part.classes for part in (train, validation) if part is not None)
    if outputs != classes and not counted_from_one(train, outputs):
        raise DataError(
            f"the model has {outputs} outputs, the data {classes} classes; make the last size {classes}"
            + (", or name all classes: Dataset(x, y, class_names=...)" if outputs > classes else "")
        )
    if validation is not None and validation.features != train.features:
        raise ShapeError(
            f"the training part has {train.features} features, the validation part {validation.features}; "
            "both go through one network"
        )
    _refuse_no_scalar(copy.deepcopy(patient.loss), logits, np.minimum(_y(train)[: len(logits.data)], outputs - 1))
    return Case(
        patient=patient,
        train=train,
        validation=validation,
        standardizer=_standardizer(standardize, train),
        outputs=outputs,
        classes=classes,
        lr=lr,
        reg=reg,
        batch_size=batch_size,
        seed=as_generator(generator).seed,
    )


def counted_from_one(train: Dataset, outputs: int) -> bool:
    """Whether the labels are 1 to C where C outputs want 0 to C - 1."""
    assert train.y is not None
    return int(train.y.min()) == 1 and int(train.y.max()) == outputs


def is_finite(values: Any) -> bool:
    """Whether no number among them is NaN or inf; adding up is the fastest way to see it."""
    return math.isfinite(float(np.sum(values, dtype=np.float64)))


def _labelled(data: Data, what: str) -> Dataset:
    part = load(data)
    if part.y is None:
        raise DataError(f"the {what} part has no labels, and a preflight wants labelled data")
    return part


def _refuse_too_little(train: Dataset) -> None:
    if len(train) < MIN_ROWS:
        raise DataError(
            f"{len(train)} rows in the training part are too few to examine anything: at least {MIN_ROWS} are needed"
        )
    found = np.unique(train.y if train.y is not None else [])
    if len(found) < 2:
        raise DataError(f"every label is {found[0]}: one class leaves nothing to learn, at least 2 are needed")


def _patient(
    model: Module, optimizer: str | Optimizer, loss: Loss, lr: float | None, momentum: float
) -> tuple[Patient, float | None]:
    """Copies to work with, and the rate that was chosen."""
    if not isinstance(optimizer, str | Optimizer):
        raise OptionError(f"optimizer must be a name or an Optimizer, got {optimizer!r}")
    if lr is not None:
        lr = number("lr", lr)
    if isinstance(optimizer, str):
        model, loss = copy.deepcopy((model, loss))
        if not kernels_of(model).host:
            model.to(CPU.name)
        return Patient(model, make_optimizer(optimizer, model, DEFAULT_LR if lr is None else lr, momentum), loss), lr
    if not optimizer.trains(model):
        raise OptionError("the optimizer was made for another model; make it as SGD(model, ...) for this one")
    patient = _on_host(Patient(*copy.deepcopy((model, optimizer, loss))))
    if lr is not None:
        patient.optimizer.lr = lr
    return patient, patient.optimizer.lr


def _on_host(patient: Patient) -> Patient:
    """What lies on a GPU is examined on the host: it computes the same there, and every number is looked at."""
    model, optimizer, loss = patient
    if kernels_of(model).host:
        return patient
    state = optimizer.state_dict()
    model.to(CPU.name)
    there = type(optimizer)(model, optimizer.lr, **optimizer.config())
    there.load_state_dict(state)
    return Patient(model, there, loss)


def _logits(model: Module, train: Dataset) -> Tensor:
    """Of two rows of zeros: [2, outputs]."""
    with evaluation(model):
        logits = model(Tensor(np.zeros((2, train.features), model.dtype)))
    if logits.ndim != 2:
        raise ShapeError(f"a classifier gives logits [n, classes], this model gives {logits.shape} for two rows")
    return logits


def _refuse_no_scalar(loss: Loss, logits: Tensor, y: np.ndarray[Any, Any]) -> None:
    with no_grad():
        given = loss(logits, y)
    if not isinstance(given, Tensor) or given.shape != ():
        what = f"a Tensor of shape {given.shape}" if isinstance(given, Tensor) else f"{given!r}"
        raise OptionError(f"loss must give a scalar Tensor, got {what}; average over rows, as ops.cross_entropy does")


def _refuse_shifted(train: Dataset, validation: Dataset | None, outputs: int) -> None:
    """Labels of the two parts that count from different numbers."""
    if validation is None:
        return
    own, other = _y(train), _y(validation)
    if counted_from_one(validation, outputs) and own.min() == 0 and own.max() < outputs:
        raise DataError(
            f"the validation labels are 1 to {other.max()}, the training labels 0 to {own.max()}: use y - 1 for the "
            "validation part"
        )
    if counted_from_one(train, outputs) and other.min() == 0 and other.max() < outputs:
        raise DataError(
            f"the training labels are 1 to {own.max()}, the validation labels 0 to {other.max()}: use y - 1 for the "
            "training part"
        )


def _y(part: Dataset) -> np.ndarray[Any, Any]:
    assert part.y is not None
    return part.y


def _standardizer(standardize: str | Standardizer, train: Dataset) -> Standardizer | None:
    standardizer = standardize if isinstance(standardize, Standardizer) else Standardizer(standardize)
    if hasattr(standardizer, "mean_"):
        standardizer.parameters(train.x, "float64")
        return standardizer
    try:
        return Standardizer(standardizer.mode).fit(train.x)
    except DataError:
        # NaN, inf or numbers too large for sums: a finding of the first check, not an error.
        return None
