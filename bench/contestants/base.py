"""What a contestant must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from bench.inputs import Inputs
from bench.workloads import Task


class Trainer(Protocol):
    """A network, its optimiser and its data, ready to train.

    One that trains many networks together says how many in an attribute `members`: its epochs are of all of them.
    """

    def reset(self, lr: float, seed: int) -> None:
        """Fresh parameters, no momentum, another learning rate; nothing that was compiled is lost."""

    def epoch(self) -> float:
        """One pass over the shuffled data set; returns the loss of its last step, the only one that is read."""

    def accuracy(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        """The share of rows [n, features] float32 that the network, without dropout, puts in the right class."""


class Predictor(Protocol):
    """A network and rows, ready to predict."""

    def repeat(self, calls: int) -> None:
        """So many separate calls, each with its result complete."""


class Contestant(Protocol):
    """A library. Where it can be used in several good ways, each is a variant, and the worker keeps the fastest."""

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Trainer]]:
        """The variants for training, by a name that a reader understands."""

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Predictor]]:
        """The variants for inference."""
