"""Networks: layers one after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn.init import standard_deviation
from tinygrad_cr.nn.layers import Affine, AffineReLUDropout
from tinygrad_cr.nn.module import Module
from tinygrad_cr.operands import dropout_plan
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator, as_generator
from tinygrad_cr.tensor import Tensor


class Sequential(Module):
    """Modules applied one after another; their parameters are packed into one buffer.

    >>> from tinygrad_cr.nn import Affine, ReLU
    >>> model = Sequential(Affine(4, 3, generator=0), ReLU(), Affine(3, 2, generator=1))
    >>> [name for name, _ in model.named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.2.weight', 'layers.2.bias']
    """

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)
        self.flat()

    def forward(self, x: Tensor) -> Tensor:
        """x: what the first layer takes -> what the last layer gives."""
        for layer in self.layers:
            x = layer(x)
        return x


class MLP(Sequential):
    """A multilayer perceptron: affine-ReLU-dropout for each hidden layer, then an affine map to the logits.

    Args:
        sizes: widths from input to output, e.g. ``[64, 100, 10]``.
        dropout: the probability of dropping a hidden unit, in [0, 1).
        dropout_mode: "inverted" or "vanilla", see `ops.dropout`.
        init: how weights are drawn, see `standard_deviation`.
        generator: of weights and masks: a Generator, a seed, or None for a fresh seed.
        dtype: "float32" or "float64".

    Raises:
        OptionError: fewer than two sizes, one that is not positive, or an option outside its range.

    >>> model = MLP([64, 100, 10], dropout=0.5, dropout_mode="inverted", init="he", generator=0)
    >>> sum(p.size for p in model.parameters())
    7510
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        dropout: float = 0.0,
        dropout_mode: str = "inverted",
        init: str | float = "he",
        generator: Generator | int | None = None,
        dtype: Any = "float32",
    ) -> None:
        if not isinstance(sizes, list | tuple) or len(sizes) < 2:
            raise OptionError(f"sizes wants at least input and output width, e.g. [64, 100, 10]; got {sizes!r}")
        self.sizes = [integer("a layer's width", n, least=1) for n in sizes]
        dropout_plan(dropout, dropout_mode, training=True)
        self.dropout = float(dropout)
        self.dropout_mode = dropout_mode
        self.init = init if isinstance(init, str) else standard_deviation(init, 1, 1)
        self.generator = as_generator(generator)
        hidden = [
            AffineReLUDropout(
                a, b, dropout=dropout, mode=dropout_mode, init=init, generator=self.generator, dtype=dtype
            )
            for a, b in pairwise(sizes[:-1])
        ]
        last = Affine(sizes[-2], sizes[-1], init=init, generator=self.generator, dtype=dtype)
        super().__init__(*hidden, last)

    def config(self) -> dict[str, Any]:
        """The arguments that make a network of this shape again."""
        return {
            "sizes": self.sizes,
            "dropout": self.dropout,
            "dropout_mode": self.dropout_mode,
            "init": self.init,
            "dtype": str(self.dtype),
        }
