"""Successive halving: many trials for a short time, the better ones for longer (Jamieson and Talwalkar 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import integer
from tinygrad_cr.search.trial import Row, ranked


@dataclass(frozen=True)
class Halving:
    """All trials are trained for `first` epochs; the best of them, one in `eta`, for `eta` times as long; and so on.

    All trials of a stage are compared with each other at a rung, whatever their shapes and whichever workers had
    them. A trial that goes on begins anew with its seed, and so passes through what it was at the rung before: no
    parameters travel, none are lost with a worker, and the outcome does not depend on how trials are grouped. With eta
    3 and four rungs that costs a third more epochs than carrying networks on.

    Raises:
        OptionError: eta below 2, or no epochs.

    >>> Halving(eta=3, first=1).rungs(27)
    [1, 3, 9, 27]
    """

    eta: int = 3
    first: int = 1

    def __post_init__(self) -> None:
        integer("eta of halving, one in so many trials goes on,", self.eta, least=2)
        integer("first of halving, the epochs of the first rung,", self.first, least=1)

    def rungs(self, epochs: int) -> list[int]:
        """For how many epochs trials are trained at each rung; the last one is the whole budget.

        >>> Halving(eta=2, first=2).rungs(5)
        [2, 4, 5]
        """
        rungs = []
        length = self.first
        while length < epochs:
            rungs.append(length)
            length *= self.eta
        return [*rungs, epochs]

    def survivors(self, rows: Sequence[Row]) -> list[int]:
        """The numbers of the trials that go on from a rung, in order: the best ones, one in eta, rounded up.

        >>> rows = [{"trial": i, "stage": 1, "status": "finished", "val_accuracy": i / 9, "val_loss": 1.0}
        ...         for i in range(7)]
        >>> Halving(eta=3).survivors(rows)
        [4, 5, 6]
        """
        return sorted(row["trial"] for row in ranked(rows)[: math.ceil(len(rows) / self.eta)])


def as_halving(given: Any) -> Halving | None:
    """A `Halving`, from one, from eta, from True for the usual one, or from None.

    >>> as_halving(4).eta, as_halving(None)
    (4, None)

    Raises:
        OptionError: something else.
    """
    if given is None or given is False:
        return None
    if given is True:
        return Halving()
    if isinstance(given, Halving):
        return given
    if isinstance(given, int):
        return Halving(eta=given)
    raise OptionError(f"halving wants a Halving, eta as an integer, True or None; got {given!r}")
