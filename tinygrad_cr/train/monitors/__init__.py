"""Live monitors: what goes wrong in a run, told while it happens. docs/monitors.md has their thresholds and why."""

from __future__ import annotations

from tinygrad_cr.train.callbacks import Callback
from tinygrad_cr.train.monitors.costs import Divergence, LossSpike, divergence_message
from tinygrad_cr.train.monitors.gap import Capacity, Overfitting
from tinygrad_cr.train.monitors.pace import Pace
from tinygrad_cr.train.monitors.penalty import Penalty
from tinygrad_cr.train.monitors.units import DeadUnits

__all__ = [
    "Capacity",
    "DeadUnits",
    "Divergence",
    "LossSpike",
    "Overfitting",
    "Pace",
    "Penalty",
    "default_monitors",
    "divergence_message",
]


def default_monitors() -> list[Callback]:
    """New monitors for one run: those that a `Trainer` uses unless it is told not to.

    >>> [type(monitor).__name__ for monitor in default_monitors()]
    ['Divergence', 'LossSpike', 'Penalty', 'Pace', 'DeadUnits', 'Overfitting', 'Capacity']
    """
    return [Divergence(), LossSpike(), Penalty(), Pace(), DeadUnits(), Overfitting(), Capacity()]
