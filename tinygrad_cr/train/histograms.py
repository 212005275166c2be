"""How activations and gradients are distributed, layer by layer and epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.nn import Module
from tinygrad_cr.nn.probe import observed
from tinygrad_cr.options import integer
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.callbacks import Callback, Setup
from tinygrad_cr.train.evaluate import evaluation, input_of, kernels_of
from tinygrad_cr.train.history import Event, Row

BINS = 40
ROWS = 256
"""So many rows show a distribution, and cost little beside an epoch."""
TIMES = 100
"""So many distributions show a development; of a longer run they lie further apart."""


class Histograms(Callback):
    """Counts, after each row of the history, the activations of every layer and the gradient of every weight.

    They belong to the cross-entropy of the first `rows` rows of the sample, with dropout off. A record is a flat dict:
    epoch, step, kind ("activation" or "gradient"), name (of the layer, or of the parameter), low and high (the range,
    cut into equal bins), counts (a list, one a bin) and zeros (the fraction that is exactly 0). After 100 times every
    second one is dropped, and from then on every second row is left out, and so on.

    Attributes:
        records: all of them, in order.

    >>> Histograms(rows=64).records
    []
    """

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = integer("rows", rows, least=1)
        self.records: list[Row] = []

    def start(self, setup: Setup) -> None:
        """Take the rows that are looked at."""
        self.model, self.records, self.stride, self.seen = setup.model, [], 1, 0
        part = setup.sample.take(slice(0, self.rows))
        self.x = setup.standardizer.transform(part.x, dtype=str(setup.model.dtype))
        self.y = part.y

    def epoch(self, row: Row) -> Iterable[Event] | None:
        """Count."""
        self.seen += 1
        if self.seen % self.stride:
            return None

        def see(name: str, layer: Module, x: Tensor, y: Tensor) -> None:
            self._add(row, "activation", name, y.data)

        # Updates leave no gradients, but somebody else may have.
        self.model.zero_grad()
        with evaluation(self.model, recording=True):
            with observed(self.model, see):
                logits = self.model(input_of(self.model, self.x))
            ops.cross_entropy(logits, self.y).backward()
        for name, parameter in self.model.named_parameters():
            if parameter.regularized and parameter.grad is not None:
                self._add(row, "gradient", name, parameter.grad)
        self.model.zero_grad()
        self._thin_out()
        return None

    def _thin_out(self) -> None:
        steps = sorted({record["step"] for record in self.records})
        if len(steps) >= TIMES:
            kept = set(steps[1::2])
            self.records = [record for record in self.records if record["step"] in kept]
            self.stride *= 2

    def _add(self, row: Row, kind: str, name: str, values: Any) -> None:
        values = np.asarray(kernels_of(self.model).to_numpy(values))
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return
        counts, _ = np.histogram(values, BINS, (low, high))
        self.records.append(
            {
                "epoch": row["epoch"],
                "step": row["step"],
                "kind": kind,
                "name": name,
                "low": low,
                "high": high,
                "counts": counts.tolist(),
                "zeros": float((values == 0).mean()),
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """The records so far, and when the next are made."""
        return {"records": self.records, "stride": self.stride, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind these records."""
        self.records, self.stride, self.seen = list(state["records"]), state["stride"], state["seen"]
