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
from tinygrad_cr.kernels import backend
from tinygrad_cr.random import member_generators
from tinygrad_cr.tape import each_member
from tinygrad_cr.train.callbacks import STEPS_BETWEEN_OBSERVATIONS as STEPS_A_CALL
from tinygrad_cr.train.updates import shared_steps


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


class Blocks(Training):
    """The same step as the `Trainer` makes it: many in one call, the minibatches gathered there, a loss of each."""

    def __init__(self, task: Task, inputs: Inputs) -> None:
        super().__init__(task, inputs, _as_it_is)
        self.rows, self.labels, self.mean, self.scale = self.batches.source()
        self.x = backend("cpu").empty((task.batch, task.sizes[0]), np.float32)
        self.y = np.empty(task.batch, np.int64)
        self.gather_and_step = tinygrad_cr.compile(self._gather_and_step, in_place=True)

    def _gather_and_step(self, rows: Any) -> Tensor:
        x, y, kernels = self.x[: len(rows)], self.y[: len(rows)], backend("cpu")
        kernels.gather(self.rows, rows, self.mean, self.scale, x)
        kernels.xp.take(self.labels, rows, out=y, mode="clip")
        loss = self._step(Tensor(x), y)
        self.optimizer.zero_grad()
        return loss

    def epoch(self) -> float:
        self.model.train()
        n, size = len(self.batches.dataset), self.batches.batch_size
        order = self.batches.generator.permutation(n)
        whole = order[: n // size * size].reshape(-1, size)
        for start in range(0, len(whole), STEPS_A_CALL):
            loss = self.gather_and_step.scan(whole[start : start + STEPS_A_CALL])
        if n % size:
            loss = self.gather_and_step.scan(order[None, whole.size :])
        return float(loss.numpy()[-1])


class Members:
    """Many networks at once, as the `Trainer` trains a population: minibatches and masks of its own for each."""

    def __init__(self, task: Task, inputs: Inputs, shared: bool) -> None:
        self.members, self.batch, self.shared = task.members, task.batch, shared
        self.model = nn.MLP(task.sizes, members=task.members, dropout=DROPOUT, generator=0)
        self.optimizer = optim.SGD(self.model, lr=LEARNING_RATE, momentum=MOMENTUM)
        self.batches = data.Batches(data.Dataset(inputs.x, inputs.y), task.batch)
        self.rows, self.labels, self.mean, self.scale = self.batches.source()
        minibatches = shared_steps(4 * task.batch * task.sizes[0]) if shared else task.members
        self.x = backend("cpu").empty((minibatches, task.batch, task.sizes[0]), np.float32)
        self.y = np.empty((minibatches, task.batch), np.int64)
        self.ones = np.ones(task.members, np.float32)
        self.shuffles = member_generators(1, task.members)
        self.step = tinygrad_cr.compile(self._update if shared else self._gather_and_update, in_place=True)

    def _gather_and_update(self, rows: Any) -> Tensor:
        kernels = backend("cpu")
        for m in each_member(self.members):
            kernels.gather(self.rows, rows[m], self.mean, self.scale, self.x[m])
            kernels.xp.take(self.labels, rows[m], out=self.y[m], mode="clip")
        return self._update(self.x, self.y)

    def _update(self, x: Any, y: Any) -> Tensor:
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(Tensor(x)), y)
        loss.backward(self.ones)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def reset(self, lr: float, seed: int) -> None:
        self.model.load_state_dict(
            nn.MLP(self.model.sizes, members=self.members, dropout=DROPOUT, generator=seed).state_dict()
        )
        self.optimizer.velocity[...] = 0
        self.optimizer.lr = lr

    def epoch(self) -> float:
        n, size = len(self.batches.dataset), self.batch
        steps = n // size
        assert steps * size == n, "the data sets of this benchmark have whole minibatches"
        if self.shared:
            order, most = self.shuffles[0].permutation(n).reshape(steps, size), len(self.x)
            for start in range(0, steps, most):
                rows = order[start : start + most]
                x, y = self.x[: len(rows)], self.y[: len(rows)]
                backend("cpu").gather(self.rows, rows.reshape(-1), self.mean, self.scale, x.reshape(rows.size, -1))
                np.take(self.labels, rows, out=y, mode="clip")
                loss = self.step.scan(x, y)
        else:
            block = self.shuffles.permutations(n).reshape(self.members, steps, size).transpose(1, 0, 2)
            for start in range(0, steps, STEPS_A_CALL):
                loss = self.step.scan(block[start : start + STEPS_A_CALL])
        return float(loss.numpy()[-1].mean())

    def accuracy(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        self.model.eval()
        with no_grad():
            return float(np.mean(self.model(Tensor(x)).numpy().argmax(axis=-1) == y))


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
    """The step is captured once and replayed: many steps a call, as the `Trainer` trains, or one."""

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Training]]:
        return {
            "blocks of steps": lambda: Blocks(task, inputs),
            "a call a step": lambda: Training(task, inputs, self.wrap()),
        }

    def wrap(self) -> Callable[[Any], Any]:
        # In place, as the Trainer does: minibatches come in the same two buffers each time.
        return functools.partial(tinygrad_cr.compile, in_place=True)


class Population:
    """All members of a task at once."""

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Members]]:
        if task.members == 1:
            return {}
        return {
            "own shuffles": lambda: Members(task, inputs, False),
            "one shuffle": lambda: Members(task, inputs, True),
        }

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Prediction]]:
        return {}
