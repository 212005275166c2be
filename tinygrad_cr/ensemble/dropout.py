"""`mc_dropout`: what a network with dropout says under many masks, and how far that spreads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.ensemble.averaging import Array, log_softmax
from tinygrad_cr.ensemble.chain import chain, drops
from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn import AffineReLUDropout, Module
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator, as_generator
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.checkpoint import generators
from tinygrad_cr.train.evaluate import evaluation, input_of

Step = Callable[[Tensor], Tensor]
ROWS = 4096
"""Masked rows in one call: their activations stay in the cache."""


@dataclass(frozen=True)
class MonteCarlo:
    """The answers of a network under random masks.

    Attributes:
        mean: of the class probabilities over masks, [n, classes] float64: the prediction.
        spread: their standard deviation from one mask to another, [n, classes] float64.
        samples: how many masks.
    """

    mean: Array
    spread: Array
    samples: int

    @property
    def standard_error(self) -> Array:
        """How far `mean` is from the expectation over all masks, [n, classes]: the spread over sqrt(samples)."""
        error: Array = self.spread / np.sqrt(self.samples)
        return error

    def predict(self) -> np.ndarray[Any, Any]:
        """The most probable class of each row, [n] int64."""
        return np.asarray(self.mean.argmax(axis=1))


def mc_dropout(
    model: Module,
    x: Any,
    samples: int = 50,
    *,
    standardizer: Standardizer | None = None,
    generator: Generator | int | None = None,
) -> MonteCarlo:
    """Mean and spread of class probabilities over random masks (Gal and Ghahramani 2016).

    Each row is repeated once for each mask, and all of them are computed as one batch (as several where they would
    not fit into the cache). What comes before the first mask is the same for all and is computed once. In vanilla and
    in inverted mode the masked passes are those of training, and the network is left as it was, its generators
    included.

    Args:
        model: a classifier with dropout.
        x: [n, features], or images that flatten to that.
        samples: masks a row, at least 2, each row with its own.
        standardizer: what the model wants done to x.
        generator: of the masks: a Generator (which moves on), a seed, or None for a fresh seed.

    Raises:
        OptionError: a model that drops nothing, or fewer than 2 samples.
        ShapeError, DataError: x that does not fit, is empty, or holds inf or NaN.

    >>> from tinygrad_cr.nn import MLP
    >>> model = MLP([4, 8, 3], dropout=0.5, generator=0)
    >>> answer = mc_dropout(model, np.ones((1, 4)), samples=1000, generator=0)
    >>> answer.mean.shape, bool((answer.spread > 0).all())
    ((1, 3), True)
    """
    samples = integer("samples", samples, least=2)
    rows = Dataset(x).x
    shared, masked = _parted(list(chain(model)))
    sources = list(generators(model))
    dtype = str(model.dtype)
    means, spreads = [], []
    with evaluation(model), _drawing_from(sources, as_generator(generator)):
        model.train()
        for start in range(0, len(rows), step := max(1, ROWS // samples)):
            chunk = rows[start : start + step]
            values = chunk.astype(dtype) if standardizer is None else standardizer.transform(chunk, dtype=dtype)
            total, squares = np.zeros(()), np.zeros(())
            before = _through(shared, input_of(model, values))
            for passes in _parts(samples, max(1, ROWS // len(chunk))):
                drawn = [source.draw for source in sources]
                repeated = input_of(model, np.tile(before.numpy(), (passes, 1)))
                logits = _through(masked, repeated).numpy().reshape(passes, len(chunk), -1)
                if drawn == [source.draw for source in sources]:
                    raise OptionError(
                        "this model drops nothing, so that all masked passes are the same; "
                        "make and train it with dropout= above 0"
                    )
                probabilities = np.exp(log_softmax(logits))
                total, squares = total + probabilities.sum(axis=0), squares + (probabilities**2).sum(axis=0)
            mean = total / samples
            means.append(mean)
            spreads.append(np.sqrt(np.maximum(squares - samples * mean**2, 0) / (samples - 1)))
    return MonteCarlo(np.concatenate(means), np.concatenate(spreads), samples)


def _parted(layers: list[Module]) -> tuple[list[Step], list[Step]]:
    """What comes before the first mask, and the rest. Of a fused layer, all but the mask comes before it."""
    first = next((i for i, layer in enumerate(layers) if drops(layer) is not False), len(layers))
    shared: list[Step] = [*layers[:first]]
    masked: list[Step] = [*layers[first:]]
    if masked and type(layer := layers[first]) is AffineReLUDropout:
        shared.append(partial(_activate, layer))
        masked[0] = partial(_drop, layer)
    return shared, masked


def _activate(layer: AffineReLUDropout, x: Tensor) -> Tensor:
    return ops.affine_relu_dropout(x, layer.weight, layer.bias, training=False)


def _drop(layer: AffineReLUDropout, x: Tensor) -> Tensor:
    return ops.dropout(x, layer.dropout, generator=layer.generator, mode=layer.mode)


def _through(steps: list[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _parts(samples: int, most: int) -> Iterator[int]:
    for start in range(0, samples, most):
        yield min(most, samples - start)


@contextmanager
def _drawing_from(sources: list[Generator], generator: Generator) -> Iterator[None]:
    """The generators of a model draw what this one says, each from a stream of its own, and go back to their states."""
    states = [source.state() for source in sources]
    for i, source in enumerate(sources):
        source.restore(generator.state() | {"stream": generator.stream + i})
    try:
        yield
    finally:
        generator.draw = max([generator.draw, *(source.draw for source in sources)])
        for source, state in zip(sources, states, strict=True):
            source.restore(state)
