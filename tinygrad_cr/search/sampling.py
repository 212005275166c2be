"""Where trials lie: points of a space as a pure function of the seed, the stage and the number of the trial.

So the same seed gives the same trials, whoever trains them and in whatever order, and a search that was cut short knows
what is left to do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr.errors import OptionError, unknown_name
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator
from tinygrad_cr.search.parameters import PARAMETERS
from tinygrad_cr.search.spaces import Choice, Dimension, Range, Space

LARGEST_GRID = 100_000


class Seeds(NamedTuple):
    """The seeds of a stage: of the points of its trials, and of their training; the latter is even."""

    points: int
    training: int


def stage_seeds(seed: int, stage: int) -> Seeds:
    """Seeds that are different for each stage of each search.

    >>> stage_seeds(0, 1) == stage_seeds(0, 1), stage_seeds(0, 1) == stage_seeds(0, 2)
    (True, False)
    """
    first, second, third, _ = Generator(seed, stream=stage).words(1)[0].tolist()
    return Seeds(first | (second >> 1) << 32, third & ~1)


def random_point(space: Space, seed: int, stage: int, number: int) -> dict[str, Any]:
    """The point of a trial, drawn from the space.

    A parameter's random number does not depend on what else the space holds: with another range for momentum, a
    search tries the same learning rates.

    >>> from tinygrad_cr.search.spaces import LogUniform
    >>> space = Space({"lr": LogUniform(1e-4, 1e-1)})
    >>> random_point(space, 0, 1, 7) == random_point(space, 0, 1, 7)
    True
    """
    u = Generator(stage_seeds(seed, stage).points, stream=number).uniform((len(PARAMETERS),)).tolist()
    places = dict(zip(PARAMETERS, u, strict=True))
    return {
        name: as_value(name, dimension.at(places[name])) if isinstance(dimension, Dimension) else dimension
        for name, dimension in space.items()
    }


def grid_values(space: Space, points: int | Mapping[str, int | Sequence[Any]]) -> dict[str, list[Any]]:
    """The values of each parameter on a grid, in the form that rows have.

    Args:
        points: how many for each range, evenly spaced (in the logarithm for LogUniform) with both ends; or, by name,
            how many or which ones. A Choice has all its values, whatever is said here.

    Raises:
        OptionError: a name that the space does not hold, a range without a count, a value outside its range, or a
            grid of more than 100,000 points.

    >>> from tinygrad_cr.search.spaces import Uniform
    >>> grid_values(Space({"momentum": Uniform(0.5, 0.9), "reg": 0.1}), 2)
    {'momentum': [0.5, 0.9], 'reg': [0.1]}
    """
    wanted = dict(points) if isinstance(points, Mapping) else dict.fromkeys(space.ranges, points)
    for name in wanted:
        if name not in space:
            raise unknown_name("hyperparameter of this space", name, space)
    values: dict[str, list[Any]] = {}
    for name, dimension in space.items():
        given = wanted.get(name)
        given = given.tolist() if isinstance(given, np.ndarray) else given
        if not isinstance(dimension, Dimension):
            values[name] = [dimension]
        elif isinstance(given, list | tuple):
            values[name] = _given(name, dimension, given)
        elif isinstance(dimension, Choice):
            values[name] = [as_value(name, value) for value in dimension.values]
        elif name in wanted:
            count = integer(f"the points of {name}", given, least=1, below=LARGEST_GRID + 1)
            values[name] = [as_value(name, value) for value in dimension.grid(count)]
        else:
            raise OptionError(f"points says nothing about {name}: add how many, {{{name!r}: 5}}, or a list of values")
    size = math.prod(len(each) for each in values.values())
    if size > LARGEST_GRID:
        raise OptionError(
            f"this grid has {size:,} points, more than {LARGEST_GRID:,}: take fewer for each range, or random_search, "
            "which tries as many as you say"
        )
    return values


def grid_points(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations; the last parameter changes first.

    >>> grid_points({"lr": [0.1, 0.2], "reg": [0.0]})
    [{'lr': 0.1, 'reg': 0.0}, {'lr': 0.2, 'reg': 0.0}]
    """
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def as_value(name: str, value: Any) -> Any:
    """A value in the form that rows have: hidden is a list of widths, whichever way it was given.

    >>> as_value("hidden", 50), as_value("lr", 0.5)
    ([50], 0.5)
    """
    return PARAMETERS[name].check(list(value) if isinstance(value, tuple) else value)


def _given(name: str, dimension: Dimension, wanted: Sequence[Any]) -> list[Any]:
    values = [as_value(name, value) for value in wanted]
    if not values:
        raise OptionError(f"the points of {name} are an empty list")
    if isinstance(dimension, Range):
        plain = [value[0] if isinstance(value, list) else value for value in values]
        outside = [value for value in plain if not dimension.low <= value <= dimension.high]
        if outside:
            raise OptionError(f"the point {outside[0]!r} of {name} is outside its range, {dimension}")
    else:
        allowed = [as_value(name, value) for value in dimension.values]
        outside = [value for value in values if value not in allowed]
        if outside:
            raise OptionError(f"the point {outside[0]!r} of {name} is none of {allowed}")
    return values
