"""What anybody would write without a library: the yardstick for the cost of one small prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from bench.inputs import Inputs
from bench.workloads import Task


class Prediction:
    """``x @ w + b``, a maximum, and so on."""

    def __init__(self, task: Task, inputs: Inputs) -> None:
        rng = np.random.default_rng(0)
        self.x = inputs.x
        self.layers = [
            (rng.standard_normal((a, b), dtype=np.float32), np.zeros(b, np.float32)) for a, b in pairwise(task.sizes)
        ]

    def repeat(self, calls: int) -> None:
        hidden, (last_w, last_b) = self.layers[:-1], self.layers[-1]
        for _ in range(calls):
            x = self.x
            for w, b in hidden:
                x = np.maximum(x @ w + b, 0)
            x @ last_w + last_b


class Loop:
    """It does not train."""

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], object]]:
        return {}

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Prediction]]:
        return {"x @ w + b": lambda: Prediction(task, inputs)}
