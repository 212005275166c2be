"""`read_csv`: a table of numbers with a label column.

Errors name the row as a text editor counts it (the first line of the file is row 1) and the column by its
name, or by its position from 0 where the file has no header.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cr.data.dataset import EXACT_INTEGERS, Dataset
from tinygrad_cr.data.formats import in_file
from tinygrad_cr.errors import DataError, OptionError, unknown_name

LABEL_NAMES = ("label", "class", "target", "y")
"""Header names, in any case, that mark the label column when nobody says which it is."""


class Label(Enum):
    """Which column is the label, when neither a name nor a position is given."""

    AUTO = "auto"


LabelColumn = str | int | None | Label
"""A column's name, its position (negative from the end), None for a table without labels, or `Label.AUTO`."""


def read_csv(path: str | os.PathLike[str], label: LabelColumn = Label.AUTO) -> Dataset:
    """A data set from a ``.csv`` file: x ``[n, d]`` float32, y ``[n]`` int64.

    The delimiter is the comma, semicolon or tab that the first line has most of. The first line is a header
    when no cell of it is a number, or when it numbers the columns, as pandas writes them. Values are float32,
    or float64 where float32 would lose digits of whole numbers.

    label: a column's name; its position, from 0, or negative from the end; None when every column is a
    feature. Unsaid, it is the column called label, class, target or y, else the last one. Labels are whole
    numbers from 0, or text; their sorted values become the class names.

    Raises `DataError` for a missing or empty file, ragged rows, blank cells, text in a number column, NaN,
    inf and labels that are no class, naming row and column; `OptionError` for a label column that does not
    exist.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "pets.csv")
    ...     size = path.write_text("weight,kind,height\\n4,cat,25\\n30,dog,60\\n")
    ...     pets = read_csv(path, label="kind")
    >>> pets.x.tolist(), pets.y.tolist(), pets.class_names
    ([[4.0, 25.0], [30.0, 60.0]], [0, 1], ('cat', 'dog'))
    """
    with in_file(path):
        rows = _rows(Path(path))
        lines, header = [line for line, _ in rows], None
        if _is_header(rows[0][1], label):
            header, lines = rows[0][1], lines[1:]
        cells = [row for _, row in rows[0 if header is None else 1 :]]
        if not cells:
            raise DataError("has a header but no rows under it")
        if header and "" in header:
            raise DataError(
                f"column {header.index('')} has no name in the header: if it is an index (pandas writes one unless "
                "told index=False), remove it; else give it a name"
            )
        columns = header or [str(i) for i in range(len(cells[0]))]
        names = [repr(name) for name in header] if header else [f"{i} (the first is 0)" for i in range(len(columns))]
        position = _label_position(label, columns, header is not None)
        texts = None if position is None else [row.pop(position) for row in cells]
        label_name = "" if position is None else names.pop(position)
        if not names:
            raise DataError(f"has the label column {label_name} and no other: at least one feature is needed")
        y, class_names = (None, ()) if texts is None else _labels(texts, lines, label_name)
        return Dataset(_numbers(cells, lines, names), y, Path(path).stem, class_names)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The line number and the stripped cells of each row that is not blank, all rows equally long."""
    rows: list[tuple[int, list[str]]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells) and len(cells) < 2:
                    continue
                rows.append((reader.line_num, cells))
                if len(cells) != len(rows[0][1]):
                    raise DataError(
                        f"row {reader.line_num} has {len(cells)} cells, "
                        f"but row {rows[0][0]} has {len(rows[0][1])}: every row needs as many"
                    )
    except UnicodeDecodeError as problem:
        raise DataError(f"is not UTF-8 text (byte {problem.start}): save it as UTF-8") from None
    except csv.Error as problem:
        raise DataError(f"row {reader.line_num}: {problem}") from None
    if not rows:
        raise DataError("is empty: at least one row is needed")
    return rows


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_header(first: Sequence[str], label: LabelColumn) -> bool:
    numbers = [i for i, cell in enumerate(first) if _is_number(cell)]
    if not numbers or (len(first) > 3 and list(first) == [str(i) for i in range(len(first))]):
        return True  # what pandas writes above columns without names
    # Text beside numbers is a row with a text label, unless the numbers count the columns: pandas' header.
    counts = all(first[i] in (str(i), str(i + 1)) for i in numbers)
    wanted = (label,) if isinstance(label, str) else LABEL_NAMES
    return counts and any(cell in wanted or cell.lower() in wanted for cell in first)


def _label_position(label: LabelColumn, columns: list[str], has_header: bool) -> int | None:
    if label is None:
        return None
    if isinstance(label, Label):
        usual = [i for i, name in enumerate(columns) if name.lower() in LABEL_NAMES]
        return usual[0] if usual else len(columns) - 1
    if isinstance(label, str):
        if not has_header:
            raise OptionError(
                f"label column {label!r} asked for, but the file has no header: "
                f"give its position, 0..{len(columns) - 1} or -1 for the last"
            )
        if label not in columns:
            raise unknown_name("label column", label, columns)
        if columns.count(label) > 1:
            raise DataError(
                f"{columns.count(label)} columns are called {label!r}: give the position of the label column"
            )
        return columns.index(label)
    if not -len(columns) <= label < len(columns):
        raise OptionError(f"label column {label} asked for, but positions are 0..{len(columns) - 1} (or negative)")
    return label % len(columns)


def _numbers(cells: list[list[str]], lines: list[int], names: list[str]) -> NDArray[Any]:
    wide = np.empty((len(cells), len(names)))
    for i, row in enumerate(cells):
        try:
            wide[i] = [float(cell) for cell in row]
        except ValueError:
            j = next(j for j, cell in enumerate(row) if not _is_number(cell))
            what = "is blank" if row[j] == "" else f"holds {row[j]!r}, which is no number"
            raise DataError(f"row {lines[i]}, column {names[j]} {what}: every feature must be a number") from None
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for float32 becomes inf, refused below
        narrow = wide.astype(np.float32)
        # Large whole numbers (times, identifiers) differ in digits that float32 does not have.
        blurred = (np.abs(wide) > EXACT_INTEGERS) & (wide == np.rint(wide)) & (narrow != wide) & np.isfinite(narrow)
        x = wide if blurred.any() and np.isfinite(narrow).all() else narrow
    bad = ~np.isfinite(x)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise DataError(
            f"row {lines[i]}, column {names[j]} holds {cells[i][j]!r}, which is no finite float32: "
            "remove the row or fill in the value first"
        )
    return x


def _labels(texts: list[str], lines: list[int], column: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    where = f"label column {column}"
    for line, text in zip(lines, texts, strict=True):
        if not text:
            raise DataError(f"row {line}, {where} is blank: every row needs a label; label=None reads rows without")
    numeric = [_is_number(text) for text in texts]
    if not any(numeric):
        names, y = np.unique(np.array(texts), return_inverse=True)
        return y.astype(np.int64), tuple(str(name) for name in names)
    if not all(numeric):
        i = numeric.index(not numeric[0])
        raise DataError(
            f"row {lines[i]}, {where} holds {texts[i]!r}, but row {lines[0]} holds {texts[0]!r}: "
            "labels are all numbers or all text"
        )
    values = [float(text) for text in texts]
    for line, text, value in zip(lines, texts, values, strict=True):
        if not (value.is_integer() and 0 <= value < 2**53):
            raise DataError(f"row {line}, {where} holds {text}: labels are whole numbers from 0, or text")
    classes, y = np.unique(np.array(values, np.int64), return_inverse=True)
    return y.astype(np.int64), tuple(str(value) for value in classes)
