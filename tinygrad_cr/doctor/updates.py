"""How large is an update beside the weights it changes? Wanted near one in a thousand (CS231n)."""

from __future__ import annotations

import math

from tinygrad_cr.doctor import penalty
from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.rates import RATIO_HIGH, RATIO_LOW, WANTED_RATIO, RateRange
from tinygrad_cr.doctor.verdict import Check, Status

NAME = "update ratio"
EXPECTED = f"near {WANTED_RATIO:g}, within {RATIO_LOW:g} to {RATIO_HIGH:g}"


def check(case: Case, found: RateRange) -> Check:
    """Of each weight, at the suggested rate."""
    if not found.ratios:
        return Check(NAME, Status.SKIP, "not measured", EXPECTED, "there is no rate to measure it at")
    name, worst = max(found.ratios.items(), key=lambda item: abs(math.log10(item[1] / WANTED_RATIO)))
    outside = [each for each, ratio in found.ratios.items() if not RATIO_LOW <= ratio <= RATIO_HIGH]
    advice = ""
    if penalty.share(case) > penalty.SHARE_LIMIT:
        return Check(
            NAME, Status.SKIP, "updates are mostly the penalty", EXPECTED, f"look at this first: {penalty.NAME}"
        )
    if outside:
        size = "large" if worst > WANTED_RATIO else "small"
        advice = (
            f"updates of {', '.join(outside)} are {size} beside the weights even at the suggested rate: its initial "
            f"weights are too {'small' if worst > WANTED_RATIO else 'large'}, or the inputs of that layer too {size}"
        )
    return Check(
        NAME,
        Status.WARN if outside else Status.PASS,
        f"{worst:.1e} in {name}, at a rate of {found.suggestion:.2g}",
        EXPECTED,
        advice,
        {"rate": found.suggestion, "ratios": dict(found.ratios)},
    )
