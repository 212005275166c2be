"""Are the parts two samples of one thing: no row in both, inputs of one scale, labels that mean the same?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cr.doctor import signal
from tinygrad_cr.doctor.case import Case, is_finite
from tinygrad_cr.doctor.verdict import Check, Status

NAME = "split"
EXPECTED = "no row in both parts, and both alike"
SCALE_LIMIT = 2.0
"""The size of a feature in one part over that in the other."""
SHIFT_LIMIT = 0.5
"""Standard deviations of a feature, between its means in both parts."""
LEAST_ROWS = 30
"""Of fewer validation rows nothing is said about scale and labels."""
SHOWN = 5
ROWS = 10_000


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
    findings = [_scale_and_labels(case)]
    if found:
        shown = ", ".join(f"{j} (training row {i})" for i, j in found[:SHOWN])
        shown += f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        advice = f"validation rows that training sees too make its accuracy too good: remove rows {shown}"
        findings.append((Status.WARN, advice))
    status = max((status for status, _ in findings), key=list(Status).index)
    measured = f"{len(found)} of {len(validation)} validation rows are training rows"
    advice = "; ".join(advice for _, advice in findings if advice)
    return Check(NAME, status, measured, EXPECTED, advice, {"count": len(found), "pairs": found[:100]})


def _scale_and_labels(case: Case) -> tuple[Status, str]:
    """What can be said of the validation part; of its labels only if the inputs are comparable."""
    assert case.validation is not None
    if not case.finite or case.constant or len(case.validation) < LEAST_ROWS:
        return Status.PASS, ""
    if not is_finite(case.validation.x):
        return Status.FAIL, "NaN or inf among the validation inputs: remove the rows, or fill the gaps in"
    status, advice = _scale(case)
    return (status, advice) if advice else _labels(case)


def _scale(case: Case) -> tuple[Status, str]:
    """Whether validation inputs, standardised as those for training are, have their mean and deviation.

    By the median over features and by the whole: a rare value in some columns is no other scale.
    """
    train, validation = case.seen(case.sample_rows(ROWS), "float64"), case.sample_validation(ROWS)[0]
    deviation = train.std(axis=0)
    varies = deviation > 0
    if not varies.any():
        return Status.PASS, ""
    ratios = validation.std(axis=0)[varies] / deviation[varies]
    shift = np.abs(validation.mean(axis=0) - train.mean(axis=0))[varies] / deviation[varies]
    low, high = sorted((float(np.median(ratios)), float(np.sqrt(np.mean(ratios**2)))))
    moved = float(np.median(shift))
    if high >= 1 / SCALE_LIMIT and low <= SCALE_LIMIT and moved <= SHIFT_LIMIT + 3 / math.sqrt(len(validation)):
        return Status.PASS, ""
    return Status.WARN, (
        f"the validation inputs are on another scale ({low:.2g} times as wide, moved by {moved:.2g} deviations): treat "
        "both parts alike, and standardise both with the training part's mean and deviation"
    )


def _labels(case: Case) -> tuple[Status, str]:
    """Whether classifiers of the training part are right about the validation part."""
    reached, wanted = signal.carried_over(case)
    if wanted < 2 * signal.DEVIATIONS or reached >= signal.DEVIATIONS:
        return Status.PASS, ""
    return (Status.FAIL if reached < signal.CHANCE else Status.WARN), (
        f"what holds in the training part does not in the validation part ({reached:+.1f} deviations from chance, "
        f"{wanted:+.0f} were to be expected): were its labels shuffled or shifted, or do they mean other classes?"
    )


def _alike(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both in one dtype, and with one kind of zero, so that equal rows have equal bytes."""
    dtype = np.result_type(a, b)
    if dtype.kind != "f":
        return a, b
    return a.astype(dtype) + 0, b.astype(dtype) + 0
