"""Live monitors: what goes wrong in a run, told while it happens."""

from __future__ import annotations

from tinygrad_cr.train.callbacks import Callback


def default_monitors() -> list[Callback]:
    """The monitors that a `Trainer` uses."""
    return []
