"""Schedules made of schedules: a warm-up in front of one, or several in turn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import integer, number
from tinygrad_cr.schedules.decays import ascending
from tinygrad_cr.schedules.formula import Formula, Schedule, between


@dataclass(frozen=True, eq=False, repr=False)
class warm_up(Formula):
    """Linear warm-up in front of any schedule (Goyal et al. 2017, "Accurate, large minibatch SGD").

    In the first `steps` steps the rate rises in a straight line to the first one of the schedule, which begins after
    them.

    Args:
        schedule: what follows.
        steps: how many the way up takes.
        start: the fraction of the schedule's first rate that step 0 has. Left out, 1 / (steps + 1): as much as each
            step adds, so that no step stands still.

    Raises:
        OptionError: no schedule, steps below 1, or start above 1.

    >>> schedule = warm_up(lambda step: 1.0, steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    """

    schedule: Schedule
    steps: int
    start: float | None = None

    def __post_init__(self) -> None:
        start = None if self.start is None else number("start", self.start)
        if start is not None and start > 1:
            raise OptionError(f"start is a fraction of the schedule's first rate and must be in [0, 1], got {start!r}")
        self._hold(
            schedule=_schedule("schedule", self.schedule), steps=integer("steps", self.steps, least=1), start=start
        )

    def __call__(self, step: int) -> Any:
        if step >= self.steps:
            return self.schedule(step - self.steps)
        start = 1 / (self.steps + 1) if self.start is None else self.start
        return self.schedule(0) * between(start, 1.0, step / self.steps)

    def minima(self, steps: int) -> list[int]:
        """Those of the schedule, as much later as the warm-up is long.

        >>> from tinygrad_cr.schedules import cosine_restarts
        >>> warm_up(cosine_restarts(0.1, t_0=10), steps=5).minima(30)
        [14, 24]
        """
        return _later(self.schedule, integer("steps", steps) - self.steps, self.steps)


@dataclass(frozen=True, eq=False, repr=False)
class chain(Formula):
    """Several schedules in turn. Each counts its steps from 0.

    Args:
        schedules: two or more, or one alone.
        starts: the first step of each schedule but the first, ascending.

    Raises:
        OptionError: no schedules, starts that do not ascend from 1, or not one fewer than schedules.

    >>> from tinygrad_cr.schedules import constant, cosine
    >>> schedule = chain([constant(0.1), cosine(0.1, steps=50)], starts=[100])
    >>> schedule(99), schedule(100), schedule(150)
    (0.1, 0.1, 0.0)
    """

    schedules: Sequence[Schedule]
    starts: Sequence[int]

    def __post_init__(self) -> None:
        if not isinstance(self.schedules, list | tuple) or not self.schedules:
            raise OptionError(f"schedules must be a list of schedules, got {self.schedules!r}")
        parts = tuple(_schedule(f"schedules[{i}]", part) for i, part in enumerate(self.schedules))
        starts = ascending("starts", self.starts)
        if len(starts) != len(parts) - 1:
            raise OptionError(
                f"starts must hold the first step of each schedule but the first: "
                f"{len(parts) - 1} for {len(parts)} schedules, got {list(starts)}"
            )
        self._hold(schedules=parts, starts=starts)

    def __call__(self, step: int) -> Any:
        part = bisect_right(self.starts, step)
        return self.schedules[part](step - self.starts[part - 1] if part else step)

    def minima(self, steps: int) -> list[int]:
        """Those of each schedule while its turn lasts.

        >>> from tinygrad_cr.schedules import constant, cosine_restarts
        >>> chain([cosine_restarts(0.1, t_0=10), constant(0.01)], starts=[20]).minima(100)
        [9, 19]
        """
        steps = integer("steps", steps)
        turns = zip(self.schedules, [0, *self.starts], [*self.starts, steps], strict=True)
        return [step for part, begin, end in turns for step in _later(part, min(end, steps) - begin, begin)]


def _schedule(name: str, value: Any) -> Any:
    if not callable(value):
        raise OptionError(f"{name} must be a schedule, a function of the step, got {value!r}")
    return value


def _later(schedule: Schedule, steps: int, begin: int) -> list[int]:
    """The minima of a schedule that begins at this step and has so many."""
    if steps < 1 or not isinstance(schedule, Formula):
        return []
    return [begin + step for step in schedule.minima(steps)]
