"""Does dropout keep the expectation: is the mean over many masks in training the output in evaluation?

Inverted dropout divides by the probability of keeping in training, vanilla dropout multiplies by it in evaluation. One
of the two has to happen, and not both.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.nn import Module
from tinygrad_cr.nn.probe import observed
from tinygrad_cr.tape import no_grad
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import evaluation

ROWS = 64
MASKS = 64
DEVIATIONS = 5.0
SLACK = 1e-3
"""Rounding, and the quantised probability of keeping."""
CURVED_LIMIT = 0.3
"""For chance inside a nonlinearity, whose expectation agrees only roughly (a ReLU behind the mask raises it)."""
NAME = "dropout"
EXPECTED = "mean in training / output in evaluation = 1"


class Layer(NamedTuple):
    """A layer that draws: its scale (1 is right), what chance allows, and whether its masks only scale."""

    name: str
    scale: float
    tolerance: float
    linear: bool


def check(case: Case) -> Check:
    """Every layer by itself, on the input that reaches it in evaluation."""
    model, _, _ = case.copies()
    x, _ = case.sample(ROWS)
    seen: list[tuple[str, Module, Tensor, Any]] = []
    with evaluation(model):
        with observed(model, lambda name, layer, given, y: seen.append((name, layer, given, np.array(y.data)))):
            model(Tensor(x))
        layers = [layer for each in seen if (layer := _examine(*each)) is not None]
    if not layers:
        return Check(NAME, Status.SKIP, *_nothing(model, x))
    wrong = [layer for layer in layers if not abs(layer.scale - 1) <= layer.tolerance]
    worst = max(wrong or layers, key=lambda layer: abs(math.log(max(layer.scale, 1e-9))))
    status = Status.PASS
    if wrong:
        status = Status.FAIL if any(layer.linear for layer in wrong) else Status.WARN
    advice = (
        f"{', '.join(layer.name for layer in wrong)}: scale in training or in evaluation, not in both or neither"
        if wrong
        else ""
    )
    return Check(
        NAME,
        status,
        f"{worst.scale:.4f} ± {worst.tolerance:.4f} in {worst.name}",
        EXPECTED,
        advice,
        {"layers": {layer.name: {"scale": layer.scale, "tolerance": layer.tolerance} for layer in layers}},
    )


def _examine(name: str, layer: Module, x: Tensor, wanted: Any) -> Layer | None:
    """The layer in training, many times on one input; None if it leaves nothing to chance or lets nothing through.

    Each pass is projected on the output in evaluation: one number, 1 on average if the expectation is kept.
    """
    total = float(np.square(wanted, dtype=np.float64).sum())
    if not total:
        return None
    layer.train()
    try:
        with no_grad():
            first = np.array(layer(x).data)
            if np.array_equal(first, layer(x).data):
                return None
            scales = [float((layer(x).data * wanted).sum(dtype=np.float64)) / total for _ in range(MASKS)]
    finally:
        layer.eval()
    error = float(np.std(scales, ddof=1)) / math.sqrt(MASKS)
    linear = _only_masks(first, wanted)
    tolerance = DEVIATIONS * error + (SLACK if linear else CURVED_LIMIT)
    return Layer(name, float(np.mean(scales)), tolerance, linear)


def _only_masks(y: Any, wanted: Any) -> bool:
    """Whether each element is either 0 or one and the same multiple of what it is in evaluation."""
    kept = (wanted != 0) & (y != 0)
    ratios = y[kept] / wanted[kept]
    return bool(ratios.size) and bool(np.ptp(ratios) <= SLACK * np.abs(ratios).max()) and not y[wanted == 0].any()


def _nothing(model: Module, x: Any) -> tuple[str, str, str]:
    """Why there is nothing to say: no chance at all, or chance outside of layers."""
    model.train()
    with no_grad():
        first, second = (np.array(model(Tensor(x)).data) for _ in range(2))
    if np.array_equal(first, second, equal_nan=True):
        return "no layer draws random numbers", EXPECTED, ""
    return (
        "chance outside of layers",
        EXPECTED,
        "dropout in a forward() of your own: make it a layer to have it checked",
    )
