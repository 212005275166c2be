"""Live numbers: what a program reads anew before each repetition, such as random draws and learning rates.

While a function is captured a live number is a number like any other, and carries a mark. Calls report their arguments;
where the marks turn up is where the numbers go later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_cr.kernels import Array


class LiveInt(int):
    """An integer that has a source."""

    live: Live
    number: int


class LiveFloat(float):
    """A float that has a source."""

    live: Live
    number: int


class Live:
    """Where a live number comes from, and where in the program it goes; or a list of them, one for each member.

    Attributes:
        value: what was read for the capture, each number marked as live.
        places: which number of the list (0 for one that stands alone), the arguments or the table, and the place there.
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read
        self.places: list[tuple[int, Any, Any]] = []
        value = read()
        self.several = isinstance(value, list)
        marked = [self._marked(number, i) for i, number in enumerate(value if self.several else [value])]
        self.value: Any = marked if self.several else marked[0]

    def _marked(self, value: Any, i: int) -> LiveInt | LiveFloat:
        marked = (LiveFloat if isinstance(value, float) else LiveInt)(value)
        marked.live, marked.number = self, i
        return marked

    def settle(self, moved: dict[tuple[int, int], Any]) -> None:
        """After the capture: arguments hold plain numbers, and those that moved into tables are known there."""
        for _, arguments, i in self.places:
            arguments[i] = plain(arguments[i])
        self.places = [(n, *moved.get((id(arguments), i), (arguments, i))) for n, arguments, i in self.places]
        # Numbers of many members in one table are written at once.
        grouped = self.places_by_target() if self.several else []
        self.together = [(table, tuple(cells.T), numbers) for table, cells, numbers in grouped]
        self.alone = [p for p in self.places if not self.several or not isinstance(p[1], np.ndarray)]

    def places_by_target(self) -> list[tuple[Array, Array, Array]]:
        """For each table: the cells [n, axes], and which number of the list goes into each."""
        tables = {id(target): target for _, target, _ in self.places if isinstance(target, np.ndarray)}
        found: list[tuple[Array, Array, Array]] = []
        for key, table in tables.items():
            there = [(n, cell) for n, target, cell in self.places if id(target) == key]
            found.append((table, np.array([cell for _, cell in there]), np.array([n for n, _ in there])))
        return found

    def places_in_arguments(self) -> list[tuple[int, Any, Any]]:
        """The places that are in no table: which number of the list, the arguments, and the place there."""
        return [place for place in self.places if not isinstance(place[1], np.ndarray)]

    def refresh(self) -> None:
        """Read anew."""
        value = self.read()
        if not self.several:
            for _, target, place in self.alone:
                target[place] = value
            return
        for table, cells, numbers in self.together:
            table[cells] = np.array(value)[numbers]
        for n, target, place in self.alone:
            target[place] = value[n]


def read_steps(
    live: Sequence[Live], steps: int, first: int, before: Callable[[int], None] | None
) -> tuple[list[list[Any]], int, BaseException | None]:
    """What each source says for each step; `before` is told the number of the step first.

    The steps before one whose numbers cannot be had are made, as a loop would have: the second result is how many,
    the third why.
    """
    values: list[list[Any]] = [[] for _ in live]
    sources = [(source.read, own.append) for source, own in zip(live, values, strict=True)]
    for k in range(steps):
        try:
            if before is not None:
                before(first + k)
            for read, append in sources:
                append(read())
        except BaseException as error:
            return [own[:k] for own in values], k, error
    return values, steps, None


def plain(value: Any) -> Any:
    """The number without its mark; anything else as it is."""
    kind = type(value)
    return int(value) if kind is LiveInt else float(value) if kind is LiveFloat else value
