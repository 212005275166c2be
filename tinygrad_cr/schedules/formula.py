"""`Formula`: a schedule that knows its arguments; and the checks of arguments that may be vectors over members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import number

Schedule = Callable[[int], Any]
"""From the number of the step, counted from 0, to the learning rate: a float, or float64 [M] for M members."""

Rate = float | np.ndarray[Any, Any]
"""A number, or a vector [M] that holds one for each member of a population."""


@dataclass(frozen=True, eq=False, repr=False)
class Formula(ABC):
    """A schedule with a name and arguments: it can be compared, pickled and written down.

    It never changes and remembers nothing: the same step gives the same rate, in whatever order steps are asked for.
    With vectors [M] among its arguments it gives float64 [M]; member m gets the bits that its own numbers would give.

    >>> from tinygrad_cr.schedules import cosine
    >>> cosine(0.1, steps=100)
    cosine(lr=0.1, steps=100)
    >>> cosine(0.1, steps=100) == cosine(0.1, steps=100, low=0.0)
    True
    """

    @abstractmethod
    def __call__(self, step: int) -> Any:
        """The learning rate of this step: a float, or float64 [M]."""

    def minima(self, steps: int) -> list[int]:
        """Of a run of so many steps, those that end a cycle: there the rate is lowest. None, where there are no cycles.

        A cycle that the run does not finish does not count.
        """
        return []

    def config(self) -> dict[str, Any]:
        """Name and arguments as plain values, which JSON can hold; `from_config` gives the schedule back.

        Raises:
            OptionError: a part of it is a function of one's own, which has no name to go by.

        >>> from tinygrad_cr.schedules import step_decay
        >>> step_decay(0.1, 0.5, every=30).config()
        {'name': 'step_decay', 'lr': 0.1, 'decay': 0.5, 'every': 30}
        """
        return {"name": type(self).__name__} | {name: _plain(value) for name, value in self._arguments().items()}

    def _arguments(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _hold(self, **checked: Any) -> None:
        """Put checked arguments in the place of those that were given."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        default = {field.name: field.default for field in fields(self)}
        shown = [f"{name}={value!r}" for name, value in self._arguments().items() if not _same(value, default[name])]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Formula) or type(self) is not type(other):
            return NotImplemented
        return all(map(_same, self._arguments().values(), other._arguments().values()))

    def __hash__(self) -> int:
        values = self._arguments().values()
        return hash((type(self), *(tuple(v.tolist()) if isinstance(v, np.ndarray) else v for v in values)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled arrays forget that they are read-only; made anew, they are so again.
        return type(self), tuple(self._arguments().values())


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else bool(a == b)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Formula):
        return value.config()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if callable(value):
        raise OptionError(f"only the schedules of tinygrad_cr.schedules can be written down, got {value!r}")
    return value


def rate(name: str, value: Any) -> Any:
    """A finite number from 0 on as a float; or a vector of them as float64 [M], a copy that is read-only.

    Raises:
        OptionError: anything else.

    >>> rate("lr", 1), rate("lr", [0.1, 0.2])
    (1.0, array([0.1, 0.2]))
    """
    if not isinstance(value, np.ndarray | list | tuple):
        return number(name, value)
    try:
        given = np.array(value)
    except ValueError:
        given = np.empty(0)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iuf":
        raise OptionError(
            f"{name} must be a finite number >= 0, or a vector [M] that holds one for each member; got {value!r}"
        )
    rates = given.astype(np.float64)
    wrong = np.flatnonzero(~((rates >= 0) & (rates < np.inf)))
    if wrong.size:
        raise OptionError(f"{name} must be finite numbers >= 0, got {rates[wrong[0]].item()!r} for member {wrong[0]}")
    rates.flags.writeable = False
    return rates


def factor(name: str, value: Any) -> Any:
    """A number in (0, 1] as a float; or a vector of them as float64 [M].

    Raises:
        OptionError: anything else.

    >>> factor("decay", 1)
    1.0
    """
    checked = rate(name, value)
    if not np.all((checked > 0) & (checked <= 1)):
        raise OptionError(f"{name} is a factor and must be in (0, 1], got {value!r}; 1 means none")
    return checked


def same_members(**rates: Any) -> None:
    """Vectors over members are as long as each other.

    Raises:
        OptionError: they are not.

    >>> same_members(lr=np.ones(3), low=0.0)
    """
    counts = {name: len(value) for name, value in rates.items() if isinstance(value, np.ndarray)}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} for {count}" for name, count in counts.items())
        raise OptionError(f"vectors over members must be as long as each other, got {found}")


def low_and_high(low: Any, lr: Any) -> dict[str, Any]:
    """Both ends of a range of learning rates, checked.

    Raises:
        OptionError: no rates, vectors of different lengths, or a lowest rate above the highest.

    >>> low_and_high(0, 0.1)
    {'low': 0.0, 'lr': 0.1}
    """
    low, lr = rate("low", low), rate("lr", lr)
    same_members(lr=lr, low=low)
    wrong = np.flatnonzero(np.greater(low, lr))
    if wrong.size:
        m = wrong[0]
        at = f" for member {m}" if np.ndim(low) or np.ndim(lr) else ""
        ends = [float(np.ravel(end)[m if np.ndim(end) else 0]) for end in (low, lr)]
        raise OptionError(f"low is the lowest rate and must be at most lr, got low {ends[0]!r} and lr {ends[1]!r}{at}")
    return {"low": low, "lr": lr}


def between(start: Rate, end: Rate, part: float) -> Any:
    """So far from start to end: part 0 gives start, part 1 gives end, both to the bit.

    >>> between(0.1, 0.3, 1.0), between(0.0, 1.0, 0.25)
    (0.3, 0.25)
    """
    # start + part * (end - start) would miss the end by a rounding.
    return start * (1 - part) + end * part
