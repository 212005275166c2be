"""Are the inputs numbers that a network learns from well: finite, centred, of one scale, and not constant?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.verdict import Check, Status

MEAN_LIMIT = 0.5
"""Of the size of x, this much may be its mean. Pixels of 0 to 255, or 0 to 1, have 0.6 to 0.9; standardised ones 0."""
SCALE_LIMIT = 100.0
"""The deviation of a feature over the median deviation, or the other way round."""
ROWS = 10_000
NAME = "inputs"
EXPECTED = "finite, mean near 0, features of one scale, none constant"


def check(case: Case) -> Check:
    """Look at every number once for NaN and inf, and at a sample of rows as the network sees them for the rest."""
    if not case.finite:
        return _not_finite(case)
    if case.constant:
        return _all_constant(case)
    x = case.seen(case.sample_rows(ROWS), "float64")
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    size = float(np.sqrt(np.mean(x**2)))
    share = float(np.sqrt(np.mean(mean**2))) / size if size else 0.0
    constant, stuck = _constant(case)
    varying = np.setdiff1d(np.arange(x.shape[1]), constant)
    wild, spread = _wild(deviation, varying, case.train.image_shape is not None)
    status, advice = _judge(case, share, stuck, wild)
    values = {
        "mean_share": share,
        "size": size,
        "low": x.min(),
        "high": x.max(),
        "features": x.shape[1],
        "constant": len(constant),
        "stuck": stuck[:10],
        "wild": wild[:10],
        "scale_spread": spread,
    }
    measured = f"mean {share:.2g} of the size, values {x.min():.3g} to {x.max():.3g}, {len(constant)} constant features"
    return Check(NAME, status, measured, EXPECTED, advice, values)


def _not_finite(case: Case) -> Check:
    raw = case.train.x
    bad = np.argwhere(~np.isfinite(raw)) if raw.dtype.kind == "f" else np.empty((0, 2), int)
    if len(bad):
        row, column = (int(i) for i in bad[0])
        measured = f"{len(bad)} NaN or inf, the first ({raw[row, column]}) in row {row}, column {column}"
        advice = "remove the rows, or fill the gaps in (with the column's median, say) before training"
    else:
        measured = case.overflow or "numbers too large to add up"
        advice = "rescale the column: divide it by its largest value, or take the logarithm"
    return Check(NAME, Status.FAIL, measured, EXPECTED, advice, {"not_finite": len(bad)})


def _all_constant(case: Case) -> Check:
    features = case.train.features
    still = features - case.varying
    first = case.train.x[0].tolist()[:3]
    advice = f"the inputs are lost: every row begins with {first}; look at how they were read, scaled or rounded"
    if case.varying:
        advice = "nearly nothing of the inputs is left: look at how they were read, scaled or rounded"
    values = {"features": features, "constant": still}
    return Check(NAME, Status.FAIL, f"{still} of {features} features are constant", EXPECTED, advice, values)


def _constant(case: Case) -> tuple[list[int], list[int]]:
    """The features that never change, and those of them that an image would not have.

    A background is black or white in every row; a pixel that is stuck in between is broken.
    """
    low, high = case.train.x.min(axis=0), case.train.x.max(axis=0)
    constant = np.flatnonzero(low == high)
    if case.train.image_shape is None:
        return constant.tolist(), constant.tolist()
    background = (low == low.min()) | (high == high.max())
    return constant.tolist(), constant[~background[constant]].tolist()


def _wild(deviation: np.ndarray[Any, Any], varying: np.ndarray[Any, Any], image: bool) -> tuple[list[int], float]:
    """Features of another scale than most. The pixels of an image share one: a dim corner is no error."""
    if not len(varying):
        return [], 1.0
    typical = float(np.median(deviation[varying]))
    if not typical:
        return [], 1.0
    relative = deviation[varying] / typical
    outside = relative > SCALE_LIMIT
    if not image:
        outside |= relative < 1 / SCALE_LIMIT
    return varying[outside].tolist(), float(relative.max() / relative.min()) if relative.min() else float("inf")


def _judge(case: Case, share: float, stuck: list[int], wild: list[int]) -> tuple[Status, str]:
    if share > MEAN_LIMIT:
        mode = "mean-image" if case.train.image_shape is not None else "per-feature"
        return Status.FAIL, f'standardise the inputs: standardize="{mode}" subtracts the mean of the training part'
    advice = []
    if wild:
        advice.append(
            f"features of another scale than most: {_some(wild)}; standardize='per-feature' gives all the same"
        )
    if stuck:
        what = "pixels" if case.train.image_shape is not None else "features"
        advice.append(f"{what} with one value in every row say nothing, leave them out: {_some(stuck)}")
    return (Status.WARN if advice else Status.PASS), "; ".join(advice)


def _some(columns: list[int]) -> str:
    return ", ".join(map(str, columns[:5])) + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")
