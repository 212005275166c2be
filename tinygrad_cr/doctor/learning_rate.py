"""Is the learning rate that was chosen one that works?"""

from __future__ import annotations

import math

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.rates import RateRange
from tinygrad_cr.doctor.verdict import Check, Status

HALF = 0.5
"""A rate above the suggestion should gain so much of what the best rate does."""
NAME = "learning rate"


def check(case: Case, found: RateRange) -> Check:
    """Hold it against the range; without one, only suggest."""
    suggestion = found.suggestion
    bracket = f"between {found.low:.2g} (the cost barely moves) and {found.high:.2g} (it explodes)"
    values = found.to_dict() | {"lr": case.lr}
    measured = "none was chosen" if case.lr is None else f"{case.lr:.3g}"
    if suggestion is None:
        advice = "at no rate does the cost fall: look at the checks above, and at the strength of the penalty"
        return Check(NAME, Status.FAIL, measured, "a rate at which the cost falls", advice, values)
    status, advice = Status.PASS, f"a good one to begin with: {suggestion:.2g}"
    if case.lr is not None and not found.low < case.lr < found.high:
        status = Status.FAIL
        what = "the cost barely moves" if case.lr <= found.low else "the cost explodes"
        advice = f"{what} at {case.lr:.3g}: try {suggestion:.2g}"
    elif case.lr is not None and case.lr > suggestion and _gain(found, case.lr) < HALF:
        status = Status.WARN
        advice = (
            f"the cost does not explode at {case.lr:.3g}, but falls by little: it is too high, try {suggestion:.2g}"
        )
    return Check(NAME, status, measured, bracket, advice, values)


def _gain(found: RateRange, lr: float) -> float:
    """How far the cost falls at the rate of the grid next to this one, beside the best."""
    cost = min(zip(found.rates, found.costs, strict=True), key=lambda tried: abs(math.log(tried[0] / lr)))[1]
    return (found.initial - cost) / (found.initial - min(found.costs))
