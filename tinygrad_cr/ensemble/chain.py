"""A network as a chain of layers, and where in it the first mask stands."""

from __future__ import annotations

from collections.abc import Iterator

from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn import Affine, AffineReLUDropout, Dropout, Module, ReLU, Sequential


def chain(model: Module) -> Iterator[Module]:
    """The layers of a network one after another; a network that is no `Sequential` is one layer.

    Raises:
        OptionError: a population.

    >>> from tinygrad_cr.nn import MLP
    >>> [type(layer).__name__ for layer in chain(MLP([4, 8, 2], generator=0))]
    ['AffineReLUDropout', 'Affine']
    """
    if model.members is not None:
        raise OptionError("masks are drawn for one network: give a member of the population, population[m]")
    # A subclass of Sequential may compute something else.
    if isinstance(model, Sequential) and type(model).forward is Sequential.forward:
        for layer in model.layers:
            yield from chain(layer)
    else:
        yield model


def drops(layer: Module) -> bool | None:
    """Whether a layer of this package drops units in training; None for any other layer, which does not say.

    >>> drops(ReLU()), drops(Dropout(0.5, generator=0)), drops(Module())
    (False, True, None)
    """
    if type(layer) in (Affine, ReLU):
        return False
    if isinstance(layer, Dropout | AffineReLUDropout) and type(layer) in (Dropout, AffineReLUDropout):
        return bool(layer.dropout > 0)
    return None
