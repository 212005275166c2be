"""Searches without networks: a score as a function of the point, with noise that belongs to the trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinygrad_cr.random import Generator
from tinygrad_cr.search import LogUniform, Space, Uniform
from tinygrad_cr.search.explore import Explorer
from tinygrad_cr.search.grouping import GroupTask
from tinygrad_cr.search.ledger import Ledger
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.result import SearchResult
from tinygrad_cr.search.trial import Outcome, Row, make_row

Point = dict[str, Any]
Score = Callable[[Point], float | None]

SPACE = Space({"lr": LogUniform(1e-6, 1e-2), "reg": LogUniform(1e-4, 1e1), "momentum": Uniform(0.5, 0.9)})


def objective(score: Score, noise: float = 0.0) -> Callable[[GroupTask], list[Row]]:
    """What trains groups, for an `Explorer`: a score of None is a divergence."""

    def run(task: GroupTask) -> list[Row]:
        rows = []
        for trial in task.trials:
            value = score(trial.point)
            if value is None:
                outcome = Outcome("diverged", 0)
            else:
                error = noise * float(trial.weights().normal((1,))[0])
                outcome = Outcome("finished", task.epochs, value + error, 1.0, value, 1.0)
            rows.append(make_row(trial, outcome, trials=task.stage_trials, epochs=task.stage_epochs, rung=task.rung))
        return rows

    return run


def explore(score: Score, space: Space = SPACE, noise: float = 0.0, **options: Any) -> SearchResult:
    """A search of one stage of 100 trials unless `options` of the `Plan` say otherwise."""
    plan = Plan(space, **{"stages": ((100, 5),)} | options)
    return Explorer(plan, objective(score, noise), Ledger(None, {})).explore()


def peak(**places: float) -> Score:
    """A score that falls off with the square of the distance from places, in parts of the ranges of `SPACE`.

    0 is the low end of a range, 1 the high one; a place may lie outside.
    """

    def score(point: Point) -> float:
        return 1 - sum((SPACE.ranges[name].position(point[name]) - place) ** 2 for name, place in places.items())

    return score


def place(name: str, part: float) -> float:
    """The value at a part of a range of `SPACE`; the part may lie outside 0 to 1."""
    low, high = SPACE[name].low, SPACE[name].high
    if isinstance(SPACE[name], LogUniform):
        return float(math.exp(math.log(low) + part * math.log(high / low)))
    return float(low + part * (high - low))


def uniforms(seed: int, n: int) -> list[float]:
    """Plain uniform numbers for a test."""
    return list(Generator(seed).uniform((n,)).tolist())
