"""`Dataset`: the one form in which rows and labels travel through the package.

Every way in (arrays, files, downloads) ends in this constructor, so what it refuses no later code can meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_cr.errors import DataError, ShapeError

MAX_CLASSES = 1 << 20
"""More classes than this are row numbers, dates or prices rather than labels."""

EXACT_INTEGERS = 2**24
"""Up to here float32 holds every integer."""

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Dataset:
    """Rows to learn from, their labels, and what is known about both.

    The constructor converts and validates; afterwards nothing changes. Arrays that already fit are kept
    without a copy, so a caller who writes into them later writes into the data set.

    Arguments and, after construction, attributes:

    - x: ``[n, d]``, or images ``[n, ...]`` of any shape, which become ``[n, d]``. uint8, float32 and float64
      stay what they are; other integers, booleans and float16 become float32,
      or float64 where float32 would lose digits. C-contiguous.
    - y: ``[n]`` integer or boolean labels 0..C-1, stored as int64; None for rows without labels.
    - name: what plots and messages call it.
    - class_names: one string a class; without it the classes are called "0", "1", ... up to the largest
      label. It is filled in for labelled data, so a part of the rows knows as many classes as the whole.
    - image_shape: the shape of one row before it was flattened, such as ``(28, 28)``; None for tables.
    - test: the official test part where the data has one.

    Raises `DataError` for empty data, NaN or inf, and labels that are negative, floats or out of range, and
    `ShapeError` for shapes that do not fit.

    >>> data = Dataset([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], [1, 0], class_names=("cat", "dog"))
    >>> data
    Dataset(2 rows, 4 features float32, image (2, 2), 2 classes)
    >>> Dataset([[1.0], [float("nan")]], [0, 1])
    Traceback (most recent call last):
    tinygrad_cr.errors.DataError: x[1, 0] is nan (row 1, column 0): remove the row or fill it in
    """

    x: NDArray[Any]
    y: NDArray[np.int64] | None = None
    name: str = ""
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...] | None = None
    test: Dataset | None = None

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        name: str = "",
        class_names: tuple[str, ...] | list[str] = (),
        image_shape: tuple[int, ...] | None = None,
        test: Dataset | None = None,
    ) -> None:
        features, found_shape = as_features(x)
        image_shape = found_shape if image_shape is None else tuple(int(side) for side in image_shape)
        if image_shape is not None and math.prod(image_shape) != features.shape[1]:
            raise ShapeError(
                f"image_shape {image_shape} holds {math.prod(image_shape)} values, but a row of x, "
                f"shape {features.shape}, has {features.shape[1]}"
            )
        names = tuple(str(each) for each in class_names)
        labels = None if y is None else _as_labels(y, len(features), names)
        if labels is not None and not names:
            names = tuple(str(i) for i in range(int(labels.max()) + 1))
            if test is not None:
                names = max(test.class_names, names, key=len)
        if test is not None:
            test = _fit_test(test, features.shape, names)
        values = (features, labels, name, names, image_shape, test)
        for field, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, field, value)

    @property
    def features(self) -> int:
        """The number of columns d of x."""
        return int(self.x.shape[1])

    @property
    def classes(self) -> int:
        """The number of classes C; 0 for data that has neither labels nor class names."""
        return len(self.class_names)

    def take(self, rows: ArrayLike | slice) -> Dataset:
        """The data set of some rows, in the order given, without a test part.

        rows: integer positions ``[m]``, a boolean mask ``[n]`` or a slice (which copies nothing).
        Raises `DataError` when a position is out of range or no row is left.

        >>> Dataset([[1.0], [2.0], [3.0]], [0, 1, 0]).take([2, 0]).x.ravel().tolist()
        [3.0, 1.0]
        """
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(index, np.ndarray) and index.size == 0:
            raise DataError("rows is empty: a data set needs at least one row")
        try:
            x = self.x[index]
            y = None if self.y is None else self.y[index]
        except IndexError as problem:
            raise DataError(f"cannot take these rows of {len(self)}: {problem}") from None
        return Dataset(x, y, self.name, self.class_names, self.image_shape)

    def spread(self, most: int) -> Dataset:
        """At most so many rows, evenly spaced, for data that may be sorted; itself if it has no more.

        >>> Dataset([[1.0], [2.0], [3.0]], [0, 1, 0]).spread(2).x.ravel().tolist()
        [1.0, 3.0]
        """
        if len(self) <= most:
            return self
        return self.take(np.linspace(0, len(self) - 1, most).astype(np.int64))

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        parts = [f"{len(self)} rows", f"{self.features} features {self.x.dtype}"]
        if self.image_shape is not None:
            parts.append(f"image {self.image_shape}")
        parts.append("no labels" if self.y is None else f"{self.classes} classes")
        if self.test is not None:
            parts.append(f"{len(self.test)} test rows")
        return f"Dataset({f'{self.name!r}, ' if self.name else ''}{', '.join(parts)})"


def as_features(x: ArrayLike) -> tuple[NDArray[Any], tuple[int, ...] | None]:
    """x as a contiguous, finite ``[n, d]`` array of uint8, float32 or float64, and the shape of an image row.

    Raises `DataError` for empty or non-numeric data, fewer than two axes, NaN and inf.

    >>> rows, image_shape = as_features([[[1, 2], [3, 4]]])
    >>> rows.shape, str(rows.dtype), image_shape
    ((1, 4), 'float32', (2, 2))
    """
    try:
        array = np.asarray(x)
    except ValueError as problem:
        raise DataError(f"x is no rectangular array: {problem}") from None
    if array.dtype.kind not in "buif":
        raise DataError(f"x has dtype {array.dtype}: numbers are needed; encode text and dates as numbers first")
    if array.ndim < 2:
        raise DataError(f"x has shape {array.shape}: rows and columns are needed; one row is x.reshape(1, -1)")
    if array.size == 0:
        raise DataError(f"x is empty, shape {array.shape}: at least one row and one column are needed")
    image_shape = array.shape[1:] if array.ndim > 2 else None
    array = np.ascontiguousarray(array).reshape(len(array), -1)
    # A double that float32 cannot hold stays a double; only what has no kernel of its own is converted.
    exact = {np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64)}
    if array.dtype not in exact:
        wide = array.dtype.itemsize > 2 and np.abs(array.astype(np.float64)).max() > EXACT_INTEGERS
        wide = wide or (array.dtype.kind == "f" and array.dtype.itemsize > 4)
        array = array.astype(np.float64 if wide else np.float32)
    _check_finite(array)
    return array, image_shape


def _check_finite(x: NDArray[Any]) -> None:
    if x.dtype.kind != "f":
        return
    step = max(1, _CHUNK_BYTES // (x.shape[1] * x.itemsize))
    for start in range(0, len(x), step):
        finite = np.isfinite(x[start : start + step])
        if not finite.all():
            row, column = np.argwhere(~finite)[0] + (start, 0)
            raise DataError(
                f"x[{row}, {column}] is {x[row, column]} (row {row}, column {column}): remove the row or fill it in"
            )


def _as_labels(y: ArrayLike, rows: int, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise ShapeError(
            f"y has shape {labels.shape}, wanted ({rows},): one label a row; "
            "use y.argmax(axis=1) for one-hot labels, y.ravel() for a column"
        )
    if len(labels) != rows:
        raise ShapeError(f"x has {rows} rows but y has shape {labels.shape}: wanted ({rows},), one label a row")
    if labels.dtype.kind == "f":
        raise DataError(
            f"y has dtype {labels.dtype} (y[0] is {labels[0]}): labels are class numbers 0..C-1; "
            "if the values are whole, pass y.astype(int)"
        )
    if labels.dtype.kind not in "bui":
        raise DataError(
            f"y has dtype {labels.dtype} (y[0] is {labels[0]!r}): labels are class numbers 0..C-1; "
            "names, y = np.unique(y, return_inverse=True) makes them, then pass class_names=names"
        )
    limit = len(class_names) or MAX_CLASSES
    wrong = (labels < 0) | (labels >= limit)
    if wrong.any():
        row = int(np.argmax(wrong))
        wanted = f"0..{limit - 1}, as there are {limit} class names" if class_names else f"0..{limit - 1}"
        raise DataError(
            f"y[{row}] is {labels[row]} (row {row}): labels are class numbers {wanted}; "
            "y = np.unique(y, return_inverse=True)[1] renumbers them"
        )
    return np.ascontiguousarray(labels, dtype=np.int64)


def _fit_test(test: Dataset, shape: tuple[int, ...], names: tuple[str, ...]) -> Dataset:
    """The test part under the class names of the whole, or an error where the two do not fit."""
    if test.features != shape[1]:
        raise ShapeError(f"x has shape {shape} but the test part's x has {test.x.shape}: the columns must agree")
    if test.y is None or test.class_names == names:
        return test
    return Dataset(test.x, test.y, test.name, names, test.image_shape)
