"""`split`: training, validation and test rows, drawn by a seed and with the classes in proportion."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_cr.data.dataset import Dataset
from tinygrad_cr.errors import DataError, OptionError
from tinygrad_cr.random import Generator

_PARTS = ("training", "validation", "test")


class Split(NamedTuple):
    """The parts of a data set; a part whose fraction is 0 is None.

    >>> Split(Dataset([[1.0]], [0]), None, None).validation is None
    True
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset | None


def split(
    dataset: Dataset,
    *,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    stratify: bool = True,
) -> Split:
    """Cuts the rows into training, validation and test parts; every row goes to exactly one of them.

    validation, test: fractions of all rows, in [0, 1), together below 1; the sizes are rounded by largest
    remainder. A data set that brings an official test part keeps it: ``test`` is then ignored and only
    validation is cut, from the other rows. stratify: each class's count in each part is its proportional
    count rounded up or down. A class with a single row goes to training, and the fractions are then those of
    the remaining rows. Rows keep their order. The same seed gives the same parts on every machine.

    Raises `OptionError` for fractions out of range, `DataError` when a wanted part would be empty and when
    unlabelled data is to be stratified.

    >>> data = Dataset([[float(i)] for i in range(10)], [0, 1] * 5)
    >>> [len(part) for part in split(data, validation=0.2, test=0.4)]
    [4, 2, 4]
    """
    wanted = {"validation": validation} if dataset.test is not None else {"validation": validation, "test": test}
    held_out = [_fraction(name, value) for name, value in wanted.items()]
    kept = 1 - sum(held_out, start=Fraction(0))
    if kept <= 0:
        given = " + ".join(f"{name}={value}" for name, value in wanted.items())
        raise OptionError(f"{given} leaves nothing to train on: the sum must be below 1")
    fractions = [kept, *held_out, *[Fraction(0)] * (2 - len(held_out))]
    if stratify and dataset.y is None:
        raise DataError("stratify=True needs labels and this data set has none: pass stratify=False")

    order = Generator(seed).permutation(len(dataset))
    labels = dataset.y if stratify and dataset.y is not None else np.zeros(len(dataset), np.int64)
    part = np.zeros(len(dataset), np.int64)
    groups = _groups(order, labels)
    if stratify:  # a class with one row cannot be in proportion anywhere, but it can be learned
        groups = [rows for rows in groups if len(rows) > 1]
    counts = _round_table([len(rows) for rows in groups], fractions)
    for rows, row_counts in zip(groups, counts, strict=True):
        part[rows] = np.repeat(np.arange(3), row_counts)

    parts: list[Dataset | None] = []
    for i, name in enumerate(_PARTS):
        chosen = np.flatnonzero(part == i)
        if len(chosen) == 0 and fractions[i] > 0:
            raise DataError(
                f"{len(dataset)} rows leave the {name} part empty at a fraction of {float(fractions[i]):g}: "
                "use more data or a larger fraction, or 0 for no such part"
            )
        parts.append(dataset.take(chosen) if len(chosen) else None)
    train = parts[0]
    assert train is not None  # its fraction is positive, so an empty part was refused above
    return Split(train, parts[1], dataset.test if dataset.test is not None else parts[2])


def _fraction(name: str, value: float) -> Fraction:
    if not 0 <= value < 1:  # also refuses NaN
        raise OptionError(f"{name}={value}: the fraction of rows must be at least 0 and below 1")
    # 0.1 is meant as a tenth, so that a tenth of 30 rows is 3 and not a hair more.
    return Fraction(float(value)).limit_denominator(1_000_000) or Fraction(float(value))


def _groups(order: NDArray[np.int64], labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each class, in the order drawn."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[by_class])) + 1
    return list(np.split(by_class, starts))


def _round_table(sizes: list[int], fractions: list[Fraction]) -> list[list[int]]:
    """Integers near ``sizes[c] * fractions[p]``: rows sum to the sizes, columns to the rounded totals.

    This is controlled rounding (Cox 1987). Every cell is rounded down first; the units still due are a
    bipartite matching of rows to columns, in which only cells that were no integers may take one. With three
    columns such a matching always exists, and augmenting paths find it.
    """
    exact = [[size * fraction for fraction in fractions] for size in sizes]
    counts = [[math.floor(cell) for cell in row] for row in exact]
    due = [total - sum(column) for total, column in zip(_totals(sum(sizes), fractions), _columns(counts), strict=True)]
    raised: list[set[int]] = [set() for _ in sizes]
    for c, size in enumerate(sizes):
        for _ in range(size - sum(counts[c])):
            free = {p for p, cell in enumerate(exact[c]) if cell.denominator > 1} - raised[c]
            _place(c, free, due, exact, raised)
    return [[cell + (p in up) for p, cell in enumerate(row)] for row, up in zip(counts, raised, strict=True)]


def _columns(counts: list[list[int]]) -> list[tuple[int, ...]]:
    return list(zip(*counts, strict=True)) or [()] * 3


def _totals(rows: int, fractions: list[Fraction]) -> list[int]:
    """The sizes of the parts by largest remainder; of equal remainders the earlier part gets the row."""
    exact = [rows * fraction for fraction in fractions]
    totals = [math.floor(size) for size in exact]
    by_remainder = sorted(range(len(exact)), key=lambda p: totals[p] - exact[p])
    for p in by_remainder[: rows - sum(totals)]:
        totals[p] += 1
    return totals


def _place(c: int, free: set[int], due: list[int], exact: list[list[Fraction]], raised: list[set[int]]) -> None:
    """Gives row c a unit more in a free column that is due, moving other rows' units if need be."""
    came_from: dict[int, tuple[int, int] | None] = dict.fromkeys(sorted(free, key=lambda p: -due[p]))
    queue = list(came_from)
    for p in queue:
        if due[p] > 0:
            due[p] -= 1
            while (step := came_from[p]) is not None:
                other, origin = step
                raised[other] ^= {p, origin}
                p = origin
            raised[c].add(p)
            return
        for other in range(c):
            if p in raised[other]:
                for q, cell in enumerate(exact[other]):
                    if q not in came_from and q not in raised[other] and cell.denominator > 1:
                        came_from[q] = (other, p)
                        queue.append(q)
    raise AssertionError("controlled rounding of three columns always has a solution")
