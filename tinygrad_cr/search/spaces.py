"""Search spaces: for each hyperparameter a range, a list of choices, or a fixed value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cr.errors import OptionError, TinygradError, unknown_name
from tinygrad_cr.search.parameters import PARAMETERS


@dataclass(frozen=True)
class LogUniform:
    """Numbers whose logarithm is uniform: each decade between `low` and `high` is equally likely.

    For learning rates and penalties, which act by factors (Bergstra and Bengio 2012).

    Raises:
        OptionError: a range that is empty or inverted, or reaches 0.

    >>> round(LogUniform(1e-6, 1e-2).at(0.5), 9)
    0.0001
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self)
        if self.low <= 0:
            raise OptionError(
                f"LogUniform({self.low!r}, {self.high!r}): a logarithmic range cannot reach 0 and begins above it; "
                "begin with the smallest value that makes a difference, or use Uniform"
            )

    def at(self, u: float) -> float:
        """The value below which a part u of the range lies."""
        if u >= 1:
            return self.high
        return min(max(self.low * math.exp(u * math.log(self.high / self.low)), self.low), self.high)

    def position(self, value: float) -> float:
        """The inverse of `at`: 0 at the low end, 1 at the high one."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def grid(self, points: int) -> list[float]:
        """So many values at equal factors, both ends among them.

        >>> [round(value, 6) for value in LogUniform(1e-4, 1e-2).grid(3)]
        [0.0001, 0.001, 0.01]
        """
        return [self.at(i / (points - 1)) for i in range(points)] if points > 1 else [self.at(0.5)]


@dataclass(frozen=True)
class Uniform:
    """Numbers between `low` and `high`, all equally likely.

    Raises:
        OptionError: a range that is empty or inverted.

    >>> Uniform(0.5, 0.9).at(0.5)
    0.7
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self)

    def at(self, u: float) -> float:
        """The value below which a part u of the range lies."""
        if u >= 1:
            return self.high
        return min(max(self.low + u * (self.high - self.low), self.low), self.high)

    def position(self, value: float) -> float:
        """The inverse of `at`: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def grid(self, points: int) -> list[float]:
        """So many values at equal distances, both ends among them.

        >>> Uniform(0.0, 1.0).grid(3)
        [0.0, 0.5, 1.0]
        """
        return [self.at(i / (points - 1)) for i in range(points)] if points > 1 else [self.at(0.5)]


@dataclass(frozen=True)
class IntUniform:
    """Whole numbers from `low` to `high`, both included, all equally likely.

    Raises:
        OptionError: ends that are not whole or negative, or a range that is empty or inverted.

    >>> IntUniform(1, 6).at(0.99)
    6
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int | np.integer) or end < 0:
                raise OptionError(
                    f"IntUniform wants two whole numbers that are not negative, got ({self.low!r}, {self.high!r}); "
                    "other numbers have Uniform"
                )
        _check_range(self)

    def at(self, u: float) -> int:
        """The value below which a part u of the range lies."""
        return min(self.low + int(u * (self.high - self.low + 1)), self.high)

    def position(self, value: float) -> float:
        """The middle of what `at` turns into this value: above 0 at the low end, below 1 at the high one."""
        return (value - self.low + 0.5) / (self.high - self.low + 1)

    def grid(self, points: int) -> list[int]:
        """At most so many values at about equal distances, both ends among them.

        >>> IntUniform(1, 4).grid(10), IntUniform(10, 100).grid(3)
        ([1, 2, 3, 4], [10, 55, 100])
        """
        return sorted({round(value) for value in Uniform(self.low, self.high).grid(points)})


@dataclass(frozen=True)
class Choice:
    """One of some values, all equally likely: a list of them, or an array.

    Raises:
        OptionError: no values, one twice, or one that no parameter can have.

    >>> Choice(["sgd", "adam"]).at(0.6)
    'adam'
    """

    values: Sequence[Any]

    def __post_init__(self) -> None:
        values: Any = self.values
        given = values.tolist() if isinstance(values, np.ndarray) else values
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise OptionError(f"Choice wants a list of values, got {self.values!r}")
        object.__setattr__(self, "values", tuple(_hashable(value) for value in given))
        if not self.values:
            raise OptionError("Choice([]) is empty: it wants at least one value")
        if len(set(self.values)) < len(self.values):
            raise OptionError(f"Choice wants each value once, got {list(self.values)!r}")

    def at(self, u: float) -> Any:
        """The value that stands where a part u of the list lies before it."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def grid(self, points: int) -> list[Any]:
        """All values, however many points are wanted.

        >>> Choice([1, 2, 3]).grid(2)
        [1, 2, 3]
        """
        return list(self.values)


Range = LogUniform | Uniform | IntUniform
Dimension = Range | Choice
KINDS: dict[str, type[Dimension]] = {
    "log-uniform": LogUniform,
    "uniform": Uniform,
    "int-uniform": IntUniform,
    "choice": Choice,
}


class Space(Mapping[str, Any]):
    """What is searched: names of hyperparameters with a `Dimension` each, or with a value that stays.

    What is not named has the value in `parameters.PARAMETERS`.

    Args:
        dimensions: for any of lr, reg, momentum, dropout, lr_decay, batch_size, hidden (a list of widths, or the width
            of a single layer), optimizer and init.

    Raises:
        OptionError: no names, one that does not exist (the nearest is given), or a value that a parameter cannot have.

    >>> space = Space({"lr": LogUniform(1e-4, 1e-1), "hidden": Choice([50, [100, 50]]), "momentum": 0.9})
    >>> space["lr"].high, space.free
    (0.1, ['lr', 'hidden'])
    >>> Space.from_dict(space.to_dict()) == space
    True
    """

    def __init__(self, dimensions: Mapping[str, Any]) -> None:
        if not isinstance(dimensions, Mapping) or not dimensions:
            raise OptionError(
                f"a space wants ranges by name, such as {{'lr': LogUniform(1e-4, 1e-1)}}; got {dimensions!r}"
            )
        self._dimensions = {name: _checked(name, dimension) for name, dimension in dimensions.items()}

    @property
    def free(self) -> list[str]:
        """The names whose values vary."""
        return [name for name, dimension in self.items() if isinstance(dimension, Dimension)]

    @property
    def ranges(self) -> dict[str, Range]:
        """The dimensions that have a low and a high end."""
        return {name: dimension for name, dimension in self.items() if isinstance(dimension, Range)}

    def replace(self, **dimensions: Any) -> Space:
        """The space with other dimensions under some of its names.

        >>> Space({"lr": 0.1, "reg": 0.0}).replace(lr=0.2)["lr"]
        0.2
        """
        return Space(self._dimensions | dimensions)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {name: _to_json(dimension) for name, dimension in self.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Space:
        """The inverse of `to_dict`."""
        return cls({name: _from_json(value) for name, value in values.items()})

    def __getitem__(self, name: str) -> Any:
        return self._dimensions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dimensions)

    def __len__(self) -> int:
        return len(self._dimensions)

    def __repr__(self) -> str:
        return f"Space({self._dimensions!r})"


def position(dimension: Range, value: Any) -> float:
    """Where a value of a row lies in a range, 0 at its low end; rows hold the width of a single layer as a list.

    >>> position(Uniform(0.0, 2.0), 1.0), position(IntUniform(10, 11), [10])
    (0.5, 0.25)
    """
    return dimension.position(value[0] if isinstance(value, list | tuple) else value)


def describe(dimension: Any) -> str:
    """A dimension in a few words.

    >>> describe(LogUniform(1e-6, 1e-3)), describe(IntUniform(10, 50)), describe(0.9)
    ('1.000000e-06 to 1.000000e-03', '10 to 50', '0.9')
    """
    if isinstance(dimension, LogUniform):
        return f"{dimension.low:e} to {dimension.high:e}"
    if isinstance(dimension, Range):
        return f"{dimension.low:.6g} to {dimension.high:.6g}"
    if isinstance(dimension, Choice):
        return "one of " + ", ".join(str(list(v) if isinstance(v, tuple) else v) for v in dimension.values)
    return str(dimension)


def _checked(name: str, dimension: Any) -> Any:
    """The dimension, its values in the form that rows have."""
    if name not in PARAMETERS:
        raise unknown_name("hyperparameter", name, PARAMETERS)
    parameter = PARAMETERS[name]
    if isinstance(dimension, Choice):
        values = [parameter.check(list(v) if isinstance(v, tuple) else v) for v in dimension.values]
        return Choice(values)
    if not isinstance(dimension, Range):
        return parameter.check(dimension)
    if parameter.kind == "name":
        raise OptionError(f"{name} is a name and has no {type(dimension).__name__}: use Choice([...]), or one value")
    if parameter.kind == "whole" and not isinstance(dimension, IntUniform):
        raise OptionError(
            f"{name} is a whole number and has no {type(dimension).__name__}: "
            f"use IntUniform({max(1, math.floor(dimension.low))}, {max(2, math.ceil(dimension.high))}) or Choice([...])"
        )
    try:
        for end in (dimension.low, dimension.high):
            parameter.check(end)
    except TinygradError as error:
        raise OptionError(f"the range of {name}, {dimension}: {error}") from None
    return dimension


def _check_range(dimension: Range) -> None:
    low, high, name = dimension.low, dimension.high, type(dimension).__name__
    kinds = int | float | np.integer | np.floating
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, kinds) or not math.isfinite(end):
            raise OptionError(f"{name} wants two finite numbers, got ({low!r}, {high!r})")
    if low == high:
        raise OptionError(f"{name}({low!r}, {high!r}) is empty: give a single value as it is, without a range")
    if low > high:
        raise OptionError(f"{name}({low!r}, {high!r}) is inverted: the low end comes first, {name}({high!r}, {low!r})")
    # Plain numbers, which JSON can hold.
    kind = int if isinstance(dimension, IntUniform) else float
    object.__setattr__(dimension, "low", kind(low))
    object.__setattr__(dimension, "high", kind(high))


def _hashable(value: Any) -> Any:
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    found = tuple(plain) if isinstance(plain, list | tuple) else plain
    try:
        hash(found)
    except TypeError:
        raise OptionError(
            f"Choice wants numbers, names or lists of widths, such as Choice([50, [100, 50]]); got {value!r}"
        ) from None
    return found


def _to_json(dimension: Any) -> Any:
    for kind, cls in KINDS.items():
        if isinstance(dimension, cls):
            return {"kind": kind} | dict(vars(dimension))
    return dimension


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if kind not in KINDS:
        raise unknown_name("kind of range", kind, KINDS)
    return KINDS[kind](**{key: each for key, each in value.items() if key != "kind"})
