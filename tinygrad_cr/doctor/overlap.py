"""Do rows stand in both the training and the validation part?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.verdict import Check, Status

NAME = "split"
EXPECTED = "no row in both parts"
SHOWN = 5


def check(case: Case) -> Check:
    """Compare all rows of both parts, bit for bit, as they stand in the data."""
    if case.validation is None:
        return Check(NAME, Status.SKIP, "no validation part", EXPECTED, "give one, to see overfitting when it begins")
    train, validation = _alike(case.train.x, case.validation.x)
    places: dict[bytes, int] = {}
    for i, row in enumerate(train):
        places.setdefault(row.tobytes(), i)
    pairs = [(places.get(row.tobytes()), j) for j, row in enumerate(validation)]
    found = [(i, j) for i, j in pairs if i is not None]
    advice = ""
    if found:
        shown = ", ".join(f"{j} (training row {i})" for i, j in found[:SHOWN])
        advice = f"validation rows that training sees too make its accuracy too good: remove rows {shown}"
        advice += f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    status = Status.WARN if found else Status.PASS
    measured = f"{len(found)} of {len(validation)} validation rows are training rows"
    return Check(NAME, status, measured, EXPECTED, advice, {"count": len(found), "pairs": found[:100]})


def _alike(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both in one dtype, and with one kind of zero, so that equal rows have equal bytes."""
    dtype = np.result_type(a, b)
    if dtype.kind != "f":
        return a, b
    return a.astype(dtype) + 0, b.astype(dtype) + 0
