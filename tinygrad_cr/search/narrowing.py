"""From coarse to fine: the ranges of the next stage lie around the best trials of the last one."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_cr.errors import OptionError
from tinygrad_cr.search.edges import best_count, chance
from tinygrad_cr.search.sampling import as_value
from tinygrad_cr.search.spaces import Choice, Dimension, IntUniform, Range, Space, describe, position
from tinygrad_cr.search.trial import Row, ranked

LEAST_WIDTH = 0.02
"""No range becomes narrower than this part of itself in one stage."""
FEWEST = 3
"""Fewer good trials have no spread that says anything: ranges stay as they are."""
RARE = 0.05
"""A choice that none of the best trials made is dropped if chance would leave it out less often than this."""


def narrowed(space: Space, rows: Sequence[Row]) -> Space:
    """The space of the next stage, within the old one.

    A range goes from the lowest to the highest of the best trials, in the logarithm for LogUniform, and beyond both by
    what k uniform draws fall short of the ends of their range, 1/(k - 1) of their spread: a parameter that does not
    matter keeps about its range, as its best values are spread like all others. With fewer than 3 best trials, ranges
    stay as they are. Choices that the best trials avoid are dropped.

    Args:
        rows: of all trials of the stage.

    >>> from tinygrad_cr.search.spaces import Uniform
    >>> rows = [{"trial": i, "stage": 1, "status": "finished", "val_accuracy": 1 - abs(i / 40 - 0.5),
    ...          "val_loss": 1.0, "momentum": i / 40} for i in range(40)]
    >>> space = narrowed(Space({"momentum": Uniform(0.0, 0.99)}), rows)
    >>> round(space["momentum"].low, 3), round(space["momentum"].high, 3)
    (0.425, 0.575)
    """
    best = ranked(rows)[: best_count(len(rows))]
    if not best:
        raise OptionError("no trial has a score: there is nothing to narrow the ranges around")
    changes: dict[str, Dimension] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Range) and len(best) >= FEWEST:
            changes[name] = _range(dimension, [position(dimension, row[name]) for row in best])
        elif isinstance(dimension, Choice):
            changes[name] = _choice(name, dimension, rows, best)
    return space.replace(**changes)


def show_ranges(before: Space, after: Space) -> list[str]:
    """The new ranges beside the old ones, a line each.

    >>> from tinygrad_cr.search.spaces import Uniform
    >>> show_ranges(Space({"momentum": Uniform(0.5, 0.9)}), Space({"momentum": Uniform(0.6, 0.7)}))
    ['momentum: 0.6 to 0.7 (was 0.5 to 0.9)']
    """
    lines = []
    for name in before.free:
        new, old = describe(after[name]), describe(before[name])
        lines.append(f"{name}: {new}" + (" (as before)" if new == old else f" (was {old})"))
    return lines


def _range(dimension: Range, positions: Sequence[float]) -> Range:
    low, high = min(positions), max(positions)
    margin = (high - low) / max(1, len(positions) - 1)
    margin = max(margin, (LEAST_WIDTH - (high - low)) / 2)
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    if not isinstance(dimension, IntUniform):
        return type(dimension)(dimension.at(low), dimension.at(high))
    first, last = dimension.at(low), dimension.at(high)
    if first == last:
        first, last = max(dimension.low, first - 1), min(dimension.high, last + 1)
    return IntUniform(first, last)


def _choice(name: str, dimension: Choice, rows: Sequence[Row], best: Sequence[Row]) -> Choice:
    def avoided(value: object) -> bool:
        made = sum(row[name] == value for row in rows)
        chosen = any(row[name] == value for row in best)
        return not chosen and 1 - chance(len(best), made, len(rows), 1) < RARE

    return Choice([value for value in dimension.values if not avoided(as_value(name, value))])
