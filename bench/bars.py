"""The bars: what was promised, what was measured, and whether that is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import summary

MICRO = 1e-6
MIB = 1 << 20


@dataclass(frozen=True)
class Measured:
    """A figure held against a bar, and the other party in it."""

    value: float
    against: str = ""


@dataclass(frozen=True)
class Bar:
    """A promise.

    Attributes:
        name: what is compared.
        bound: the figure to reach.
        unit: "x faster" (at least the bound), or "x the limit", "us", "x the memory" (at most).
        measure: takes the results; None where they do not hold it.
    """

    name: str
    bound: float
    unit: str
    measure: Callable[[dict[str, Any]], Measured | None]

    def met(self, measured: Measured) -> bool:
        """Whether the figure is enough."""
        return measured.value >= self.bound if self.unit == "x faster" else measured.value <= self.bound


def _task(results: dict[str, Any], task: str, name: str | None) -> tuple[dict[str, Any], str] | None:
    record = results["tasks"].get(task)
    if record is None:
        return None
    chosen = summary.ours(record) if name is None else name
    return (record, chosen) if chosen in record["rounds"] and chosen is not None else None


def against_peers(task: str, name: str | None = None, among: tuple[str, ...] = ()) -> Callable[..., Measured | None]:
    """How much faster we are than the fastest peer (of some) on a task."""

    def measure(results: dict[str, Any]) -> Measured | None:
        found = _task(results, task, name)
        if found is None:
            return None
        record, own = found
        others = [p for p in among if p in record["rounds"]] if among else summary.peers(results, record)
        if not others:
            return None
        other = min(others, key=lambda p: summary.step_time(record, p).median)
        spoke = " (ours: eager)" if name is None and own == "eager" else ""
        # Ours may make many steps a call as well: what the bar leaves out stands beside it.
        hidden = [] if among else [p for p in summary.peers(results, record, stepwise=False) if p not in others]
        spoke += "".join(f"; {summary.speedup(record, own, p).median:.2f}x {p}" for p in hidden)
        return Measured(summary.speedup(record, own, other).median, other + spoke)

    return measure


def against_limit(task: str) -> Callable[..., Measured | None]:
    """How many times the limit our step takes."""

    def measure(results: dict[str, Any]) -> Measured | None:
        found = _task(results, task, None)
        ratio = found and summary.limit_ratio(*found)
        return Measured(ratio, f"ours: {found[1]}") if found and ratio else None

    return measure


def microseconds(task: str, name: str) -> Callable[..., Measured | None]:
    """Our step in microseconds."""

    def measure(results: dict[str, Any]) -> Measured | None:
        found = _task(results, task, name)
        return Measured(summary.step_time(*found).median / MICRO) if found else None

    return measure


def against_ourselves(task: str, name: str, other: str) -> Callable[..., Measured | None]:
    """How much faster one way of ours is than another."""

    def measure(results: dict[str, Any]) -> Measured | None:
        found = _task(results, task, name)
        if found is None or other not in found[0]["rounds"]:
            return None
        return Measured(summary.speedup(found[0], name, other).median, f"ours: {other}")

    return measure


def worst_of_sweep(group: str) -> Callable[..., Measured | None]:
    """The least factor to the fastest peer over all points of a sweep."""

    def measure(results: dict[str, Any]) -> Measured | None:
        points = [name for name, record in results["tasks"].items() if record["task"]["group"] == group]
        found = [(m, point) for point in points if (m := against_peers(point)(results))]
        if not found:
            return None
        worst, point = min(found, key=lambda pair: pair[0].value)
        return Measured(worst.value, f"{worst.against}, at {point}")

    return measure


def memory_share(results: dict[str, Any]) -> Measured | None:
    """Our peak memory over PyTorch's."""
    peaks = {name: row["peak_bytes"] for name, row in results.get("memory", {}).items() if "peak_bytes" in row}
    own = next((name for name in summary.OURS if name in peaks), None)
    if own is None or "pytorch" not in peaks:
        return None
    return Measured(peaks[own] / peaks["pytorch"], "pytorch")


_PYTORCH = ("pytorch", "torch-compile")
BARS = (
    Bar("A, compiled", 5, "x faster", against_peers("A", "compiled")),
    Bar("A, compiled", 12, "us", microseconds("A", "compiled")),
    Bar("A, eager", 2.5, "x faster", against_peers("A", "eager")),
    Bar("B", 2, "x faster", against_peers("B")),
    Bar("B", 1.6, "x the limit", against_limit("B")),
    Bar("C", 1.8, "x faster", against_peers("C")),
    Bar("C", 1.5, "x the limit", against_limit("C")),
    Bar("D", 1.25, "x faster", against_peers("D")),
    Bar("D", 1.3, "x the limit", against_limit("D")),
    Bar("epoch of Fashion-MNIST, C", 2, "x faster", against_peers("epoch")),
    Bar("inference of 1 row, A", 2.5, "x faster", against_peers("inference A 1", among=_PYTORCH)),
    Bar("inference of 1 row, A", 1, "x faster", against_peers("inference A 1", among=("numpy",))),
    Bar("inference of 1 row, C", 1.5, "x faster", against_peers("inference C 1", among=_PYTORCH)),
    Bar("inference of 1 row, C", 1, "x faster", against_peers("inference C 1", among=("numpy",))),
    Bar("any width of the sweep", 1, "x faster", worst_of_sweep("widths")),
    Bar("any batch of the sweep", 1, "x faster", worst_of_sweep("batches")),
    Bar("32 members of A", 15, "x faster", against_peers("32 x A", "population")),
    Bar("32 members of B", 2.5, "x faster", against_peers("32 x B", "population")),
    Bar("32 members of B", 1.3, "x faster", against_ourselves("32 x B", "population", "compiled")),
    Bar("peak memory of training D", 1, "x the memory", memory_share),
)


def judged(results: dict[str, Any]) -> list[tuple[Bar, Measured | None]]:
    """Every bar with what was measured."""
    return [(bar, bar.measure(results)) for bar in BARS]
