"""CSV files: headers, label columns, and errors that name row and column."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_cr.data import Dataset, Label, read_csv
from tinygrad_cr.data.table import LabelColumn
from tinygrad_cr.errors import DataError, OptionError, TinygradError


def read(folder: Path, text: str, label: LabelColumn = Label.AUTO) -> Dataset:
    (folder / "a.csv").write_bytes(text.encode())
    return read_csv(folder / "a.csv", label)


def rows(data: Dataset) -> tuple[Any, Any]:
    return data.x.tolist(), None if data.y is None else data.y.tolist()


CASES: dict[str, tuple[str, LabelColumn, tuple[Any, Any]]] = {
    "no header, last column": ("1,2,0\n3,4,1\n", Label.AUTO, ([[1, 2], [3, 4]], [0, 1])),
    "no newline at the end": ("1,2,0\n3,4,1", Label.AUTO, ([[1, 2], [3, 4]], [0, 1])),
    "header, last column": ("a,b,c\n1,2,0\n", Label.AUTO, ([[1, 2]], [0])),
    "header with a label name": ("a,Label,b\n1,0,2\n", Label.AUTO, ([[1, 2]], [0])),
    "label by name": ("a,b,c\n1,0,2\n", "b", ([[1, 2]], [0])),
    "label by position": ("5,1,2\n3,3,4\n", 0, ([[1, 2], [3, 4]], [1, 0])),
    "label by negative position": ("1,5,2\n", -2, ([[1, 2]], [0])),
    "position in a file with a header": ("a,b,c\n1,0,2\n", 1, ([[1, 2]], [0])),
    "no labels": ("1,2,3\n", None, ([[1, 2, 3]], None)),
    "text labels without a header": ("1,2,dog\n3,4,cat\n", Label.AUTO, ([[1, 2], [3, 4]], [1, 0])),
    "numbered header": ("0,1,label\n5,6,2\n", Label.AUTO, ([[5, 6]], [0])),
    "numbered header, named label": ("0,1,kind\n5,6,cat\n", "kind", ([[5, 6]], [0])),
    "whole float labels": ("1,2,0.0\n3,4,1.0\n", Label.AUTO, ([[1, 2], [3, 4]], [0, 1])),
    "byte order mark": ("\ufeff1,2,0\n", Label.AUTO, ([[1, 2]], [0])),
    "byte order mark before a name": ("\ufefflabel,a\n0,2\n", Label.AUTO, ([[2]], [0])),
    "semicolons": ("a;b;y\n1;2;0\n", Label.AUTO, ([[1, 2]], [0])),
    "tabs": ("1\t2\t0\n", Label.AUTO, ([[1, 2]], [0])),
    "spaces, blank lines and CRLF": ("a, b, y\r\n\r\n1, 2, 0\r\n \r\n", Label.AUTO, ([[1, 2]], [0])),
    "quoted cells": ('"a","b, too","y"\n"1","2","0"\n', Label.AUTO, ([[1, 2]], [0])),
}


@pytest.mark.parametrize("case", CASES)
def test_a_table_is_read(tmp_path: Path, case: str) -> None:
    text, label, expected = CASES[case]
    assert rows(read(tmp_path, text, label)) == expected


def test_number_labels_become_sorted_class_names_without_gaps(tmp_path: Path) -> None:
    found = read(tmp_path, "1,1000000\n2,7\n3,1000000\n")
    assert (found.class_names, found.y.tolist()) == (("7", "1000000"), [1, 0, 1])


def test_the_numbers_that_pandas_writes_above_columns_are_a_header(tmp_path: Path) -> None:
    assert rows(read(tmp_path, "0,1,2,3\n5,6,7,0\n")) == ([[5, 6, 7]], [0])


def test_large_whole_numbers_keep_their_digits(tmp_path: Path) -> None:
    assert read(tmp_path, "1700000000,0\n1700000060,1\n").x.tolist() == [[1700000000], [1700000060]]


def test_text_labels_become_sorted_class_names(tmp_path: Path) -> None:
    assert read(tmp_path, "1,dog\n2,cat\n3,dog\n").class_names == ("cat", "dog")


def test_values_are_float32(tmp_path: Path) -> None:
    assert read(tmp_path, "1,0\n").x.dtype == np.float32


REFUSED: dict[str, tuple[str, LabelColumn, type[TinygradError], str]] = {
    "empty": ("", Label.AUTO, DataError, r"a\.csv: is empty"),
    "blank lines only": ("\n\n", Label.AUTO, DataError, "is empty"),
    "header only": ("a,b,y\n", Label.AUTO, DataError, "no rows under it"),
    "text in a named column": (
        "a,b,y\n1,2,0\n3,many,1\n",
        Label.AUTO,
        DataError,
        "row 3, column 'b' holds 'many'",
    ),
    "text in a numbered column": (
        "1,2,0\n\n3,x,1\n",
        Label.AUTO,
        DataError,
        r"row 3, column 1 \(the first is 0\) .*'x'",
    ),
    "text in the first row": ("1,x,0\n3,4,1\n", Label.AUTO, DataError, "row 1, column 1"),
    "column after the label": ("y,a,b\n0,1,2\n1,2,oops\n", Label.AUTO, DataError, "row 3, column 'b'"),
    "blank cell": ("a,b,y\n1,,0\n", Label.AUTO, DataError, "row 2, column 'b' is blank"),
    "nan": ("a,b,y\n1,nan,0\n", Label.AUTO, DataError, "row 2, column 'b' holds 'nan'"),
    "too large": ("a,b,y\n1,1e39,0\n", Label.AUTO, DataError, "'1e39'"),
    "long row": ("a,b,y\n1,2,0\n1,2,3,0\n", Label.AUTO, DataError, "row 3 has 4 cells, but row 1 has 3"),
    "short row": ("1,2,0\n1,2\n", Label.AUTO, DataError, "row 2 has 2 cells"),
    "blank label": ("a,y\n1,\n", Label.AUTO, DataError, "row 2, label column 'y' is blank"),
    "fractional label": ("a,y\n1,0\n1,0.5\n", Label.AUTO, DataError, "row 3, label column 'y' holds 0.5"),
    "negative label": ("a,y\n1,-1\n", Label.AUTO, DataError, "holds -1"),
    "nan label": ("a,y\n1,nan\n", Label.AUTO, DataError, "holds nan"),
    "mixed labels": ("a,y\n1,0\n1,one\n", Label.AUTO, DataError, "row 3.*'one', but row 2 holds '0'"),
    "labels alone": ("y\n1\n", Label.AUTO, DataError, "at least one feature"),
    "unknown label": ("width,kind\n1,0\n", "knd", OptionError, "did you mean 'kind'"),
    "two labels": ("a,a,b\n1,2,3\n", "a", DataError, "2 columns are called 'a'"),
    "named label without a header": ("1,0\n", "kind", OptionError, "no header: give its position"),
    "position out of range": ("1,0\n", 2, OptionError, r"positions are 0\.\.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_table_is_refused_with_row_and_column(tmp_path: Path, case: str) -> None:
    text, label, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        read(tmp_path, text, label)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1,2,\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_csv(tmp_path / "a.csv")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.csv: there is no such file"):
        read_csv(tmp_path / "b.csv")


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FLOATS),
    header=st.booleans(),
    data=st.data(),
)
def test_a_table_written_with_every_digit_comes_back(tmp_path: Path, x: Any, header: bool, data: Any) -> None:
    y = data.draw(st.lists(st.integers(0, 9), min_size=len(x), max_size=len(x)))
    at = data.draw(st.integers(0, x.shape[1]))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow([f"column {i}" for i in range(x.shape[1] + 1)])
        for row, label in zip(x.tolist(), y, strict=True):
            writer.writerow([*row[:at], label, *row[at:]])
    found = read_csv(tmp_path / "a.csv", label=at)
    assert (found.x.tolist(), [int(found.class_names[i]) for i in found.y]) == (x.tolist(), y)


def test_a_column_without_a_name_is_refused_as_an_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 0 has no name in the header: if it is an index"):
        read(tmp_path, ",a,label\n0,1.5,0\n1,2.5,1\n")
