"""tinygrad_cr as its users write it: eager, and with `compile` around the step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad_cr
from bench.inputs import Inputs
from bench.workloads import DROPOUT, LEARNING_RATE, MOMENTUM, Task
from tinygrad_cr import Tensor, data, nn, no_grad, ops, optim


class Training:
    """The step of the README, on minibatches from `data.Batches`."""

    def __init__(self, task: Task, inputs: Inputs, wrap: Callable[[Any], Any]) -> None:
        self.sizes = task.sizes
        self.model = nn.MLP(task.sizes, dropout=DROPOUT, generator=0)
        self.optimizer = optim.SGD(self.model, lr=LEARNING_RATE, momentum=MOMENTUM)
        standardizer = None
        if inputs.mean is not None and inputs.scale is not None:
            standardizer = data.Standardizer.from_state({"mean": inputs.mean, "scale": inputs.scale}, "per-feature")
        rows = data.Dataset(inputs.x, inputs.y)
        self.batches = data.Batches(rows, task.batch, standardizer=standardizer)
        self.step = wrap(self._step)

    def _step(self, x: Tensor, y: Any) -> Tensor:
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def reset(self, lr: float, seed: int) -> None:
        self.model.load_state_dict(nn.MLP(self.sizes, dropout=DROPOUT, generator=seed).state_dict())
        self.optimizer.velocity[...] = 0
        self.optimizer.lr = lr

    def epoch(self) -> float:
        self.model.train()
        step = self.step
        for x, y in self.batches:
            loss = step(Tensor(x), y)
        return float(loss)

    def accuracy(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        self.model.eval()
        with no_grad():
            return float(np.mean(self.model(Tensor(x)).numpy().argmax(axis=1) == y))


class Prediction:
    """A call of the network in evaluation mode."""

    def __init__(self, task: Task, inputs: Inputs, wrap: Callable[[Any], Any]) -> None:
        model = nn.MLP(task.sizes, dropout=DROPOUT, generator=0).eval()
        self.x = Tensor(inputs.x)
        self.predict = wrap(lambda x: model(x))

    def repeat(self, calls: int) -> None:
        predict, x = self.predict, self.x
        with no_grad():
            for _ in range(calls):
                predict(x)


def _as_it_is(fn: Any) -> Any:
    return fn


class Eager:
    """Every step builds its graph."""

    def wrap(self) -> Callable[[Any], Any]:
        return _as_it_is

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Training]]:
        return {"data.Batches": lambda: Training(task, inputs, self.wrap())}

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Prediction]]:
        return {"no_grad": lambda: Prediction(task, inputs, self.wrap())}


class Compiled(Eager):
    """The step is captured once and replayed."""

    def wrap(self) -> Callable[[Any], Any]:
        # In place, as the Trainer does: minibatches come in the same two buffers each time.
        return functools.partial(tinygrad_cr.compile, in_place=True)
