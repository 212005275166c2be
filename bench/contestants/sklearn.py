"""scikit-learn's MLPClassifier: no dropout, otherwise the same step, with its penalty and its checks switched off.

`partial_fit` on the whole data set is one epoch of shuffled minibatches and keeps the momentum, and it validates its
input once an epoch instead of once a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from bench.inputs import CLASSES, Inputs
from bench.workloads import LEARNING_RATE, MOMENTUM, Task

THREADS = {"default threads": None, "1 thread": 1}


def classifier(task: Task, lr: float, seed: int) -> MLPClassifier:
    """Plain SGD with momentum, nothing on top."""
    return MLPClassifier(
        task.sizes[1:-1],
        solver="sgd",
        alpha=0.0,
        batch_size=task.batch,
        learning_rate="constant",
        learning_rate_init=lr,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        shuffle=True,
        random_state=seed,
    )


class Training:
    """Epochs by `partial_fit`."""

    def __init__(self, task: Task, inputs: Inputs, threads: int | None, by_batch: bool) -> None:
        self.task, self.inputs, self.threads, self.by_batch = task, inputs, threads, by_batch
        self.classes = np.arange(CLASSES)
        self.rng = np.random.default_rng(0)
        self.reset(LEARNING_RATE, 0)

    def reset(self, lr: float, seed: int) -> None:
        self.model = classifier(self.task, lr, seed)

    def epoch(self) -> float:
        x, y = self.inputs.x, self.inputs.y
        mean: Any = self.inputs.mean
        scale: Any = self.inputs.scale
        with threadpool_limits(self.threads):
            if self.by_batch:
                order = self.rng.permutation(len(x))
                for start in range(0, len(x), self.task.batch):
                    rows = order[start : start + self.task.batch]
                    self.model.partial_fit((x[rows] - mean) * scale, y[rows], classes=self.classes)
            else:
                self.model.partial_fit(x if mean is None else (x - mean) * scale, y, classes=self.classes)
        return float(self.model.loss_)

    def accuracy(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        with threadpool_limits(self.threads):
            return float(np.mean(self.model.predict_proba(x).argmax(axis=1) == y))


class Prediction:
    """`predict_proba`."""

    def __init__(self, task: Task, inputs: Inputs, threads: int | None) -> None:
        self.threads, self.x = threads, inputs.x
        self.model = classifier(task, LEARNING_RATE, 0)
        rng = np.random.default_rng(1)
        some = rng.standard_normal((task.batch, task.sizes[0]), dtype=np.float32)
        self.model.partial_fit(some, rng.integers(0, CLASSES, len(some)), classes=np.arange(CLASSES))

    def repeat(self, calls: int) -> None:
        predict, x = self.model.predict_proba, self.x
        with threadpool_limits(self.threads):
            for _ in range(calls):
                predict(x)


class Classifier:
    """The estimator."""

    def __init__(self) -> None:
        sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
        warnings.filterwarnings("ignore", module="sklearn")

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Training]]:
        # Bytes must be converted: minibatch by minibatch, or the whole set once an epoch. Both are measured.
        ways = {"partial_fit an epoch": False}
        if inputs.mean is not None:
            ways["partial_fit a minibatch"] = True
        return {
            f"{way}, {count}": partial(Training, task, inputs, THREADS[count], ways[way])
            for way, count in product(ways, THREADS)
        }

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Prediction]]:
        return {name: partial(Prediction, task, inputs, threads) for name, threads in THREADS.items()}
