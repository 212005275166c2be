"""ReLUs that no row can wake up again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tinygrad_cr.nn import Module
from tinygrad_cr.nn.init import standard_deviation
from tinygrad_cr.nn.probe import observed
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.callbacks import STEPS_BETWEEN_OBSERVATIONS, Setup
from tinygrad_cr.train.evaluate import evaluation
from tinygrad_cr.train.history import Event, Row
from tinygrad_cr.train.monitors.monitor import Monitor, rows_to_look_with

PART = 0.4
"""Healthy layers of this package's examples have less than 5 % dead units."""

LEAST_ROWS = 16
"""On fewer rows a living unit may well be 0 everywhere."""

FAINT = 0.1
"""Weights this much narrower than "he" hardly carry the inputs: units are 0 or not by their bias, see `Pace`."""


class DeadUnits(Monitor):
    """Tells of ReLU layers in which many units are 0 on every row of a sample ("dead_units").

    A dead unit gets no gradient and stays dead. If a whole layer is, and the network therefore gives every row the
    same answer, the run is lost and ends. The network is looked at after epochs, in evaluation mode.
    """

    memory = ("next", "told")

    def start(self, setup: Setup) -> None:
        """Take the rows that are looked at."""
        self.model = setup.model
        self.rows = rows_to_look_with(setup)
        self.steps_per_epoch = setup.steps_per_epoch
        self.next, self.told = 0, False

    def epoch(self, row: Row) -> Iterable[Event]:
        """Look, if the last look is long enough ago: an epoch may be a single step."""
        if len(self.rows) < LEAST_ROWS or row["step"] < self.next or row["step"] % self.steps_per_epoch:
            return
        self.next = row["step"] + STEPS_BETWEEN_OBSERVATIONS
        layers, constant = self._look()
        # The last layer gives logits.
        name, part = max(layers[:-1], key=lambda layer: layer[1], default=("", 0.0))
        where = f"{part:.0%} of the units of {name or 'the network'} are 0 on all of {len(self.rows)} rows"
        where += f" after epoch {row['epoch']}"
        if part == 1 and constant:
            message = f"{where}: nothing flows through it any more; try a lower learning rate, or init='he'"
            yield Event("fail", "dead_units", row["epoch"], row["step"], part, message, stop=True)
        elif part > PART and not self.told:
            self.told = True
            message = f"{where} and will stay so: try a lower learning rate, or init='he'"
            yield Event("warn", "dead_units", row["epoch"], row["step"], part, message)

    def _look(self) -> tuple[list[tuple[str, float]], bool]:
        """The dead part of each layer, in order, and whether the output is the same for every row."""
        found: list[tuple[str, float]] = []
        weights: list[Tensor] = []

        def see(name: str, layer: Module, x: Tensor, y: Tensor) -> None:
            nonlocal weights
            own: list[Tensor] = [p for _, p in layer.named_parameters() if p.regularized and p.ndim == 2]
            weights = own or weights
            highest, lowest = y.numpy().max(axis=0), y.numpy().min()
            part = float((highest == 0).mean()) if lowest >= 0 else 0.0
            # The rest costs time, and is asked only where something is wrong. A layer without weights (dropout, say)
            # has zeros of its own only where it made them of something negative.
            if part > PART and ((not own and x.numpy().min() >= 0) or any(map(_is_faint, weights))):
                part = 0.0
            found.append((name, part))

        with evaluation(self.model), observed(self.model, see):
            logits = self.model(self.rows).numpy()
        return found, bool((logits == logits[0]).all())


def _is_faint(weight: Tensor) -> bool:
    values = weight.numpy()
    return float(np.square(values, dtype=np.float64).mean() ** 0.5) < FAINT * standard_deviation("he", *values.shape)
