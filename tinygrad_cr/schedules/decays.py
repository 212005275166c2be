"""Rates that stay, or fall by a factor: at the end of each epoch, every so many steps, or at steps that are named."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import integer
from tinygrad_cr.schedules.formula import Formula, Rate, factor, rate, same_members


@dataclass(frozen=True, eq=False, repr=False)
class constant(Formula):
    """The same learning rate at every step.

    Args:
        lr: a number or [M].

    Raises:
        OptionError: lr is no finite number >= 0.

    >>> constant(0.1)(1000)
    0.1
    """

    lr: Rate

    def __post_init__(self) -> None:
        self._hold(lr=rate("lr", self.lr))

    def __call__(self, step: int) -> Any:
        return self.lr


@dataclass(frozen=True, eq=False, repr=False)
class exponential(Formula):
    """``lr * decay ** epoch``, constant within an epoch; or smooth, with fractions of an epoch.

    Args:
        lr: at the start; a number or [M].
        decay: factor for each epoch, in (0, 1]; a number or [M].
        steps_per_epoch: steps in an epoch.
        smooth: fall a little at each step instead of once an epoch.

    Raises:
        OptionError: lr negative, decay outside (0, 1], vectors of different lengths, or an epoch without steps.

    >>> schedule = exponential(1.0, 0.5, steps_per_epoch=10)
    >>> schedule(9), schedule(10)
    (1.0, 0.5)
    >>> exponential(1.0, 0.25, steps_per_epoch=10, smooth=True)(5)
    0.5
    """

    lr: Rate
    decay: Rate
    steps_per_epoch: int
    smooth: bool = False

    def __post_init__(self) -> None:
        self._hold(
            lr=rate("lr", self.lr),
            decay=factor("decay", self.decay),
            steps_per_epoch=integer("steps_per_epoch", self.steps_per_epoch, least=1),
            smooth=bool(self.smooth),
        )
        same_members(lr=self.lr, decay=self.decay)

    def __call__(self, step: int) -> Any:
        epoch = step / self.steps_per_epoch if self.smooth else step // self.steps_per_epoch
        return self.lr * _power(self.decay, epoch)


@dataclass(frozen=True, eq=False, repr=False)
class step_decay(Formula):
    """``lr * decay ** (step // every)``: a drop every so many steps.

    Args:
        lr: at the start; a number or [M].
        decay: factor for each drop, in (0, 1]; a number or [M].
        every: steps from one drop to the next.

    Raises:
        OptionError: lr negative, decay outside (0, 1], vectors of different lengths, or every below 1.

    >>> schedule = step_decay(0.1, 0.5, every=30)
    >>> schedule(29), schedule(30), schedule(60)
    (0.1, 0.05, 0.025)
    """

    lr: Rate
    decay: Rate
    every: int

    def __post_init__(self) -> None:
        self._hold(
            lr=rate("lr", self.lr), decay=factor("decay", self.decay), every=integer("every", self.every, least=1)
        )
        same_members(lr=self.lr, decay=self.decay)

    def __call__(self, step: int) -> Any:
        return self.lr * _power(self.decay, step // self.every)


@dataclass(frozen=True, eq=False, repr=False)
class milestones(Formula):
    """``lr * decay ** n``, where n of the named steps have been reached.

    Args:
        lr: at the start; a number or [M].
        decay: factor for each drop, in (0, 1]; a number or [M].
        at: the first steps with the lower rate, ascending.

    Raises:
        OptionError: lr negative, decay outside (0, 1], vectors of different lengths, or steps that do not ascend from
            1.

    >>> schedule = milestones(0.1, 0.5, at=[30, 80])
    >>> schedule(29), schedule(30), schedule(80)
    (0.1, 0.05, 0.025)
    """

    lr: Rate
    decay: Rate
    at: Sequence[int]

    def __post_init__(self) -> None:
        self._hold(lr=rate("lr", self.lr), decay=factor("decay", self.decay), at=ascending("at", self.at))
        same_members(lr=self.lr, decay=self.decay)

    def __call__(self, step: int) -> Any:
        return self.lr * _power(self.decay, bisect_right(self.at, step))


def ascending(name: str, steps: Any) -> tuple[int, ...]:
    """Steps from 1 on, each later than the one before.

    Raises:
        OptionError: no sequence of such steps.

    >>> ascending("at", [30, 80])
    (30, 80)
    """
    if not isinstance(steps, list | tuple | range | np.ndarray):
        raise OptionError(f"{name} must be a list of steps, got {steps!r}")
    found = tuple(integer(f"{name}[{i}]", step, least=1) for i, step in enumerate(steps))
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise OptionError(f"{name} must ascend, got {list(found)}")
    return found


def _power(decay: Any, exponent: float) -> Any:
    if isinstance(decay, np.ndarray):
        return _powers(decay.tobytes(), exponent)
    return decay**exponent


@lru_cache(maxsize=64)
def _powers(decays: bytes, exponent: float) -> np.ndarray[Any, Any]:
    """Float64 [M]: each to this power. It changes once an epoch and is asked for at every step."""
    # NumPy's own power differs in the last bit, for one number in twenty, from what a member on its own would get.
    powers = np.array([decay**exponent for decay in np.frombuffer(decays).tolist()])
    powers.flags.writeable = False
    return powers
