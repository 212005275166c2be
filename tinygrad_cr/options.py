"""Options checked where they come in: a number of the right kind, inside its range, or an error that says so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cr.errors import OptionError


def number(name: str, value: Any, *, below: float = math.inf, hint: str = "") -> float:
    """The value as a float in [0, below).

    Raises:
        OptionError: not a real number, NaN, or outside the range; `hint` is appended to the message.

    >>> number("lr", 1)
    1.0
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not 0 <= value < below:
        wanted = "a finite number >= 0" if below == math.inf else f"a number in [0, {below:g})"
        raise OptionError(f"{name} must be {wanted}, got {value!r}" + (f"; {hint}" if hint else ""))
    return float(value)


def numbers(
    name: str, value: Any, members: int | None, *, below: float = math.inf, hint: str = ""
) -> float | PerMember:
    """The value as a float in [0, below), or for a population as one number or one for each member.

    Raises:
        OptionError: as `number`, and a number of values that is not the number of members.

    >>> numbers("lr", 0.1, 3), numbers("lr", [0.1, 0.2], 2)
    (0.1, PerMember(0.1, 0.2))
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if members is None or not isinstance(value, list | tuple | np.ndarray):
        return number(name, value, below=below, hint=hint)
    values = PerMember(number(f"{name}[{m}]", one, below=below, hint=hint) for m, one in enumerate(value))
    if len(values) != members:
        raise OptionError(f"{name} has {len(values)} values for {members} members: give one number, or one a member")
    return values


class PerMember(tuple[Any, ...]):
    """A value of its own for each member of a population.

    >>> of_member(PerMember([0.1, 0.2]), 1), of_member(0.3, 1)
    (0.2, 0.3)
    """

    def __repr__(self) -> str:
        return f"PerMember{tuple.__repr__(self)}"


def of_member(value: Any, m: int) -> Any:
    """What a member takes of a value that is everybody's, or `PerMember`.

    >>> of_member(PerMember(["he", "xavier"]), 1), of_member("he", 1)
    ('xavier', 'he')
    """
    return value[m] if isinstance(value, PerMember) else value


def integer(name: str, value: Any, *, least: int = 0, below: int | None = None) -> int:
    """The value as an int of at least `least` and, if given, below `below`.

    Raises:
        OptionError: not an integer, or outside the range.

    >>> integer("epochs", 20, least=1)
    20
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (below is not None and value >= below):
        limit = "" if below is None else f" and below {below}"
        raise OptionError(f"{name} must be an integer of at least {least}{limit}, got {value!r}")
    return int(value)
