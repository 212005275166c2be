"""What it costs to be watched: epochs of network C in a `Trainer`, with the monitors and without them, in turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from bench.report import table
from bench.workloads import DROPOUT, LEARNING_RATE, MOMENTUM, NETWORKS
from tinygrad_cr.data import Dataset
from tinygrad_cr.nn import MLP
from tinygrad_cr.train import Trainer

BAR = 0.02
"""The monitors may take this part of a step."""
ROWS = 60_000


def measure(rounds: int, quick: bool = False) -> dict[str, Any]:
    """Seconds a step of each round, without and with monitors, evaluation after the epoch included.

    Both train the same network from the same start on the same minibatches; each round begins with the other one.
    """
    task = NETWORKS["C"]
    rows = 20 * task.batch if quick else ROWS
    rng = np.random.default_rng(0)
    # Random labels: nothing can be learned, and no run stops early.
    data = Dataset(rng.integers(0, 256, (rows, task.sizes[0]), dtype=np.uint8), rng.integers(0, 10, rows))
    found: dict[bool, list[float]] = {False: [], True: []}
    for i in range(rounds + 1):
        for watched in (False, True) if i % 2 else (True, False):
            trainer = Trainer(
                MLP(task.sizes, dropout=DROPOUT, generator=0),
                lr=LEARNING_RATE,
                momentum=MOMENTUM,
                epochs=1,
                batch_size=task.batch,
                generator=0,
                monitors=watched,
                reporter=False,
            )
            begin = time.perf_counter()
            history = trainer.fit(data)
            if i:  # the first round compiles
                found[watched].append((time.perf_counter() - begin) / history[-1]["step"])
    return {"rows": rows, "without": found[False], "with": found[True]}


def markdown(results: dict[str, Any]) -> str:
    """The medians, and the part of a step that watching takes: the median over rounds."""
    parts = [b / a - 1 for a, b in zip(results["without"], results["with"], strict=True)]
    part = statistics.median(parts)
    rows = [
        [name, f"{statistics.median(results[name]) * 1e6:,.1f}", f"{min(results[name]) * 1e6:,.1f}"]
        for name in ("without", "with")
    ]
    verdict = "met" if part <= BAR else f"missed by {part - BAR:.1%}"
    return (
        table(["monitors", "median us a step", "least"], rows)
        + f"\n\nThe monitors take {part:+.2%} of a step (median of {len(parts)} rounds, "
        f"{min(parts):+.2%} to {max(parts):+.2%}); at most {BAR:.0%} was promised: {verdict}.\n"
    )
