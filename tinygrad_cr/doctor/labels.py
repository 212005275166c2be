"""Are the labels the numbers that the outputs stand for, and does every class have rows?"""

from __future__ import annotations

import numpy as np

from tinygrad_cr.doctor.case import Case, counted_from_one
from tinygrad_cr.doctor.verdict import Check, Status

IMBALANCE = 10.0
"""Rows of the largest class for one of the smallest: beyond this, accuracy hides whether the small one is learned."""
SURPRISE = 0.05
"""A class without rows is no accident where fewer than this many were to be expected among rows drawn at random."""
NAME = "labels"


def check(case: Case) -> Check:
    """Range, classes without rows, and balance."""
    counts = np.bincount(case.labels, minlength=case.classes)
    lowest, highest = int(case.labels.min()), int(case.labels.max())
    empty = np.flatnonzero(counts == 0)
    ratio = float(counts.max() / counts[counts > 0].min())
    measured = f"{lowest} to {highest}, {counts[counts > 0].min()} to {counts.max()} rows a class"
    if len(empty):
        measured += f", {len(empty)} classes without rows"
    expected = f"0 to {case.outputs - 1}, every class about as often"
    status, advice = Status.PASS, ""
    if counted_from_one(case.train, case.outputs):
        status = Status.FAIL
        advice = f"labels count from 1, outputs from 0: use y - 1 (there is no output for label {highest})"
    elif empty.tolist() == [0]:
        status = Status.FAIL
        advice = "class 0 alone has no rows: labels that count from 1? Use y - 1 and one output fewer"
    elif len(empty):
        shown = ", ".join(case.train.class_names[c] if c < len(case.train.class_names) else str(c) for c in empty[:5])
        by_chance = case.classes * (1 - 1 / case.classes) ** len(case.labels)
        status = Status.WARN if by_chance < SURPRISE else Status.PASS
        advice = f"no rows to learn these classes from: {shown}"
    elif ratio > IMBALANCE:
        status = Status.WARN
        advice = (
            f"the largest class has {ratio:.0f} times as many rows as the smallest: look at the accuracy of each "
            "class, and repeat or weight the rows of small ones"
        )
    values = {"lowest": lowest, "highest": highest, "counts": counts, "empty": empty, "imbalance": ratio}
    return Check(NAME, status, measured, expected, advice, values)
