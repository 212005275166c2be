"""The hyperparameters that a search knows: what each may be, and what it is where nobody says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.errors import OptionError, unknown_name
from tinygrad_cr.nn.init import standard_deviation
from tinygrad_cr.optim import OPTIMIZERS
from tinygrad_cr.options import integer, number


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter.

    Attributes:
        default: its value where the space does not name it.
        check: gives a value in the form that rows have, or raises OptionError.
        kind: "real", "whole" or "name": which ranges it may have.
        shared: whether all members of a population have it in common.
        least, most: no value lies beyond these.
        open: whether `most` itself is no value either.
    """

    default: Any
    check: Callable[[Any], Any]
    kind: str = "real"
    shared: bool = False
    least: float = 0.0
    most: float = math.inf
    open: bool = False


def widths(value: Any) -> list[int]:
    """The widths of the hidden layers, from a list or from the width of a single one; [] for none.

    >>> widths(50), widths([100, 50])
    ([50], [100, 50])

    Raises:
        OptionError: neither.
    """
    layers = list(value) if isinstance(value, list | tuple) else [value]
    return [integer("a width in hidden", width, least=1) for width in layers]


def _decay(value: Any) -> float:
    if not 0 < number("lr_decay", value) <= 1:
        raise OptionError(f"lr_decay is the factor per epoch and must be in (0, 1], got {value!r}; 1 means none")
    return float(value)


def _optimizer(value: Any) -> str:
    if not isinstance(value, str) or value not in OPTIMIZERS:
        raise unknown_name("optimizer", value, OPTIMIZERS)
    return str(value)


def _init(value: Any) -> str | float:
    spread = standard_deviation(value, 1, 1)
    return value if isinstance(value, str) else spread


PARAMETERS: dict[str, Parameter] = {
    "lr": Parameter(0.01, lambda value: number("lr", value)),
    "reg": Parameter(0.0, lambda value: number("reg", value)),
    "momentum": Parameter(0.9, lambda value: number("momentum", value, below=1), most=1.0, open=True),
    "dropout": Parameter(0.0, lambda value: number("dropout", value, below=1), most=1.0, open=True),
    "lr_decay": Parameter(1.0, _decay, most=1.0),
    "batch_size": Parameter(32, lambda value: integer("batch_size", value, least=1), "whole", True, least=1),
    "hidden": Parameter([100], widths, "whole", True, least=1),
    "optimizer": Parameter("sgd", _optimizer, "name", True),
    "init": Parameter("he", _init),
}
"""The place of a name in this table is also the place of its random number: a new one goes to the end."""


def complete(point: dict[str, Any]) -> dict[str, Any]:
    """A point with the values of all parameters that it does not name.

    >>> complete({"lr": 0.1})["batch_size"]
    32
    """
    return {name: point.get(name, parameter.default) for name, parameter in PARAMETERS.items()}
