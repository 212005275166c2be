"""`Plan`: everything that decides which trials a search makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import integer
from tinygrad_cr.random import SEED_LIMIT
from tinygrad_cr.search.halving import Halving
from tinygrad_cr.search.sampling import grid_points, random_point, stage_seeds
from tinygrad_cr.search.spaces import Space
from tinygrad_cr.search.trial import Trial


@dataclass(frozen=True)
class Plan:
    """Which trials a search makes, in which stages, and for how long each.

    Attributes:
        space: of the first stage.
        stages: (trials, epochs) of each.
        seed: of points, weights, masks and shuffles.
        grid: the values of each parameter, for a grid instead of random points.
        halving: see `Halving`.

    Raises:
        OptionError: no stage, or a number outside its range.

    >>> plan = Plan(Space({"momentum": 0.5}), stages=((100, 5), (20, 10)))
    >>> Plan.from_settings(plan.settings()) == plan
    True
    """

    space: Space
    stages: Sequence[tuple[int, int]]
    seed: int = 0
    grid: dict[str, list[Any]] | None = field(default=None)
    halving: Halving | None = None

    def __post_init__(self) -> None:
        wanted = "it wants (trials, epochs) of each stage, such as [(100, 5), (100, 5)]"
        stages: Any = self.stages
        given = stages.tolist() if isinstance(stages, np.ndarray) else stages
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise OptionError(f"stages is no list, {wanted}; got {self.stages!r}")
        if not given:
            raise OptionError(f"stages is empty; {wanted}")
        for stage in given:
            if not isinstance(stage, tuple | list) or len(stage) != 2:
                raise OptionError(f"a stage is (trials, epochs), such as (100, 5); got {stage!r}")
            integer("the trials of a stage", stage[0], least=1)
            integer("the epochs of a stage", stage[1], least=1)
        object.__setattr__(self, "stages", tuple((int(trials), int(epochs)) for trials, epochs in given))
        integer("seed", self.seed, below=SEED_LIMIT)

    def trial(self, space: Space, stage: int, number: int) -> Trial:
        """A trial of a stage whose space is this one: a function of nothing else but the seed.

        >>> Plan(Space({"momentum": 0.5}), ((1, 1),)).trial(Space({"momentum": 0.5}), 1, 1).point
        {'momentum': 0.5}
        """
        point = self._grid[number - 1] if self.grid is not None else random_point(space, self.seed, stage, number)
        return Trial(stage, number, point, stage_seeds(self.seed, stage).training)

    def rungs(self, epochs: int) -> list[int]:
        """For how many epochs trials are trained at each rung; without halving there is one."""
        return [epochs] if self.halving is None else self.halving.rungs(epochs)

    def work(self) -> int:
        """All epochs of all trials, if none ends early.

        >>> Plan(Space({"momentum": 0.5}), ((9, 9),), halving=Halving(eta=3)).work()
        27
        """
        total = 0
        for trials, epochs in self.stages:
            entered = trials
            for length in self.rungs(epochs):
                total += entered * length
                entered = entered if self.halving is None else -(-entered // self.halving.eta)
        return total

    def settings(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "space": self.space.to_dict(),
            "stages": [list(stage) for stage in self.stages],
            "seed": self.seed,
            # As pairs: their order numbers the points.
            "grid": None if self.grid is None else [[name, values] for name, values in self.grid.items()],
            "halving": None if self.halving is None else dict(vars(self.halving)),
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Plan:
        """The inverse of `settings`; other entries are left out."""
        halving = settings["halving"]
        return cls(
            Space.from_dict(settings["space"]),
            tuple((trials, epochs) for trials, epochs in settings["stages"]),
            settings["seed"],
            None if settings["grid"] is None else dict(settings["grid"]),
            None if halving is None else Halving(**halving),
        )

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        return grid_points(self.grid or {})
