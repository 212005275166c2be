"""Figures from raw rounds: medians, spreads, and ratios that are taken within a round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OURS = ("compiled", "eager")
"""Ours, the one that users get by default first."""


@dataclass(frozen=True)
class Spread:
    """A median over rounds, the smallest and the largest."""

    median: float
    low: float
    high: float


def by_round(record: dict[str, Any], name: str) -> list[float]:
    """Seconds of each round: the median of its blocks."""
    return [statistics.median(blocks) for blocks in record["rounds"][name]]


def spread(values: Iterable[float]) -> Spread:
    """Median, least and most."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def step_time(record: dict[str, Any], name: str) -> Spread:
    """Seconds a step (or call) of a contestant."""
    return spread(by_round(record, name))


def speedup(record: dict[str, Any], name: str, other: str) -> Spread:
    """How many times faster `name` is than `other`, from pairs of turns of the same round."""
    own, others = by_round(record, name), by_round(record, other)
    return spread(b / a for a, b in zip(own, others, strict=True))


def ours(record: dict[str, Any]) -> str | None:
    """Which of ours speaks for us in a record."""
    return next((name for name in OURS if name in record["rounds"]), None)


def peers(results: dict[str, Any], record: dict[str, Any], stepwise: bool = True) -> list[str]:
    """The peers in a record, the fastest first; `stepwise`: without those that hide the steps from their user."""
    known = results["contestants"]
    chosen = [
        name
        for name in record["rounds"]
        if not known[name]["ours"] and (known[name]["stepwise"] or not stepwise) and known[name]["trains"]
    ]
    return sorted(chosen, key=lambda name: step_time(record, name).median)


def limit_ratio(record: dict[str, Any], name: str) -> float | None:
    """How many times the limit a step takes."""
    if "limit" not in record:
        return None
    return float(step_time(record, name).median / record["limit"]["seconds"])


def race_seconds(accuracy: dict[str, Any], name: str) -> list[float]:
    """Seconds to the target of the runs with the contestant's best learning rate; empty if it never got there."""
    best = accuracy.get("best_lr", {}).get(name)
    return [run["curve"][-1][0] for run in accuracy["runs"][name] if run["lr"] == best and run["reached"]]
