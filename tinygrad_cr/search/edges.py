"""Do the best trials crowd an edge of a range? Then the best value probably lies beyond it (CS231n: "why is this
worrying?").

For each range: do most of the best trials lie in the outer fifth, on one side, and would that be a rare accident if
the parameter did not matter? The second question is answered exactly: were the best trials any of all, the number of
them in that fifth would follow the hypergeometric distribution. So grids, whose points stand at the edges by design,
and ranges of few whole numbers are judged by what was tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.search.parameters import PARAMETERS
from tinygrad_cr.search.spaces import IntUniform, LogUniform, Range, Space, position
from tinygrad_cr.search.trial import Row, ranked

ZONE = 0.2
"""The outer part of a range, on each side; of its logarithm for LogUniform."""
PART, FEWEST = 0.1, 5
"""The best tenth of the trials is looked at, and no fewer than so many."""
MOST = 0.7
"""So many of them have to lie in the zone."""
CHANCE = 0.01
"""And so small must be the probability that they do by chance."""
DECADE = 10.0


@dataclass(frozen=True)
class Edge:
    """An edge that the best trials crowd.

    Attributes:
        parameter: whose range it is.
        side: "low" or "high".
        bound: the edge.
        crowd, best: so many of so many best trials lie in the zone next to it.
        suggestion: where to move it.
        stage: in which it was seen.

    >>> print(Edge("lr", "high", 1e-3, 9, 10, 1e-2))
    stage 1: 9 of the 10 best trials lie near the high edge of lr, 0.001: better values may lie beyond; move it to 0.01
    """

    parameter: str
    side: str
    bound: float
    crowd: int
    best: int
    suggestion: float
    stage: int = 1

    def __str__(self) -> str:
        return (
            f"stage {self.stage}: {self.crowd} of the {self.best} best trials lie near the {self.side} edge of "
            f"{self.parameter}, {self.bound:.6g}: better values may lie beyond; move it to {self.suggestion:.6g}"
        )


def crowded_edges(space: Space, rows: Sequence[Row], stage: int = 1) -> list[Edge]:
    """The edges that the best trials of a stage crowd and that can be moved.

    Args:
        rows: of all trials of the stage, also those that diverged.

    >>> from tinygrad_cr.search.spaces import LogUniform
    >>> rows = [{"trial": i, "stage": 1, "status": "finished", "val_accuracy": i / 40, "val_loss": 1.0,
    ...          "lr": 10 ** (-6 + 3 * i / 40)} for i in range(1, 40)]
    >>> [(edge.side, edge.suggestion) for edge in crowded_edges(Space({"lr": LogUniform(1e-6, 1e-3)}), rows)]
    [('high', 0.01)]
    """
    best = ranked(rows)[: best_count(len(rows))]
    found = []
    for name, dimension in space.ranges.items():
        for side in ("low", "high"):
            crowd = _crowd(dimension, [row[name] for row in rows], [row[name] for row in best], side)
            bound = dimension.low if side == "low" else dimension.high
            suggestion = moved(name, dimension, side)
            if crowd and suggestion != bound:
                found.append(Edge(name, side, bound, crowd, len(best), suggestion, stage))
    return found


def best_count(trials: int) -> int:
    """How many of so many trials are the best ones.

    >>> best_count(100), best_count(30), best_count(6)
    (10, 5, 3)
    """
    return max(1, min(max(FEWEST, math.ceil(PART * trials)), trials // 2))


def chance(drawn: int, marked: int, total: int, at_least: int) -> float:
    """The probability that at least so many of the drawn are marked, if any are as likely as any others.

    The hypergeometric distribution.

    >>> round(chance(drawn=5, marked=20, total=100, at_least=4), 4)
    0.0054
    """
    ways = range(at_least, min(drawn, marked) + 1)
    favourable = sum(math.comb(marked, i) * math.comb(total - marked, drawn - i) for i in ways)
    return favourable / math.comb(total, drawn)


def moved(name: str, dimension: Range, side: str) -> float:
    """A bound further out: by half of the range, but at most a decade; never out of what a parameter may be.

    >>> from tinygrad_cr.search.spaces import Uniform
    >>> moved("lr", LogUniform(1e-4, 1e-3), "high"), moved("dropout", Uniform(0.0, 0.5), "low")
    (0.003, 0.0)
    """
    parameter = PARAMETERS[name]
    if isinstance(dimension, LogUniform):
        factor = min(DECADE, math.sqrt(dimension.high / dimension.low))
        wanted = dimension.high * factor if side == "high" else dimension.low / factor
    else:
        step = (dimension.high - dimension.low) / 2
        wanted = dimension.high + step if side == "high" else dimension.low - step
    bound = dimension.high if side == "high" else dimension.low
    if side == "high" and wanted >= parameter.most:
        wanted = (bound + parameter.most) / 2 if parameter.open else parameter.most
    wanted = max(wanted, parameter.least)
    if isinstance(dimension, IntUniform):
        return max(math.ceil(wanted), bound) if side == "high" else max(int(parameter.least), math.floor(wanted))
    rounded = float(f"{wanted:.1g}")
    beyond = bound < rounded < parameter.most if side == "high" else parameter.least < rounded < bound
    return rounded if beyond else wanted


def _crowd(dimension: Range, tried: Sequence[Any], best: Sequence[Any], side: str) -> int:
    """How many of the best lie in the zone; 0 if that means nothing."""

    def depth(value: Any) -> float:
        where = position(dimension, value)
        return where if side == "low" else 1 - where

    zone = sum(depth(value) <= ZONE for value in tried)
    crowd = sum(depth(value) <= ZONE for value in best)
    if not best or crowd < MOST * len(best) or depth(best[0]) > 2 * ZONE:
        return 0
    return crowd if chance(len(best), zone, len(tried), crowd) <= CHANCE else 0
