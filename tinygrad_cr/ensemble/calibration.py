"""`calibration`: whether a classifier is right as often as it says, in bins of confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cr.errors import DataError, DTypeError, ShapeError
from tinygrad_cr.options import integer

Row = dict[str, Any]


class Calibration(Sequence[Row]):
    """The bins of a reliability diagram, as flat dicts: ``pandas.DataFrame(calibration)`` is a table of them.

    Keys: low and high (the bin holds confidences in (low, high]), count, confidence and accuracy (means over the rows
    in the bin; None for an empty one).

    Attributes:
        ece: expected calibration error, the mean over all rows of |accuracy - confidence| of their bin.
        mce: the largest of these differences.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        total = sum(row["count"] for row in self.rows)
        gaps = [(row["count"], abs(row["accuracy"] - row["confidence"])) for row in self.rows if row["count"]]
        self.ece: float = sum(count * gap for count, gap in gaps) / total
        self.mce: float = max(gap for _, gap in gaps)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"Calibration(ece={self.ece:.4f}, {len(self)} bins)"


def calibration(probabilities: ArrayLike, y: ArrayLike, bins: int = 15) -> Calibration:
    """How confidence and accuracy go together (Guo et al. 2017, equations 3 and 5, whose number of bins is 15).

    The confidence of a row is the probability of the class that is predicted. Bins are equally wide.

    Args:
        probabilities: [n, classes].
        y: [n] integer labels.

    Raises:
        ShapeError: shapes that do not fit together.
        DataError: no rows, rows that are no probabilities, or labels that are none of the classes.
        DTypeError: labels that are no integers.
        OptionError: fewer than one bin.

    >>> calibration([[0.9, 0.1], [0.2, 0.8]], [0, 1])  # always right, but only 0.85 sure
    Calibration(ece=0.1500, 15 bins)
    """
    bins = integer("bins", bins, least=1)
    p, labels = np.asarray(probabilities, np.float64), np.asarray(y)
    if p.ndim != 2 or labels.shape != p.shape[:1]:
        raise ShapeError(f"calibration wants probabilities [n, classes] and labels [n], got {p.shape}, {labels.shape}")
    if len(p) == 0:
        raise DataError("calibration wants at least one row")
    if not ((p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-3)):
        raise DataError("every row of probabilities must be at least 0 and sum to 1; give softmax(logits), not logits")
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"labels must be integers, got dtype {labels.dtype}; give y.astype(int) if they are whole")
    for wrong in labels[(labels < 0) | (labels >= p.shape[1])][:1]:
        raise DataError(f"the data has a label {wrong}, the probabilities are those of classes 0..{p.shape[1] - 1}")
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = []
    for i in range(bins):
        inside = which == i
        count = int(inside.sum())
        row: Row = {"low": i / bins, "high": (i + 1) / bins, "count": count, "confidence": None, "accuracy": None}
        if count:
            row |= {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
        rows.append(row)
    return Calibration(rows)
