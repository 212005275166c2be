"""`Moment`: where training stood, to go back to where fewer steps should have been made than were."""

from __future__ import annotations

from typing import Any

from tinygrad_cr.nn import Module
from tinygrad_cr.optim import Optimizer
from tinygrad_cr.train.checkpoint import generators


class Moment:
    """What updates change of one network: its parameters, the optimiser's state, the generators of its masks.

    >>> from tinygrad_cr import nn, optim
    >>> model = nn.Affine(1, 1, init=0.0)
    >>> optimizer = optim.SGD(model, lr=1.0)
    >>> moment = Moment(model, optimizer)
    >>> moment.keep()
    >>> model([[2.0]]).sum().backward()
    >>> optimizer.step()
    >>> moment.restore()
    >>> abs(model.weight.item()), optimizer.steps
    (0.0, 0)
    """

    def __init__(self, model: Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.generators = list(generators(model))
        self.arrays = [optimizer.flat.values, *(getattr(optimizer, name) for name in optimizer.buffers)]
        self.copies: list[Any] = []
        self.states: list[Any] = []
        self.steps = 0

    @property
    def nbytes(self) -> int:
        """How much is copied to keep it."""
        return sum(array.nbytes for array in self.arrays)

    def keep(self) -> None:
        """Remember how things stand, instead of what was remembered before."""
        if not self.copies:
            self.copies = [array.copy() for array in self.arrays]
        else:
            for copy, array in zip(self.copies, self.arrays, strict=True):
                copy[...] = array
        self.states = [generator.state() for generator in self.generators]
        self.steps = self.optimizer.steps

    def restore(self) -> None:
        """Go back to it; gradients stay what they are."""
        for copy, array in zip(self.copies, self.arrays, strict=True):
            array[...] = copy
        for state, generator in zip(self.states, self.generators, strict=True):
            generator.restore(state)
        self.optimizer.steps = self.steps
