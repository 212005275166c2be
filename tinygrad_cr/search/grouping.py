"""Trials that are trained together: those of one shape, as many as memory allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tinygrad_cr.search.parameters import complete
from tinygrad_cr.search.trial import Shape, Trial

GROUP_SIZE = 32
"""Enough for the members of a population to share what a step costs; and a search cut short loses one group."""
TASK_SIZE = 16
"""With an executor, whose workers all want a share of the groups."""
MEMORY = 2**30
"""Bytes that the parameters of a group may take."""
COPIES = 6
"""Of all parameters: themselves, their gradients, two moments of Adam, the best so far, and a copy in the making."""


@dataclass(frozen=True)
class GroupTask:
    """Trials of one shape that are trained together: what a worker gets.

    Attributes:
        trials: of one stage.
        epochs: that these trials are trained now.
        stage_trials, stage_epochs: how many the stage has in all.
        rung: of successive halving, from 1; None without.

    >>> GroupTask((Trial(1, 3, {"lr": 0.1}, 0), Trial(1, 5, {"lr": 0.2}, 0)), 5, 100, 5).key
    'stage 1, trials 3, 5'
    """

    trials: tuple[Trial, ...]
    epochs: int
    stage_trials: int
    stage_epochs: int
    rung: int | None = None

    @property
    def key(self) -> str:
        """What messages call it."""
        numbers = ", ".join(str(trial.number) for trial in self.trials)
        rung = "" if self.rung is None else f", rung {self.rung}"
        return f"stage {self.trials[0].stage}{rung}, {'trial' if len(self.trials) == 1 else 'trials'} {numbers}"


def by_shape(trials: Sequence[Trial], size: int, ends: tuple[int, int]) -> Iterator[tuple[Trial, ...]]:
    """Groups of one shape, of at most `size` trials and about equal, in the order of their first trials.

    Which trials share a group changes no result.

    Args:
        ends: how many features and classes there are: wide networks make smaller groups.

    >>> trials = [Trial(1, i, {"hidden": [10 + i % 2]}, 0) for i in range(1, 6)]
    >>> [[trial.number for trial in group] for group in by_shape(trials, 2, (4, 3))]
    [[1, 3], [5], [2, 4]]
    """
    shapes: dict[Shape, list[Trial]] = {}
    for trial in trials:
        shapes.setdefault(trial.shape(), []).append(trial)
    for same in shapes.values():
        most = min(size, largest_group(same[0], ends))
        groups = math.ceil(len(same) / most)
        cuts = [math.ceil(len(same) * i / groups) for i in range(groups + 1)]
        yield from (tuple(same[a:b]) for a, b in pairwise(cuts))


def largest_group(trial: Trial, ends: tuple[int, int]) -> int:
    """How many networks like this one fit into `MEMORY`; at least one.

    >>> largest_group(Trial(1, 1, {"hidden": [10_000]}, 0), (784, 10))
    5
    """
    widths = [ends[0], *complete(trial.point)["hidden"], ends[1]]
    parameters: int = sum((a + 1) * b for a, b in pairwise(widths))
    return max(1, MEMORY // (4 * COPIES * parameters))
