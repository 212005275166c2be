"""Rates that fall along half a cosine: once, or again and again (SGDR)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.options import integer
from tinygrad_cr.schedules.formula import Formula, Rate, between, low_and_high


@dataclass(frozen=True, eq=False, repr=False)
class cosine(Formula):
    """``low + (lr - low) * (1 + cos(pi * step / steps)) / 2``; from `steps` on, low (Loshchilov and Hutter 2017).

    Args:
        lr: at the start; a number or [M].
        steps: how many the way down takes.
        low: at the end; a number or [M].

    Raises:
        OptionError: steps below 1, low above lr, rates that are negative, or vectors of different lengths.

    >>> schedule = cosine(0.1, steps=100)
    >>> schedule(0), round(schedule(50), 9), schedule(100), schedule(150)
    (0.1, 0.05, 0.0, 0.0)
    """

    lr: Rate
    steps: int
    low: Rate = 0.0

    def __post_init__(self) -> None:
        self._hold(**low_and_high(self.low, self.lr), steps=integer("steps", self.steps, least=1))

    def __call__(self, step: int) -> Any:
        return between(self.low, self.lr, half_cosine(min(step, self.steps) / self.steps))


@dataclass(frozen=True, eq=False, repr=False)
class cosine_restarts(Formula):
    """Half a cosine from lr down to almost low, then again from lr: SGDR (Loshchilov and Hutter 2017).

    In cycle i, of length ``t_0 * t_mult**i``, step t has ``low + (lr - low) * (1 + cos(pi * t / length)) / 2``. The
    first step of a cycle has lr; low would be the rate of the step after its last.

    Args:
        lr: at the start of each cycle; a number or [M].
        t_0: steps in the first cycle.
        t_mult: each cycle is so many times as long as the one before: a whole number.
        low: where a cycle would end; a number or [M].

    Raises:
        OptionError: t_0 or t_mult below 1, low above lr, rates that are negative, or vectors of different lengths.

    >>> schedule = cosine_restarts(0.1, t_0=10, t_mult=2)
    >>> schedule(0), round(schedule(5), 9), round(schedule(9), 9), schedule(10)
    (0.1, 0.05, 0.002447174, 0.1)
    >>> schedule.minima(100)
    [9, 29, 69]
    """

    lr: Rate
    t_0: int
    t_mult: int = 1
    low: Rate = 0.0

    def __post_init__(self) -> None:
        self._hold(
            **low_and_high(self.low, self.lr),
            t_0=integer("t_0", self.t_0, least=1),
            t_mult=integer("t_mult", self.t_mult, least=1),
        )

    def __call__(self, step: int) -> Any:
        length = self.t_0
        if self.t_mult == 1:
            step %= length
        # The logarithm that finds a cycle at once rounds to the wrong side at the end of some.
        while step >= length:
            step -= length
            length *= self.t_mult
        return between(self.low, self.lr, half_cosine(step / length))

    def minima(self, steps: int) -> list[int]:
        """The last step of each cycle that a run of so many steps finishes: a snapshot is taken after it.

        >>> cosine_restarts(0.1, t_0=10).minima(30)
        [9, 19, 29]
        """
        steps = integer("steps", steps)
        found, length, end = [], self.t_0, self.t_0
        while end <= steps:
            found.append(end - 1)
            length *= self.t_mult
            end += length
        return found


def half_cosine(part: float) -> float:
    """From 1 at part 0 down to 0 at part 1, level at both ends.

    >>> half_cosine(0.0), half_cosine(1.0)
    (1.0, 0.0)
    """
    return (1 + math.cos(math.pi * part)) / 2
