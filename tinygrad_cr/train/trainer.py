"""`Trainer`: minibatches, epochs, and the best network kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_cr import ops, schedules
from tinygrad_cr.compile import compile as capturing
from tinygrad_cr.data import Batches, Dataset, Standardizer, load
from tinygrad_cr.errors import CaptureError, DataError, DivergenceError, GraphError, OptionError
from tinygrad_cr.nn import MLP, Module
from tinygrad_cr.optim import Optimizer, make_optimizer
from tinygrad_cr.options import integer, number
from tinygrad_cr.random import Generator, as_generator
from tinygrad_cr.tape import mode
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import check_fit, evaluate
from tinygrad_cr.train.history import History, Row
from tinygrad_cr.train.progress import Reporter, Silent, default_reporter
from tinygrad_cr.train.run import RunFolder

DEFAULT_LR = 0.01
Pair = tuple[Any, Any]


class Trainer:
    """Trains a classifier by minibatch gradient descent on softmax cross-entropy.

    The cost is the mean cross-entropy plus 0.5 * reg * sum(W**2) over all weights (not biases).

    Args:
        model: gives logits [n, classes] for x [n, features].
        optimizer: "sgd", "adam", "adamw", or an optimiser made for this model.
        lr: learning rate at the start; left out, that of the optimiser, or 0.01 if it is given by name.
        momentum: of SGD, where the optimiser is given by name.
        lr_decay: factor on the learning rate after each epoch.
        schedule: learning rate as a function of the step, instead of lr and lr_decay.
        reg: strength of the penalty.
        epochs: how often each training row is seen.
        batch_size: rows in a minibatch; the last of an epoch may be smaller.
        standardize: "per-feature", "mean-image" or "none", learned from the training part; or a fitted Standardizer.
        generator: of the shuffles: a Generator, a seed, or None for a fresh seed.
        train_sample: the training accuracy is measured on at most so many rows.
        out: folder for config.json, history.jsonl and model.safetensors; it must be new or empty.
        config: further entries for config.json.
        compile: capture the step once and replay it (see `tinygrad_cr.compile`). Left out, models made of this
            package's layers are; with layers of your own, whose Python would be frozen at capture, say True if that
            is safe. A model that is not captured is trained eagerly, and the reporter says so once.
        reporter: where progress goes; True for a bar or lines on standard output, False for silence.

    Raises:
        OptionError: an option outside its range, or an unknown name.
    """

    def __init__(
        self,
        model: Module,
        *,
        optimizer: str | Optimizer = "sgd",
        lr: float | None = None,
        momentum: float = 0.9,
        lr_decay: float = 1.0,
        schedule: schedules.Schedule | None = None,
        reg: float = 0.0,
        epochs: int = 20,
        batch_size: int = 32,
        standardize: str | Standardizer = "per-feature",
        generator: Generator | int | None = None,
        train_sample: int = 1000,
        out: Path | str | None = None,
        config: Mapping[str, Any] | None = None,
        reporter: Reporter | bool = True,
        compile: bool | None = None,
    ) -> None:
        if not isinstance(model, Module):
            raise OptionError(f"model must be a Module, got {model!r}")
        self.model = model
        if lr is None:
            lr = optimizer.lr if isinstance(optimizer, Optimizer) else DEFAULT_LR
        schedules.exponential(lr, lr_decay, 1)
        if isinstance(optimizer, str):
            optimizer = make_optimizer(optimizer, model, lr, momentum)
        if not isinstance(optimizer, Optimizer):
            raise OptionError(f"optimizer must be a name or an Optimizer, got {optimizer!r}")
        self.optimizer = optimizer
        self.lr, self.lr_decay, self.schedule = number("lr", lr), number("lr_decay", lr_decay), schedule
        self.reg = number("reg", reg)
        self.epochs = integer("epochs", epochs, least=1)
        self.batch_size = integer("batch_size", batch_size, least=1)
        self.train_sample = integer("train_sample", train_sample, least=1)
        self.standardizer = standardize if isinstance(standardize, Standardizer) else Standardizer(standardize)
        self._learns_standardizer = not hasattr(self.standardizer, "mean_")
        self.generator = as_generator(generator)
        self.out = out
        self._compiled: capturing | None = None
        self.compile = compile
        self.config = dict(config or {})
        self.reporter: Reporter = (
            (default_reporter() if reporter else Silent()) if isinstance(reporter, bool) else reporter
        )

    def fit(self, train: Dataset | Pair, validation: Dataset | Pair | None = None) -> History:
        """Train; afterwards the model holds the parameters of its best epoch.

        Each part is a `Dataset` or a pair of arrays (x, y). The best epoch is the first with the highest validation
        accuracy; without a validation part, the last one.

        Raises:
            DataError, ShapeError: data that does not fit the model, or has no labels. Nothing was changed.
            RunError: the run folder is taken. Nothing was changed.
            DivergenceError: the cost became infinite or undefined; the model holds its best epoch before that, or what
                it held at the start.

        >>> from tinygrad_cr.data import load, split
        >>> parts = split(load("digits"), seed=0)
        >>> model = MLP([64, 32, 10], generator=0)
        >>> history = Trainer(model, epochs=3, generator=0, reporter=False).fit(parts.train, parts.validation)
        >>> history.best()["val_accuracy"] > 0.9
        True
        """
        train = load(train)
        validation = None if validation is None else load(validation)
        folder = RunFolder(self.out) if self.out is not None else None
        batches = self._prepare(train, validation)
        self._compiled = self._capture()
        if folder:
            folder.write_config(self._config(train))
        schedule = self.schedule or schedules.exponential(self.lr, self.lr_decay, len(batches))
        sample = self._sample(train)
        history = History()
        kept = self.model.state_dict()
        best_accuracy: float | None = None
        begin = time.perf_counter()
        completed = False
        self.reporter.start(self.epochs, len(batches))
        try:
            for epoch in range(1, self.epochs + 1):
                row = self._epoch(epoch, batches, schedule)
                loss = self._observe(row, sample, validation)
                row["seconds"] = time.perf_counter() - begin
                history.append(row)
                if folder:
                    folder.write_history(history)
                if not math.isfinite(loss):
                    raise _divergence(f"the loss was {loss} after epoch {epoch}", row["lr"])
                accuracy = row["val_accuracy"]
                if accuracy is None or best_accuracy is None or accuracy > best_accuracy:
                    kept, best_accuracy = self.model.state_dict(), accuracy
                    if folder:
                        folder.write_model(kept, self.standardizer)
                self.reporter.epoch(row, self.epochs)
            completed = True
        finally:
            self.model.load_state_dict(kept)
            last = float("nan") if best_accuracy is None else best_accuracy
            self.reporter.stop(last if completed else None)
        return history

    def _prepare(self, train: Dataset, validation: Dataset | None) -> Batches:
        """Check everything that can be checked before the first step; the minibatches of the training part."""
        if not self.optimizer.trains(self.model):
            raise OptionError("the optimizer was made for another model; make it as SGD(model, ...) for this one")
        if not mode.recording or not any(p.requires_grad for p in self.model.parameters()):
            raise GraphError("nothing can be learned: every parameter is frozen, or fit was called under no_grad()")
        for part in (train, validation):
            if part is not None:
                if part.y is None:
                    raise DataError("training wants labelled data")
                check_fit(self.model, part)
        standardizer = self.standardizer
        if self._learns_standardizer:
            standardizer = Standardizer(standardizer.mode).fit(train.x)
        dtype = str(self.model.dtype)
        if validation is not None:
            Batches(validation, self.batch_size, standardizer=standardizer, shuffle=False, dtype=dtype)
        batches = Batches(train, self.batch_size, standardizer=standardizer, generator=self.generator, dtype=dtype)
        self.standardizer = standardizer
        return batches

    def _epoch(self, epoch: int, batches: Batches, schedule: schedules.Schedule) -> Row:
        """One pass over the training part."""
        model, optimizer = self.model, self.optimizer
        model.train()
        total = 0.0
        lr = optimizer.lr
        norms = None
        for i, (x, y) in enumerate(batches):
            step = (epoch - 1) * len(batches) + i
            optimizer.lr = schedule(step)
            lr = optimizer.lr
            measure = bool(self.reg) or i == len(batches) - 1
            loss, norms = self._step(Tensor(x), y, measure)
            cost = float(loss.data)
            if self.reg:
                cost += 0.5 * self.reg * self._squared_weights(norms)
            if not math.isfinite(cost):
                raise _divergence(f"the cost became {cost} in epoch {epoch}, step {step + 1}", lr)
            total += cost * len(y)
            self.reporter.steps(step + 1)
        row: Row = {"epoch": epoch, "step": epoch * len(batches), "loss": total / len(batches.dataset), "lr": lr}
        return row | self._update_ratios(norms)

    def _capture(self) -> capturing | None:
        """The compiled step, if it is wanted."""
        own = [type(m).__name__ for m in self.model.modules() if not type(m).__module__.startswith("tinygrad_cr.nn")]
        if self.compile is None and own:
            self.reporter.note(f"training runs eagerly: {own[0]} is a layer of your own; compile=True captures it too")
        wanted = not own if self.compile is None else self.compile
        return capturing(self._eager_step, in_place=True) if wanted else None

    def _step(self, x: Tensor, y: Any, measure: bool) -> tuple[Tensor, Any]:
        """One update, compiled if that is wanted and possible; the loss before it and, if measured, the norms."""
        if self._compiled is not None:
            try:
                result: tuple[Tensor, Any] = self._compiled(x, y, measure)
                return result
            except CaptureError as error:
                self._compiled = None
                self.reporter.note(f"training runs eagerly: {error}")
        return self._eager_step(x, y, measure)

    def _eager_step(self, x: Tensor, y: Any, measure: bool) -> tuple[Tensor, Any]:
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(x), y)
        loss.backward()
        return loss, self.optimizer.step(reg=self.reg, norms=measure)

    def _squared_weights(self, norms: Any) -> float:
        regularized = [p.regularized for p in self.optimizer.flat.parameters]
        return float(norms[regularized, 0].sum())

    def _update_ratios(self, norms: Any) -> Row:
        """Norm of the update over norm of the parameter, wanted near 1e-3 (CS231n); None for a parameter of zeros."""
        return {
            f"update_ratio.{name}": math.sqrt(update / value) if value else None
            for name, (value, update) in zip(self.optimizer.flat.names, norms.tolist(), strict=True)
        }

    def _observe(self, row: Row, sample: Dataset, validation: Dataset | None) -> float:
        """Add to the row how good the network is as the epoch left it; the loss where it matters most."""
        loss, row["accuracy"] = evaluate(self.model, sample, self.standardizer)
        row["val_loss"] = row["val_accuracy"] = None
        if validation is not None:
            loss, row["val_accuracy"] = evaluate(self.model, validation, self.standardizer)
            row["val_loss"] = loss
        return loss

    def _sample(self, train: Dataset) -> Dataset:
        """Rows for the training accuracy: all if they are few, else evenly spaced ones."""
        if len(train) <= self.train_sample:
            return train
        return train.take(np.linspace(0, len(train) - 1, self.train_sample).astype(np.int64))

    def _config(self, train: Dataset) -> dict[str, Any]:
        own = {
            "optimizer": type(self.optimizer).__name__.lower(),
            "lr": self.lr,
            "lr_decay": self.lr_decay,
            "momentum": getattr(self.optimizer, "momentum", None),
            "reg": self.reg,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "standardize": self.standardizer.mode,
            "seed": self.generator.seed,
            "class_names": list(train.class_names),
        }
        own["model"] = self.model.config() if isinstance(self.model, MLP) else None
        return self.config | own


def _divergence(what: str, lr: float) -> DivergenceError:
    return DivergenceError(
        f"{what}: this almost always means that the learning rate, {lr:g}, is too high; try {lr / 10:g}"
    )
