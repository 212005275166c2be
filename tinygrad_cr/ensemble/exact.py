"""`exact_expectation`: the mean over every mask that dropout can draw, by counting all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.ensemble.averaging import Array, log_softmax
from tinygrad_cr.ensemble.chain import chain, drops
from tinygrad_cr.errors import OptionError, ShapeError, unknown_name
from tinygrad_cr.nn import Affine, AffineReLUDropout, Dropout, Module, ReLU
from tinygrad_cr.operands import dropout_plan
from tinygrad_cr.random import keep_probability

MOST_UNITS = 16
"""2**16 masks are counted in a moment; each further unit doubles them."""
OUTPUTS = ("probabilities", "logits")
_NUMBERS = 1 << 22


@dataclass(frozen=True)
class Expectation:
    """What a network answers over all masks, each weighted by its probability.

    Attributes:
        mean: [n, outputs] float64.
        spread: the standard deviation from one mask to another, [n, outputs] float64.
        masks: how many there are.
    """

    mean: Array
    spread: Array
    masks: int


def exact_expectation(
    model: Module, x: Any, *, standardizer: Standardizer | None = None, output: str = "probabilities"
) -> Expectation:
    """The expectation of a small network over its 2**units masks, and the spread, computed in float64.

    This is what `mc_dropout` estimates, and what a pass in evaluation mode approximates. Through affine layers alone
    the two are equal, as the lecture shows for one neuron (CS231n, "dropout: at test time"): with p = 0.5,
    ``E[a] = (w0 x0 + w1 x1 + w0 x0 + w1 x1 + 0) / 4 = (w0 x0 + w1 x1) / 2``.

    Args:
        model: a `Sequential` of affine maps, ReLUs and dropout, such as an `MLP`; at most 16 units are dropped.
        x: [n, features], or images that flatten to that.
        standardizer: what the model wants done to x.
        output: "probabilities", the mean of the softmax, or "logits".

    Raises:
        OptionError: more units than that, layers of another kind, or an unknown output.
        ShapeError, DataError: x that does not fit, is empty, or holds inf or NaN.

    >>> from tinygrad_cr.nn import Sequential
    >>> neuron = Sequential(Dropout(0.5, mode="vanilla", generator=0), Affine(2, 1, init=0.0))
    >>> neuron.layers[1].weight.data[:] = [[3.0], [5.0]]
    >>> exact_expectation(neuron, [[1.0, 2.0]], output="logits").mean.item()  # (3 * 1 + 5 * 2) / 2
    6.5
    >>> neuron.eval()([[1.0, 2.0]]).item()
    6.5
    """
    if output not in OUTPUTS:
        raise unknown_name("output", output, OUTPUTS)
    layers = list(chain(model))
    for layer in layers:
        if drops(layer) is None:
            raise OptionError(f"masks are counted through affine maps, ReLU and dropout, not {type(layer).__name__}")
    rows = Dataset(x).x
    values = rows.astype(np.float64) if standardizer is None else standardizer.transform(rows, dtype="float64")
    wanted = next((layer.weight.shape[0] for layer in layers if isinstance(layer, Affine)), values.shape[1])
    if values.shape[1] != wanted:
        raise ShapeError(f"x has {values.shape[1]} features, the model takes {wanted}")
    units, widest = _units(layers, wanted)
    if units > MOST_UNITS:
        raise OptionError(
            f"the model drops {units} units, which is 2**{units} masks: at most {MOST_UNITS} units are counted; "
            "mc_dropout estimates the expectation of a larger network"
        )
    step = max(1, _NUMBERS // (2**units * widest))
    parts = [_moments(layers, values[start : start + step], output) for start in range(0, len(values), step)]
    mean, square = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Expectation(mean, np.sqrt(square), 2**units)


def _units(layers: list[Module], width: int) -> tuple[int, int]:
    """How many units are dropped, and the width of the widest layer."""
    units, widest = 0, width
    for layer in layers:
        if isinstance(layer, Affine):
            width = layer.weight.shape[1]
            widest = max(widest, width)
        if drops(layer):
            units += width
    return units, widest


def _moments(layers: list[Module], x: Array, output: str) -> tuple[Array, Array]:
    """Mean and variance over masks: [n, outputs] each."""
    values, chances = x[None], np.ones(1)
    for layer in layers:
        if isinstance(layer, Affine):
            values = values @ layer.weight.numpy().astype(np.float64) + layer.bias.numpy()
        if isinstance(layer, ReLU | AffineReLUDropout):
            values = np.maximum(values, 0)
        if isinstance(layer, Dropout | AffineReLUDropout) and drops(layer):
            values, chances = _masked(values, chances, layer)
    if output == "probabilities":
        values = np.exp(log_softmax(values))
    mean = np.tensordot(chances, values, 1)
    return mean, np.tensordot(chances, (values - mean) ** 2, 1)


def _masked(values: Array, chances: Array, layer: Dropout | AffineReLUDropout) -> tuple[Array, Array]:
    """Every case so far under every mask of one layer: [k, n, width], [k] -> [k * 2**width, n, width] and so on."""
    threshold, scale = dropout_plan(layer.dropout, layer.mode, training=True)
    keep = keep_probability(threshold)
    width = values.shape[2]
    masks = (np.arange(2**width)[:, None] >> np.arange(width)) & 1
    kept = masks.sum(axis=1)
    weights = keep**kept * (1 - keep) ** (width - kept)
    branched = values[:, None] * (masks * scale)[:, None]
    return branched.reshape(-1, *values.shape[1:]), np.outer(chances, weights).reshape(-1)
