"""PyTorch, eager and compiled, set up as its own performance guide advises.

`zero_grad(set_to_none=True)`, tensors converted beforehand, minibatches by `index_select`, a fused or a foreach SGD,
`inference_mode` around predictions, ReLU in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise, product
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from bench.inputs import Inputs
from bench.workloads import DROPOUT, LEARNING_RATE, MOMENTUM, Task

DEFAULT_THREADS = torch.get_num_threads()


def thread_choices() -> list[int]:
    """All cores and one, or one alone."""
    return sorted({DEFAULT_THREADS, 1}, reverse=True)


def counted(threads: int) -> str:
    """``2 threads``."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear, ReLU and dropout for each hidden layer, then Linear."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU(inplace=True), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Training:
    """A training loop; `compiled` wraps gather, standardisation, forward and loss in one torch.compile."""

    def __init__(self, task: Task, inputs: Inputs, threads: int, sgd: str, compiled: bool) -> None:
        torch.set_num_threads(threads)
        self.threads, self.batch = threads, task.batch
        self.model = network(task.sizes)
        kind = {"fused": {"fused": True}, "foreach": {"foreach": True}, "compiled": {"foreach": True}}[sgd]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, **kind)
        self.x, self.y = torch.from_numpy(inputs.x), torch.from_numpy(inputs.y)
        self.mean = self.scale = None
        if inputs.mean is not None and inputs.scale is not None:
            self.mean, self.scale = torch.from_numpy(inputs.mean), torch.from_numpy(inputs.scale)
        self.loss: Callable[..., Any] = self._loss
        self.update: Callable[[], Any] = self.optimizer.step
        if compiled:
            self.loss = torch.compile(self._loss, dynamic=False)
        if sgd == "compiled":
            self.update = torch.compile(self.optimizer.step)

    def _loss(self, rows: torch.Tensor) -> torch.Tensor:
        x = self.x.index_select(0, rows)
        if self.mean is not None and self.scale is not None:
            x = x.to(torch.float32).sub_(self.mean).mul_(self.scale)
        return nn.functional.cross_entropy(self.model(x), self.y.index_select(0, rows))

    def reset(self, lr: float, seed: int) -> None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for layer in self.model:
                if isinstance(layer, nn.Linear):
                    # The initialisation that the other contestants use too: He et al. 2015, biases 0.
                    layer.weight.normal_(0, math.sqrt(2 / layer.in_features))
                    layer.bias.zero_()
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def epoch(self) -> float:
        torch.set_num_threads(self.threads)
        self.model.train()
        split: Any = torch.randperm(len(self.x)).split
        optimizer, loss_of, update = self.optimizer, self.loss, self.update
        for rows in split(self.batch):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(rows)
            loss.backward()
            update()
        return float(loss.item())

    def accuracy(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        self.model.eval()
        with torch.inference_mode():
            right = self.model(torch.from_numpy(x)).argmax(1) == torch.from_numpy(y)
            return float(right.float().mean())


class Prediction:
    """A call of the network under inference_mode, entered once."""

    def __init__(self, task: Task, inputs: Inputs, threads: int, compiled: bool) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.x = torch.from_numpy(inputs.x)
        model = network(task.sizes).eval()
        self.model: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model, dynamic=False) if compiled else model

    def repeat(self, calls: int) -> None:
        torch.set_num_threads(self.threads)
        model, x = self.model, self.x
        with torch.inference_mode():
            for _ in range(calls):
                model(x)


class Eager:
    """Operation by operation."""

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Training]]:
        return {
            f"{sgd} SGD, {counted(threads)}": partial(Training, task, inputs, threads, sgd, compiled=False)
            for sgd, threads in product(("fused", "foreach"), thread_choices())
        }

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Prediction]]:
        return {counted(n): partial(Prediction, task, inputs, n, compiled=False) for n in thread_choices()}


class Compiled:
    """`torch.compile` around the loss; the optimiser fused, or compiled as well."""

    def __init__(self) -> None:
        # Every task has shapes of its own, and the limit counts them per source line.
        torch._dynamo.config.recompile_limit = 1000
        torch._dynamo.config.accumulated_recompile_limit = 10_000

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Training]]:
        choices = [("fused", threads) for threads in thread_choices()] + [("compiled", DEFAULT_THREADS)]
        return {
            f"{sgd} SGD, {counted(threads)}": partial(Training, task, inputs, threads, sgd, compiled=True)
            for sgd, threads in choices
        }

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Prediction]]:
        return {counted(n): partial(Prediction, task, inputs, n, compiled=True) for n in thread_choices()}
