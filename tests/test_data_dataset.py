"""What a `Dataset` converts, keeps and refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, ShapeError, TinygradError

X = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_dtype_that_has_a_kernel_is_kept_without_a_copy(dtype: str) -> None:
    x = X.astype(dtype)
    assert np.shares_memory(Dataset(x).x, x)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "bool", "float16"])
def test_other_numbers_become_float32(dtype: str) -> None:
    assert Dataset(X.astype(dtype)).x.dtype == np.float32


def test_a_big_endian_array_becomes_native() -> None:
    assert Dataset(X.astype(">f4")).x.dtype.isnative


def test_a_fortran_array_becomes_contiguous() -> None:
    assert Dataset(np.asfortranarray(X)).x.flags.c_contiguous


def test_images_are_flattened_and_their_shape_is_remembered() -> None:
    data = Dataset(np.zeros((2, 4, 4, 3), np.uint8))
    assert (data.x.shape, data.image_shape) == ((2, 48), (4, 4, 3))


def test_boolean_labels_are_two_classes() -> None:
    assert Dataset(X, np.array([True, False, True])).classes == 2


def test_some_rows_know_as_many_classes_as_the_whole() -> None:
    assert Dataset(X, [0, 1, 7]).take([0, 1]).classes == 8


def test_rows_are_taken_by_mask() -> None:
    assert Dataset(X, [0, 1, 2]).take(np.array([True, False, True])).y.tolist() == [0, 2]  # type: ignore[union-attr]


def test_the_test_part_gets_the_class_names_of_the_whole() -> None:
    data = Dataset(X, [0, 1, 1], class_names=("cat", "dog"), test=Dataset(X, [0, 0, 1]))
    assert data.test is not None
    assert data.test.class_names == ("cat", "dog")


def test_a_class_that_only_the_test_part_has_counts() -> None:
    assert Dataset(X, [0, 1, 1], test=Dataset(X, [0, 0, 4])).classes == 5


def test_a_data_set_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Dataset(X).x = X  # type: ignore[misc]


def _with(value: float, dtype: str) -> Any:
    x = np.zeros((3000, 2000), dtype)
    x[2999, 7] = value
    return x


REFUSED: dict[str, tuple[Callable[[], object], type[TinygradError], str]] = {
    "no rows": (lambda: Dataset(np.zeros((0, 3))), DataError, r"empty, shape \(0, 3\)"),
    "no columns": (lambda: Dataset(np.zeros((3, 0))), DataError, r"empty, shape \(3, 0\)"),
    "one axis": (lambda: Dataset(np.zeros(3)), DataError, r"shape \(3,\).*reshape"),
    "no axis": (lambda: Dataset(3.0), DataError, r"shape \(\)"),
    "ragged": (lambda: Dataset([[1.0], [1.0, 2.0]]), DataError, "no rectangular array"),
    "text": (lambda: Dataset([["a"]]), DataError, "numbers are needed"),
    "nan": (lambda: Dataset(_with(np.nan, "float32")), DataError, r"x\[2999, 7\] is nan.*fill"),
    "inf": (lambda: Dataset(_with(-np.inf, "float64")), DataError, r"x\[2999, 7\] is -inf"),
    "too few labels": (lambda: Dataset(X, [0, 1]), ShapeError, r"3 rows.*\(2,\)"),
    "one-hot labels": (lambda: Dataset(X, np.eye(3, dtype=int)), ShapeError, r"\(3, 3\).*argmax"),
    "float labels": (lambda: Dataset(X, [0.0, 1.0, 0.0]), DataError, r"float64.*y\.astype\(int\)"),
    "text labels": (lambda: Dataset(X, ["a", "b", "a"]), DataError, r"np\.unique"),
    "negative label": (lambda: Dataset(X, [0, 1, -1]), DataError, r"y\[2\] is -1"),
    "label beyond the names": (
        lambda: Dataset(X, [0, 2, 1], class_names=("a", "b")),
        DataError,
        r"y\[1\] is 2.*0\.\.1",
    ),
    "labels that are dates": (lambda: Dataset(X, [0, 20240101, 1]), DataError, "20240101"),
    "huge label": (lambda: Dataset(X, np.array([0, 1, 2**63], np.uint64)), DataError, "9223372036854775808"),
    "wrong image shape": (lambda: Dataset(X, image_shape=(2, 2)), ShapeError, r"\(2, 2\).*\(3, 2\)"),
    "narrow test part": (lambda: Dataset(X, test=Dataset(X[:, :1])), ShapeError, r"\(3, 2\).*\(3, 1\)"),
    "no rows taken": (lambda: Dataset(X).take([]), DataError, "at least one row"),
    "row out of range": (lambda: Dataset(X).take([3]), DataError, "of 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_is_refused_with_value_and_remedy(case: str) -> None:
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()
