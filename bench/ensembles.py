"""What an ensemble gains and costs: Fashion-MNIST, 5 members of 784-256-10 and 5 snapshots, against one network.

Everybody trains as many epochs on the same rows, once with each seed, in turns. Figures are those of the test part.
The learning rate and its decay are those with which the single network is at its best: of 16 pairs on a grid, within
0.001 of the lowest validation log loss (docs/ensembles.md). The snapshot ensemble's first rate is the best of three.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from bench.report import table
from tinygrad_cr.data import Split, load, split
from tinygrad_cr.ensemble import Ensemble, snapshot_ensemble, train_ensemble

SEEDS, MEMBERS, CYCLES, EPOCHS = 5, 5, 5, 10
NETWORK: dict[str, Any] = {"hidden": [256], "batch_size": 128, "reporter": False}
LEARNING: dict[str, Any] = {"lr": 0.03, "lr_decay": 0.7}
SNAPSHOT_LR = 0.06

TIME_BAR = 3.5
"""Training the members may take so many times as long as training one network."""
SNAPSHOT_BAR = 4
"""In at least so many seeds the snapshot ensemble's log loss must be lower."""


def contestants(parts: Split, epochs: int, seed: int) -> dict[str, Callable[[], Ensemble]]:
    """What trains each of them."""
    common = {**NETWORK, "epochs": epochs, "generator": seed}
    data = parts.train, parts.validation
    return {
        "one network": lambda: train_ensemble(1, *data, **common, **LEARNING),
        "5 members": lambda: train_ensemble(MEMBERS, *data, **common, **LEARNING),
        "5 snapshots": lambda: snapshot_ensemble(*data, **common, cycles=CYCLES, lr=SNAPSHOT_LR),
    }


def measure(seeds: int = SEEDS, quick: bool = False) -> list[dict[str, Any]]:
    """A row for each seed and contestant: seconds, log loss, accuracy and ECE on the test part.

    The seconds are those of a run's median epoch, validation included. Each seed begins with another contestant; an
    untimed run of each comes first, which compiles.
    """
    parts = split(load("fashion-mnist", download=False), validation=1 / 6, seed=0)
    assert parts.test is not None
    few = Split(parts.train.spread(1000), parts.validation, parts.test)
    if quick:
        parts = few
    for train in contestants(few, CYCLES, 0).values():
        train()
    rows = []
    for seed in range(seeds):
        turns = list(contestants(parts, CYCLES if quick else EPOCHS, seed).items())
        first = seed % len(turns)
        for name, train in turns[first:] + turns[:first]:
            ensemble = train()
            loss, accuracy = ensemble.evaluate(parts.test)
            ece = ensemble.calibration(parts.test).ece
            rows.append(
                {
                    "seed": seed,
                    "name": name,
                    "seconds": _epoch(ensemble),
                    "log_loss": loss,
                    "accuracy": accuracy,
                    "ece": ece,
                }
            )
    return rows


def _epoch(ensemble: Ensemble) -> float:
    """Seconds of the median epoch."""
    ends = [row["seconds"] for row in ensemble.history if row["member"] == 0]
    return statistics.median(end - begin for begin, end in pairwise([0.0, *ends]))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each seed and contestant, and the verdicts."""
    by = {(row["seed"], row["name"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    names = sorted({row["name"] for row in rows}, key=["one network", "5 members", "5 snapshots"].index)
    lines = []
    for seed in seeds:
        unit = by[seed, "one network"]["seconds"]
        for name in names:
            row = by[seed, name]
            figures = [f"{row['accuracy']:.4f}", f"{row['log_loss']:.4f}", f"{row['ece']:.4f}"]
            lines.append([str(seed), name, *figures, f"{row['seconds']:.3f}", f"{row['seconds'] / unit:.2f}"])
    head = ["seed", "what", "accuracy", "log loss", "ECE", "seconds an epoch", "times one network"]
    return table(head, lines) + "\n\n" + "\n".join(_verdicts(by, seeds)) + "\n"


def _verdicts(by: dict[tuple[int, str], dict[str, Any]], seeds: Sequence[int]) -> list[str]:
    def better(name: str, *keys: str) -> int:
        def wins(seed: int) -> bool:
            one, other = by[seed, "one network"], by[seed, name]
            return all(other[k] > one[k] if k == "accuracy" else other[k] < one[k] for k in keys)

        return sum(wins(seed) for seed in seeds)

    ratios = [by[seed, "5 members"]["seconds"] / by[seed, "one network"]["seconds"] for seed in seeds]
    ratio, won = statistics.median(ratios), better("5 members", "accuracy", "log_loss")
    snapshots, wanted = better("5 snapshots", "log_loss"), SNAPSHOT_BAR * len(seeds) / SEEDS
    return [
        f"- 5 members better in accuracy and log loss: {won} of {len(seeds)} seeds; all were promised: "
        f"{_met(won == len(seeds))}.",
        f"- An epoch of theirs takes {ratio:.2f} times that of one network (median; {min(ratios):.2f} to "
        f"{max(ratios):.2f}); below {TIME_BAR} was promised: {_met(ratio < TIME_BAR)}.",
        f"- 5 snapshots better in log loss: {snapshots} of {len(seeds)} seeds; {SNAPSHOT_BAR} of {SEEDS} were "
        f"promised: {_met(snapshots >= wanted)}.",
    ]


def _met(bar: bool) -> str:
    return "met" if bar else "missed"
