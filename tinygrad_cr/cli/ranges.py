"""A hyperparameter on the command line: a value, a range such as 1e-6:1e-3, or several values to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_cr.errors import OptionError
from tinygrad_cr.optim import OPTIMIZERS
from tinygrad_cr.search import Choice, IntUniform, LogUniform, Uniform
from tinygrad_cr.search.parameters import PARAMETERS

LOGARITHMIC = ("lr", "reg", "init")
"""Hyperparameters that act by factors."""

HOW = {"log": LogUniform, "linear": Uniform}


def space_of(given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A search space, as `search.Space` takes it.

    Args:
        given: for each hyperparameter what its option said, each time that it was given.

    Raises:
        OptionError: what is neither a value nor a range.

    >>> space_of({"lr": ["1e-6:1e-3"], "hidden": ["50", "100,50"], "momentum": ["0.9"]})
    {'lr': LogUniform(low=1e-06, high=0.001), 'hidden': Choice(values=((50,), (100, 50))), 'momentum': 0.9}
    """
    return {name: dimension(name, texts) for name, texts in given.items()}


def dimension(name: str, texts: Sequence[str]) -> Any:
    """What one hyperparameter may be: one text is a value or a range, several are values to choose from.

    >>> dimension("momentum", ["0.5:0.99"]), dimension("reg", ["0:1:linear"]), dimension("batch_size", ["32:256"])
    (Uniform(low=0.5, high=0.99), Uniform(low=0.0, high=1.0), IntUniform(low=32, high=256))
    """
    if len(texts) > 1:
        if any(":" in text for text in texts):
            raise OptionError(f"{flag(name)} was given {len(texts)} times: give one range, or values to choose from")
        return Choice([_value(name, text) for text in texts])
    if ":" not in texts[0]:
        return _value(name, texts[0])
    if name == "optimizer":
        known = ", ".join(sorted(OPTIMIZERS))
        raise OptionError(f"{flag(name)} wants one of {known}, or several by giving it again; got {texts[0]!r}")
    ends = texts[0].split(":")
    whole = PARAMETERS[name].kind == "whole"
    how = ends.pop() if len(ends) == 3 and not whole else "log" if name in LOGARITHMIC else "linear"
    try:
        low, high = map(int if whole else float, ends)
    except ValueError:
        wanted = "10:100" if whole else "1e-6:1e-3, or 1e-6:1e-3:linear"
        raise OptionError(f"{flag(name)} wants a value, or a range such as {wanted}; got {texts[0]!r}") from None
    if whole:
        return IntUniform(int(low), int(high))
    if how not in HOW:
        raise OptionError(f"{flag(name)}: a range is log or linear, got {how!r} in {texts[0]!r}")
    return HOW[how](low, high)


def stages_of(text: str) -> list[tuple[int, int]]:
    """Trials and epochs of each stage.

    >>> stages_of("100x5,50x20")
    [(100, 5), (50, 20)]

    Raises:
        OptionError: something else.
    """
    try:
        stages = [tuple(map(int, stage.split("x"))) for stage in text.split(",")]
        return [(trials, epochs) for trials, epochs in stages]
    except ValueError:
        raise OptionError(f"--stages wants trials x epochs of each stage, such as 100x5,100x5; got {text!r}") from None


def flag(name: str) -> str:
    """The option of a hyperparameter.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def _value(name: str, text: str) -> Any:
    if name == "hidden":
        return _numbers(name, text, int) if text.strip() else []
    if PARAMETERS[name].kind == "whole":
        return _numbers(name, text, int)[0]
    if name in ("optimizer", "init"):
        try:
            return float(text)
        except ValueError:
            return text
    return _numbers(name, text, float)[0]


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    parts = text.split(",") if name == "hidden" else [text]
    try:
        return [kind(part) for part in parts]
    except ValueError:
        whole = "a whole number such as 100, or a range such as 32:256"
        wanted = whole if kind is int else "a number, or a range such as 0.1:0.9"
        if name == "hidden":
            wanted = "widths such as 100 or 256,128"
        raise OptionError(f"{flag(name)} wants {wanted}; got {text!r}") from None
