"""Learning-rate schedules: pure functions from the number of the step, counted from 0, to a learning rate."""

from __future__ import annotations

from collections.abc import Callable

from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import integer, number

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """The same learning rate at every step.

    >>> constant(0.1)(1000)
    0.1
    """
    lr = number("lr", lr)
    return lambda step: lr


def exponential(lr: float, decay: float, steps_per_epoch: int) -> Schedule:
    """``lr * decay ** epoch``, constant within an epoch.

    Raises:
        OptionError: lr negative, decay outside (0, 1], or an epoch without steps.

    >>> schedule = exponential(1.0, 0.5, steps_per_epoch=10)
    >>> schedule(9), schedule(10)
    (1.0, 0.5)
    """
    lr = number("lr", lr)
    if not 0 < number("decay", decay) <= 1:
        raise OptionError(f"decay is the factor per epoch and must be in (0, 1], got {decay!r}; 1 means none")
    integer("steps_per_epoch", steps_per_epoch, least=1)
    return lambda step: lr * decay ** (step // steps_per_epoch)
