"""Who takes part, and which of them this environment can run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.contestants.base import Contestant


@dataclass(frozen=True)
class Entry:
    """A row of the table of contestants.

    Attributes:
        name, title: on the command line, and in tables and plots.
        factory: "module:class" in this package, made in the worker.
        needs: the module that must be installed.
        ours: whether it is what the benchmark is about.
        threads: whose decision the number of threads is.
        note: what differs from the common task.
        stepwise: whether the user's Python runs between steps; bars compare with stepwise peers only.
        trains: False for one that only predicts.
    """

    name: str
    title: str
    factory: str
    needs: str
    ours: bool = False
    threads: str = "its default"
    note: str = ""
    stepwise: bool = True
    trains: bool = True


_TUNED = "its default (all cores) or 1, whichever was faster here"
ENTRIES = (
    Entry("eager", "tinygrad_cr eager", "ours:Eager", "tinygrad_cr", ours=True),
    Entry(
        "compiled",
        "tinygrad_cr compiled",
        "ours:Compiled",
        "tinygrad_cr",
        ours=True,
        note="50 steps a call, as the Trainer trains: learning rates are set and losses kept for each step",
    ),
    Entry(
        "population",
        "tinygrad_cr, all members at once",
        "ours:Population",
        "tinygrad_cr",
        ours=True,
        note="populations only: a step of one of 32 members; 50 steps of all of them are one call",
    ),
    Entry("pytorch", "PyTorch eager", "torch:Eager", "torch", threads=_TUNED),
    Entry("torch-compile", "torch.compile", "torch:Compiled", "torch", threads=_TUNED),
    Entry("jax", "JAX jit", "jax:Step", "jax", threads="its default (all cores)"),
    Entry(
        "jax-scan",
        "JAX, epoch in one scan",
        "jax:Scan",
        "jax",
        threads="its default (all cores)",
        note="a whole epoch is one compiled program: nothing can be seen or changed between steps",
        stepwise=False,
    ),
    Entry("sklearn", "scikit-learn", "sklearn:Classifier", "sklearn", threads=_TUNED, note="has no dropout"),
    Entry(
        "numpy",
        "NumPy loop",
        "numpy:Loop",
        "numpy",
        threads="its default (all cores)",
        note="inference only",
        trains=False,
    ),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}
PEERS = tuple(entry.name for entry in ENTRIES if not entry.ours)


def missing(entry: Entry) -> str | None:
    """Why this contestant cannot take part here, or None. Imports no heavy peer."""
    if importlib.util.find_spec(entry.needs) is None:
        return f"{entry.needs} is not installed"
    if entry.name == "compiled" and not callable(getattr(importlib.import_module("tinygrad_cr"), "compile", None)):
        return "this version of tinygrad_cr has no compile()"
    return None


def make(name: str) -> Contestant:
    """The contestant itself; imports its library."""
    module, _, kind = BY_NAME[name].factory.partition(":")
    factory: Callable[[], Any] = getattr(importlib.import_module(f"bench.contestants.{module}"), kind)
    contestant: Contestant = factory()
    return contestant
