"""How wide the first weights are spread."""

from __future__ import annotations

import math
from collections.abc import Callable

from tinygrad_cr.errors import unknown_name
from tinygrad_cr.options import number

INITS: dict[str, Callable[[int, int], float]] = {
    "he": lambda fan_in, _: math.sqrt(2 / fan_in),
    "lecun": lambda fan_in, _: math.sqrt(1 / fan_in),
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "zeros": lambda *_: 0.0,
}


def standard_deviation(init: str | float, fan_in: int, fan_out: int) -> float:
    """The standard deviation of the normal distribution that weights ``[fan_in, fan_out]`` are drawn from.

    "he": sqrt(2 / fan_in), keeps the scale of activations through ReLUs (He et al. 2015); "xavier":
    sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010); "lecun": sqrt(1 / fan_in) (LeCun et al. 1998); "zeros"; or
    the standard deviation itself, such as the 1e-4 of the CS231n lecture.

    Raises:
        OptionError: an unknown name (the nearest one is named), or a number that is negative or not finite.

    >>> standard_deviation("he", 50, 10)
    0.2
    """
    if isinstance(init, str):
        if init not in INITS:
            raise unknown_name("init", init, INITS)
        return INITS[init](max(1, fan_in), fan_out)
    return number("init", init, hint=f"it is a standard deviation, or one of {', '.join(INITS)}")
