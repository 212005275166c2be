"""Every row of the table of operations: its gradient is right, and the same on every backend."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from calls import FAST, GPU, evaluate_case
from tinygrad_cr import Tensor, nn, ops
from tinygrad_cr.gradcheck import gradcheck
from tinygrad_cr.op_table import CASES, Case, check_layer, layers
from tinygrad_cr.random import Generator

COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_gradient_agrees_with_finite_differences(case: Case, device: str) -> None:
    inputs = [Tensor(a, device=device) for a in case.inputs()]
    report = gradcheck(case.fn, inputs, name=case.operation, raises=False)
    assert report.ok, report


@pytest.mark.parametrize(("name", "layer", "shape"), layers(), ids=lambda v: v if isinstance(v, str) else "")
def test_the_gradient_of_a_layer_agrees_with_finite_differences(name: str, layer: nn.Module, shape: Any) -> None:
    report = check_layer(name, layer.to("float64"), Generator(1).normal(shape))
    assert report.ok, report


def test_every_differentiable_operation_is_in_the_table() -> None:
    public = {
        name
        for name, value in vars(ops).items()
        # A compiled function is none of Python's.
        if inspect.isroutine(value) and value.__module__ == ops.__name__ and not name.startswith("_")
    }
    assert public - COMPARISONS == {case.operation for case in CASES}


def test_every_layer_is_in_the_table() -> None:
    public = {v for v in vars(nn).values() if inspect.isclass(v) and issubclass(v, nn.Module) and v is not nn.Module}
    assert public == {type(layer) for _, layer, _ in layers()}


def test_every_operation_is_tried_on_numbers() -> None:
    assert {c.operation for c in CASES if c.inputs() and all(a.size for a in c.inputs())} == {
        c.operation for c in CASES
    }


def test_every_row_of_the_table_has_a_name_of_its_own() -> None:
    names = [str(case) for case in CASES]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_a_comparison_has_no_gradient(name: str) -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert not getattr(ops, name)(x, 1.5).requires_grad


@every_case
@pytest.mark.parametrize("device", FAST)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_equal_those_of_the_reference_backend(case: Case, device: str, dtype: str) -> None:
    limit = 1e-5 if dtype == "float32" else 1e-12
    value, gradients = evaluate_case(case, dtype, device)
    expected, expected_gradients = evaluate_case(case, dtype, "reference")
    for found, wanted in zip([value, *gradients], [expected, *expected_gradients], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=limit, atol=limit)


@every_case
def test_float32_stays_float32(case: Case) -> None:
    value, gradients = evaluate_case(case, "float32")
    assert {a.dtype for a in (value, *gradients) if a.size} <= {np.dtype(np.float32)}
