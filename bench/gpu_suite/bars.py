"""The bars: what was promised, what was measured, and whether that is enough."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from bench.gpu_suite.field import fastest
from bench.gpu_suite.workloads import BY_NAME

FUSED = {
    "fused epilogue": "affine_relu_dropout",
    "its backward": "affine_relu_dropout_backward",
    "update (SGD)": "sgd",
    "update (Adam)": "adam",
}


@dataclass(frozen=True)
class Verdict:
    """A bar and what came of it.

    Attributes:
        bound: the figure to reach, at least.
        measured: None where the run has no such figure.
        against: the other party.
    """

    name: str
    bound: float
    unit: str
    measured: float | None = None
    against: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None if it was not measured."""
        return None if self.measured is None else self.measured >= self.bound

    @property
    def outcome(self) -> str:
        """``met, by a factor of 1.20``, or how it was missed, or that it was not measured."""
        if self.measured is None:
            return "not measured"
        if self.met:
            return f"met, by a factor of {self.measured / self.bound:.2f}"
        short = f"{self.bound / self.measured:.2f}" if self.measured > 0 else "infinity"
        return f"MISSED, by a factor of {short}"


def is_ours(name: str) -> bool:
    """Of a variant."""
    return BY_NAME[name].ours


def against_peers(results: dict[str, Any], case: str, own: str) -> tuple[float | None, str]:
    """How many times faster our variant is than the fastest peer, whichever way it works, and that peer."""
    times = results.get("networks", {}).get(case, {})
    peer = fastest(times, lambda name: not is_ours(name))
    if peer is None or not times.get(own):
        return None, ""
    return statistics.median(times[peer]) / statistics.median(times[own]), BY_NAME[peer].title


def rates(results: dict[str, Any], case: str, members: int) -> dict[str, float]:
    """Members times steps a second, by variant. Networks that run one after another keep the rate of one."""
    found = {}
    for name, times in results.get("populations", {}).get(case, {}).items():
        alone = name not in ("population", "vmap", "vmap-graph", "vmap-compiled")
        found[name] = (1 if alone else members) / statistics.median(times)
    return found


def against_others(results: dict[str, Any], case: str, members: int, together: bool) -> tuple[float | None, str]:
    """Our rate over that of the fastest PyTorch run, one after another, or over the fastest vmap."""
    found = rates(results, case, members)
    others = {n: rate for n, rate in found.items() if n != "population" and n.startswith("vmap") == together}
    if "population" not in found or not others:
        return None, ""
    best = max(others, key=others.__getitem__)
    return found["population"] / others[best], BY_NAME[best].title


def share(results: dict[str, Any], name: str) -> float | None:
    """Of the copy bandwidth, what a kernel reaches: its launches alone where there are any."""
    kernels = results.get("kernels", {})
    record, rate = kernels.get("records", {}).get(name, {}), kernels.get("copy", {}).get("rate")
    times = record.get("alone") or record.get("whole")
    return record["moved"] / statistics.median(times) / rate if times and rate else None


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Every bar."""
    networks = [("B", 2.0), ("C", 2.0), ("E", 1.0)]
    found = [
        Verdict(f"{case}, compiled", bound, "x the fastest peer", *against_peers(results, case, "compiled"))
        for case, bound in networks
    ]
    many = results.get("bar_members", 256)
    case = f"{many} x B"
    found += [
        Verdict(f"{many} members of B", 50.0, "x one after another", *against_others(results, case, many, False)),
        Verdict(f"{many} members of B", 2.0, "x vmap", *against_others(results, case, many, True)),
    ]
    return found + [Verdict(name, 0.8, "of the copy bandwidth", share(results, key)) for name, key in FUSED.items()]
