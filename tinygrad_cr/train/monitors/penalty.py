"""A penalty so strong that it drowns what the data says."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tinygrad_cr.train.callbacks import Setup, Steps
from tinygrad_cr.train.history import Event
from tinygrad_cr.train.monitors.monitor import Monitor

SHARE = 2.0
"""The penalty of the initial weights over ln C, what guessing costs. Useful strengths begin far below 1."""


class Penalty(Monitor):
    """Tells of a penalty that begins far above the loss ("penalty"): weights then shrink to nothing."""

    memory = ("share", "told")

    def start(self, setup: Setup) -> None:
        """Measure the penalty of the weights as they are now."""
        self.reg, self.share, self.told = setup.reg, penalty_share(setup), False

    def steps(self, seen: Steps) -> Iterable[Event]:
        """Say it, once training is under way."""
        if self.told or self.share <= SHARE:
            return
        self.told = True
        yield Event(
            "warn",
            "penalty",
            seen.epoch,
            seen.step,
            self.share,
            f"the penalty began at {self.share:.3g} times what guessing costs (seen in epoch {seen.epoch}): reg, "
            f"{self.reg:g}, is too strong for anything to be learned; try {self.reg * 0.1 / self.share:.1g}",
        )


def penalty_share(setup: Setup) -> float:
    """The penalty of the weights over the loss of a network that guesses."""
    if not setup.reg:
        return 0.0
    squares = sum(
        float(np.square(p.numpy(), dtype=np.float64).sum()) for p in setup.model.parameters() if p.regularized
    )
    return 0.5 * float(setup.reg) * squares / math.log(max(2, setup.classes))
