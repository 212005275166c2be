"""Does the backward pass compute the derivative of the loss? Compared with finite differences, for every parameter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cr.doctor.case import Case, Loss
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.errors import DTypeError, OptionError, TinygradError
from tinygrad_cr.gradcheck import gradcheck
from tinygrad_cr.nn import Module, Parameter
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.checkpoint import generators

ROWS = 6
TOLERANCE = 1e-6
"""Relative, in float64. Of 480 right networks none was off by more, and a factor of 1.001 is a thousand times more."""
ELEMENTS = 40
"""A larger parameter is checked along random directions, and a wrong element found by bisection."""
NAME = "gradients"


def check(case: Case) -> Check:
    """On a few rows in float64, with dropout off; a layer that draws numbers all the same draws the same ones."""
    expected = f"relative error below {TOLERANCE:g}"
    model, _, loss = case.copies()
    rows = case.sample_rows(ROWS)
    x, y = case.seen(rows, "float64"), case.labels[rows]
    x /= float(np.sqrt(np.mean(x**2))) or 1.0
    device = _move(model.to("float64").eval(), loss, x, y)
    generator = case.generator(5)
    for p in model.parameters():
        _to_usual_size(p, generator)
    sources = [(source, source.draw) for source in generators(model)]

    def cost() -> Tensor:
        for source, draw in sources:
            source.draw = draw
        return loss(model(Tensor(x, device=device)), y)

    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        report = gradcheck(
            cost, [], wrt=parameters, rtol=TOLERANCE, max_elements=ELEMENTS, directions=4, name="the loss", raises=False
        )
    except (DTypeError, OptionError) as problem:
        return Check(NAME, Status.SKIP, "could not be compared", expected, f"it wants float64 and no chance: {problem}")
    advice = ""
    wrong = [failure.argument for failure in report.failures]
    if wrong:
        first = report.failures[0]
        advice = f"the gradient of {', '.join(wrong)} is wrong ({first}); check the layer with tinygrad_cr.gradcheck"
    return Check(
        NAME,
        Status.FAIL if wrong else Status.PASS,
        f"{report.compared} derivatives, largest relative error {report.error:.1e}",
        expected,
        advice,
        {"error": report.error, "compared": report.compared, "wrong": wrong},
    )


def _move(model: Module, loss: Loss, x: Any, y: Any) -> str:
    """The device to check on: the reference kernels, unless model or loss make tensors of their own elsewhere.

    It is the rules that are checked, and the reference follows them without being compiled for float64 first.
    """
    try:
        model.to("reference")
        loss(model(Tensor(x, device="reference")), y)
        return "reference"
    except TinygradError:
        model.to("cpu")
        return "cpu"


def _to_usual_size(p: Parameter, generator: Generator) -> None:
    """Weights of 1 / sqrt(inputs), as LeCun draws them: steps are small beside these, and kinks are far away.

    A right rule is right at any size, but finite differences are not: beside weights of 1e-4 a step is large. The
    inputs are brought to size 1 for the same reason.
    """
    if p.data.ndim < 2:
        return
    size = float(np.sqrt(np.mean(np.square(p.data))))
    if not size:
        # Behind a layer of zeros no gradient could be told from a missing one.
        p.data[...], size = generator.normal(p.shape), 1.0
    p.data *= 1 / (size * math.sqrt(p.shape[-2]))
