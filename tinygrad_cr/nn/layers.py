"""Layers: an operation together with its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_cr import ops, tape
from tinygrad_cr.nn.init import standard_deviation
from tinygrad_cr.nn.members import Init, Source, as_generators, each_dropout, each_init
from tinygrad_cr.nn.module import Module
from tinygrad_cr.nn.parameter import Parameter
from tinygrad_cr.options import integer, of_member
from tinygrad_cr.random import as_generator, member_generators
from tinygrad_cr.tape import watch
from tinygrad_cr.tensor import Tensor, float_dtype


class Affine(Module):
    """``x @ weight + bias``.

    Args:
        inputs, outputs: widths; x: [..., inputs] -> [..., outputs].
        init: how the weights are drawn, see `standard_deviation`; the bias starts at 0.
        generator: where the weights come from: a Generator, a seed, or None for a fresh seed.
        dtype: "float32" or "float64".
        members: of a population: so many layers of one shape, each with weights of its own, from the generator's stream
            and those that follow it, or from a list of generators. init may then be a list, too.

    >>> Affine(3, 2, generator=0)(np.ones((5, 3), "float32")).shape
    (5, 2)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        init: Init = "he",
        generator: Source = None,
        dtype: Any = "float32",
        members: int | None = None,
    ) -> None:
        for name, width in (("inputs", inputs), ("outputs", outputs)):
            integer(name, width, least=1)
        dtype, shape = float_dtype(dtype), (int(inputs), int(outputs))
        if members is None:
            weight = _weights(init, generator, shape, dtype)
            bias = np.zeros(outputs, dtype)
        else:
            own = member_generators(generator, integer("members", members, least=1))
            inits = each_init(init, members)
            weight = np.stack([_weights(of_member(inits, m), own[m], shape, dtype) for m in range(members)])
            bias = np.zeros((members, outputs), dtype)
        self.weight = Parameter(weight, members=members)
        self.bias = Parameter(bias, regularized=False, members=members)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., inputs] -> [..., outputs]."""
        if tape.capturing:
            self._watch_parameters()
        return ops.affine(x, self.weight, self.bias)

    def _watch_parameters(self) -> None:
        watch(self.weight, "data")
        watch(self.bias, "data")


def _weights(init: Any, generator: Any, shape: tuple[int, int], dtype: Any) -> Any:
    weight = standard_deviation(init, *shape) * as_generator(generator).normal(shape)
    return weight.astype(dtype)


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
        members: of a population: x is [members, ...], and dropout may be a list.

    >>> layer = Dropout(0.5, generator=4)
    >>> layer(Tensor([1.0, 1.0, 1.0, 1.0])).data
    array([0., 2., 2., 0.], dtype=float32)
    >>> layer.eval()(Tensor([1.0])).data
    array([1.], dtype=float32)
    """

    def __init__(
        self,
        dropout: float | Sequence[float] = 0.5,
        *,
        mode: str = "inverted",
        generator: Source = None,
        members: int | None = None,
    ) -> None:
        self.dropout = each_dropout(dropout, mode, members)
        self.mode = mode
        self.generator = as_generators(generator, members)

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        watch(self, "dropout", "mode", "generator")
        return ops.dropout(x, self.dropout, generator=self.generator, mode=self.mode, training=self.training)


class AffineReLUDropout(Affine):
    """Affine, ReLU and dropout as one operation; see `ops.affine_relu_dropout`.

    Args:
        inputs, outputs, init, dtype: as `Affine`.
        dropout, mode, members: as `Dropout`.
        generator: of the weights first, of the masks afterwards.

    >>> AffineReLUDropout(3, 2, dropout=0.5, generator=0)(np.ones((5, 3), "float32")).shape
    (5, 2)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dropout: float | Sequence[float] = 0.5,
        mode: str = "inverted",
        init: Init = "he",
        generator: Source = None,
        dtype: Any = "float32",
        members: int | None = None,
    ) -> None:
        self.dropout = each_dropout(dropout, mode, members)
        self.mode = mode
        self.generator = as_generators(generator, members)
        super().__init__(inputs, outputs, init=init, generator=self.generator, dtype=dtype, members=members)

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
