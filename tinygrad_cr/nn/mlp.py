"""Networks: layers one after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

from tinygrad_cr import tape
from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn.feed_forward import FeedForward
from tinygrad_cr.nn.layers import Affine, AffineReLUDropout
from tinygrad_cr.nn.members import Init, Source, as_generators, each_dropout, each_init, member_of
from tinygrad_cr.nn.module import Module
from tinygrad_cr.options import PerMember, integer
from tinygrad_cr.tensor import Tensor


class Sequential(Module):
    """Modules applied one after another; their parameters are packed into one buffer.

    >>> from tinygrad_cr.nn import Affine, ReLU
    >>> model = Sequential(Affine(4, 3, generator=0), ReLU(), Affine(3, 2, generator=1))
    >>> [name for name, _ in model.named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.2.weight', 'layers.2.bias']
    """

    _feed_forward: FeedForward | None = None

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)
        self.flat()

    def forward(self, x: Tensor) -> Tensor:
        """x: what the first layer takes -> what the last layer gives."""
        flat = self._flat
        # A program that is captured makes one call of all layers anyway, and more than them.
        if flat is not None and not tape.capturing:
            together = self._feed_forward
            if together is None or together.flat is not flat or together.layers != self.layers:
                together = self._feed_forward = FeedForward(self.layers, flat)
            if together.fits:
                y = together(x)
                if y is not None:
                    return y
        for layer in self.layers:
            x = layer(x)
        return x

    def __getstate__(self) -> dict[str, Any]:
        # A copy has memory of its own, which it looks up itself.
        return {name: value for name, value in vars(self).items() if name != "_feed_forward"}

    def __getitem__(self, m: int) -> Self:
        """A working view of one member of a population, see `nn.member_of`."""
        view = member_of(self, m)
        assert isinstance(view, type(self))
        return view


class MLP(Sequential):
    """A multilayer perceptron: affine-ReLU-dropout for each hidden layer, then an affine map to the logits.

    Args:
        sizes: widths from input to output, e.g. ``[64, 100, 10]``.
        dropout: the probability of dropping a hidden unit, in [0, 1).
        dropout_mode: "inverted" or "vanilla", see `ops.dropout`.
        init: how weights are drawn, see `standard_deviation`.
        generator: of weights and masks: a Generator, a seed, or None for a fresh seed.
        dtype: "float32" or "float64".
        members: make a population: so many networks of this shape, trained together at little more than the price of
            one. Member m draws from the m-th stream after the generator's, and is what ``MLP`` alone makes from that;
            or `generator` is a list of generators. A single one is not moved on: for other members take another seed
            or stream. dropout and init may be lists, too.

    An input [n, in] is everybody's, [members, n, in] is one for each; ``model[m]`` is a working view of a member.

    Raises:
        OptionError: fewer than two sizes, one that is not positive, or an option outside its range.

    >>> model = MLP([64, 100, 10], dropout=0.5, dropout_mode="inverted", init="he", generator=0)
    >>> sum(p.size for p in model.parameters())
    7510
    >>> population = MLP([64, 100, 10], members=3, dropout=[0.0, 0.2, 0.5], generator=0)
    >>> population[2].dropout, population([[0.0] * 64]).shape
    (0.5, (3, 1, 10))
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        dropout: float | Sequence[float] = 0.0,
        dropout_mode: str = "inverted",
        init: Init = "he",
        generator: Source = None,
        dtype: Any = "float32",
        members: int | None = None,
    ) -> None:
        if not isinstance(sizes, list | tuple) or len(sizes) < 2:
            raise OptionError(f"sizes wants at least input and output width, e.g. [64, 100, 10]; got {sizes!r}")
        self.sizes = [integer("a layer's width", n, least=1) for n in sizes]
        self.dropout = each_dropout(dropout, dropout_mode, members)
        self.dropout_mode = dropout_mode
        self.init = each_init(init, members)
        self.generator = as_generators(generator, members)
        own: dict[str, Any] = {"init": init, "generator": self.generator, "dtype": dtype, "members": members}
        hidden = [AffineReLUDropout(a, b, dropout=dropout, mode=dropout_mode, **own) for a, b in pairwise(sizes[:-1])]
        last = Affine(sizes[-2], sizes[-1], **own)
        super().__init__(*hidden, last)

    def config(self) -> dict[str, Any]:
        """The arguments that make a network of this shape again, as JSON can hold them."""
        return {
            "sizes": self.sizes,
            "dropout": _as_list(self.dropout),
            "dropout_mode": self.dropout_mode,
            "init": _as_list(self.init),
            "dtype": str(self.dtype),
        } | ({} if self.members is None else {"members": self.members})


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, PerMember) else value
