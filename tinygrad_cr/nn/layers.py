"""Layers: an operation together with its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cr import ops, tape
from tinygrad_cr.nn.init import standard_deviation
from tinygrad_cr.nn.module import Module
from tinygrad_cr.nn.parameter import Parameter
from tinygrad_cr.operands import dropout_plan
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator, as_generator
from tinygrad_cr.tape import watch
from tinygrad_cr.tensor import Tensor, float_dtype


class Affine(Module):
    """``x @ weight + bias``.

    Args:
        inputs, outputs: widths; x: [..., inputs] -> [..., outputs].
        init: how the weights are drawn, see `standard_deviation`; the bias starts at 0.
        generator: where the weights come from: a Generator, a seed, or None for a fresh seed.
        dtype: "float32" or "float64".

    >>> Affine(3, 2, generator=0)(np.ones((5, 3), "float32")).shape
    (5, 2)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        init: str | float = "he",
        generator: Generator | int | None = None,
        dtype: Any = "float32",
    ) -> None:
        for name, width in (("inputs", inputs), ("outputs", outputs)):
            integer(name, width, least=1)
        dtype = float_dtype(dtype)
        std = standard_deviation(init, inputs, outputs)
        weight = std * as_generator(generator).normal((int(inputs), int(outputs)))
        self.weight = Parameter(weight.astype(dtype))
        self.bias = Parameter(np.zeros(outputs, dtype), regularized=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., inputs] -> [..., outputs]."""
        if tape.capturing:
            self._watch_parameters()
        return ops.affine(x, self.weight, self.bias)

    def _watch_parameters(self) -> None:
        watch(self.weight, "data")
        watch(self.bias, "data")


class ReLU(Module):
    """``max(x, 0)``.

    >>> ReLU()(Tensor([-1.0, 1.0])).data
    array([0., 1.], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        return ops.relu(x)


class Dropout(Module):
    """Drops units in training and behaves differently in evaluation; see `ops.dropout`.

    Args:
        dropout: the probability of dropping a unit, in [0, 1).
        mode: "inverted" rescales in training, "vanilla" in evaluation.
        generator: where the masks come from: a Generator, a seed, or None for a fresh seed.

    >>> layer = Dropout(0.5, generator=4)
    >>> layer(Tensor([1.0, 1.0, 1.0, 1.0])).data
    array([0., 2., 2., 0.], dtype=float32)
    >>> layer.eval()(Tensor([1.0])).data
    array([1.], dtype=float32)
    """

    def __init__(
        self, dropout: float = 0.5, *, mode: str = "inverted", generator: Generator | int | None = None
    ) -> None:
        dropout_plan(dropout, mode, training=True)
        self.dropout = float(dropout)
        self.mode = mode
        self.generator = as_generator(generator)

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        watch(self, "dropout", "mode", "generator")
        return ops.dropout(x, self.dropout, generator=self.generator, mode=self.mode, training=self.training)


class AffineReLUDropout(Affine):
    """Affine, ReLU and dropout as one operation; see `ops.affine_relu_dropout`.

    Args:
        inputs, outputs, init, dtype: as `Affine`.
        dropout, mode: as `Dropout`.
        generator: of the weights first, of the masks afterwards.

    >>> AffineReLUDropout(3, 2, dropout=0.5, generator=0)(np.ones((5, 3), "float32")).shape
    (5, 2)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dropout: float = 0.5,
        mode: str = "inverted",
        init: str | float = "he",
        generator: Generator | int | None = None,
        dtype: Any = "float32",
    ) -> None:
        dropout_plan(dropout, mode, training=True)
        self.dropout = float(dropout)
        self.mode = mode
        self.generator = as_generator(generator)
        super().__init__(inputs, outputs, init=init, generator=self.generator, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., inputs] -> [..., outputs]."""
        if tape.capturing:
            self._watch_parameters()
            watch(self, "dropout", "mode", "generator")
        return ops.affine_relu_dropout(
            x,
            self.weight,
            self.bias,
            self.dropout,
            generator=self.generator,
            mode=self.mode,
            training=self.training,
        )
