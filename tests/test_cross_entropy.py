"""Softmax cross-entropy: finite where it should be, weighted as promised, and clear about labels that do not fit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from calls import EVERY, evaluate
from tinygrad_cr import Tensor, ops
from tinygrad_cr.errors import DataError, DTypeError, ShapeError

every_device = pytest.mark.parametrize("device", EVERY)
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def loss_and_gradient(logits: Any, labels: Any, weights: Any = None, device: str = "cpu") -> tuple[float, Any]:
    value, (gradient,) = evaluate(lambda z: ops.cross_entropy(z, labels, weights) * 1.0, [np.asarray(logits)], device)
    scale = evaluate(lambda x: x, [np.zeros(())])[1][0]  # `evaluate` walks back from a number that is not 1
    return float(value), gradient / scale


@every_device
@both_dtypes
@pytest.mark.parametrize("classes", [2, 3, 10, 257])
def test_equal_logits_cost_the_logarithm_of_the_number_of_classes(device: str, dtype: str, classes: int) -> None:
    loss, _ = loss_and_gradient(np.full((5, classes), 3.0, dtype), [0, 1, 0, 1, 1], device=device)
    assert loss == pytest.approx(np.log(classes), rel=1e-6)


@every_device
@both_dtypes
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("row", [(1e4, -1e4), (1e4, 1e4), (-1e4, -1e4), (-1e4, 1e4), (1e4, 0.0)], ids=str)
def test_logits_of_ten_thousand_cost_what_arithmetic_says(device: str, dtype: str, row: Any, label: int) -> None:
    loss, _ = loss_and_gradient(np.array([row], dtype), [label], device=device)
    assert loss == pytest.approx(np.logaddexp(*row) - row[label], rel=1e-6)


@every_device
@both_dtypes
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("row", [(1e4, -1e4), (1e4, 1e4), (-1e4, -1e4), (-1e4, 1e4)], ids=str)
def test_logits_of_ten_thousand_have_the_gradient_of_arithmetic(device: str, dtype: str, row: Any, label: int) -> None:
    _, gradient = loss_and_gradient(np.array([row], dtype), [label], device=device)
    expected = np.exp(np.array(row) - np.logaddexp(*row)) - np.eye(2)[label]
    np.testing.assert_allclose(gradient, [expected], atol=1e-6)


@every_device
@both_dtypes
def test_minus_infinity_in_other_columns_is_a_class_that_cannot_be(device: str, dtype: str) -> None:
    masked = np.array([[1.0, -np.inf, 0.5, -np.inf], [-np.inf, 2.0, -np.inf, -np.inf]], dtype)
    loss, gradient = loss_and_gradient(masked, [0, 1], device=device)
    possible, expected = loss_and_gradient(np.array([[1.0, 0.5]], dtype), [0], device=device)
    assert loss == pytest.approx(possible / 2, rel=1e-6)
    np.testing.assert_allclose(gradient, [[expected[0, 0] / 2, 0, expected[0, 1] / 2, 0], [0] * 4], atol=1e-7)


@every_device
@given(batch=strategies.classifications(), shift=st.floats(-100, 100), data=st.data())
def test_a_constant_added_to_a_row_changes_nothing(device: str, batch: Any, shift: float, data: st.DataObject) -> None:
    logits, labels = batch
    moved = logits.copy()
    moved[data.draw(st.integers(0, len(labels) - 1))] += shift
    loss, gradient = loss_and_gradient(logits, labels, device=device)
    moved_loss, moved_gradient = loss_and_gradient(moved, labels, device=device)
    np.testing.assert_allclose([moved_loss, *moved_gradient.flat], [loss, *gradient.flat], rtol=1e-10, atol=1e-12)


@every_device
@given(batch=strategies.classifications())
def test_the_gradient_of_a_row_sums_to_0(device: str, batch: Any) -> None:
    _, gradient = loss_and_gradient(*batch, device=device)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-14)


@every_device
@given(batch=strategies.classifications())
def test_it_equals_log_softmax_picked_at_the_labels(device: str, batch: Any) -> None:
    logits, labels = batch
    each = ops.log_softmax(Tensor(logits, device=device))[np.arange(len(labels)), labels]
    assert loss_and_gradient(logits, labels, device=device)[0] == pytest.approx(
        -each.mean().item(), rel=1e-12, abs=1e-14
    )


@every_device
@given(batch=strategies.classifications(), data=st.data())
def test_a_row_of_weight_k_is_k_copies_of_it(device: str, batch: Any, data: st.DataObject) -> None:
    logits, labels = batch
    copies = data.draw(strategies.counts(len(labels)))
    weighted, gradient = loss_and_gradient(logits, labels, copies.astype(float), device)
    repeated, gradient_of_copies = loss_and_gradient(logits.repeat(copies, 0), labels.repeat(copies), device=device)
    added = np.zeros_like(gradient)
    np.add.at(added, np.arange(len(labels)).repeat(copies), gradient_of_copies)
    np.testing.assert_allclose([weighted, *gradient.flat], [repeated, *added.flat], rtol=1e-10, atol=1e-14)


@every_device
@given(batch=strategies.classifications(), factor=st.floats(1e-3, 1e3))
def test_only_the_proportions_of_weights_count(device: str, batch: Any, factor: float) -> None:
    logits, labels = batch
    weights = 1.0 + np.arange(len(labels))
    expected = loss_and_gradient(logits, labels, weights, device)[0]
    found = loss_and_gradient(logits, labels, weights * factor, device)[0]
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-14)


@both_dtypes
def test_weights_may_have_another_dtype_than_the_logits(dtype: str) -> None:
    logits = np.array([[1.0, 2.0], [0.0, 3.0]], dtype)
    found = [
        loss_and_gradient(logits, [0, 1], w)[0] for w in ([1, 3], np.array([1, 3], "float32"), np.array([1.0, 3.0]))
    ]
    assert found == [found[0]] * 3


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_labels_of_any_integer_dtype_are_taken(dtype: str) -> None:
    logits = np.array([[1.0, 2.0], [0.0, 3.0]])
    found = loss_and_gradient(logits, np.array([0, 1], dtype))[0]
    assert found == loss_and_gradient(logits, [0, 1])[0]


@every_device
def test_nan_in_the_logits_makes_the_loss_nan(device: str) -> None:
    assert np.isnan(loss_and_gradient(np.array([[np.nan, 1.0], [0.0, 1.0]]), [0, 1], device=device)[0])


LOGITS = np.zeros((3, 4), "float32")


@every_device
@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0], [1.0, 0.0, 1.0]], ids=["none", "ones", "zero there"])
@pytest.mark.parametrize("label", [-1, 4, 2**40])
def test_a_label_out_of_range_is_named_with_its_row(device: str, label: int, weights: Any) -> None:
    with pytest.raises(
        DataError, match=re.escape(f"label {label} in row 1 is outside [0, 4): the logits have 4 columns")
    ):
        ops.cross_entropy(Tensor(LOGITS, device=device), [0, label, 3], weights)


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.0], [True, False, True]], ids=["float", "bool"])
def test_labels_that_are_no_integers_are_refused_with_the_remedy(labels: Any) -> None:
    with pytest.raises(DTypeError, match=r"labels must be integers, got (float64|bool); convert with y\.astype\(int\)"):
        ops.cross_entropy(LOGITS, labels)


BAD_SHAPES: dict[str, tuple[Any, Any, str]] = {
    "too few labels": (LOGITS, [0, 1], r"\(3, 4\) and \(2,\)"),
    "one-hot labels": (LOGITS, np.eye(3, 4, dtype=int), r"\(3, 4\) and \(3, 4\)"),
    "1-d logits": (LOGITS[0], [0], r"\(4,\) and \(1,\)"),
    "no rows": (LOGITS[:0], np.zeros(0, int), r"\(0, 4\) and \(0,\)"),
    "no classes": (LOGITS[:, :0], [0, 0, 0], r"\(3, 0\) and \(3,\)"),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_shapes_that_do_not_fit_are_named(name: str) -> None:
    logits, labels, text = BAD_SHAPES[name]
    with pytest.raises(ShapeError, match=text):
        ops.cross_entropy(logits, labels)


def test_weights_of_another_length_are_refused_with_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"one weight a row: logits \(3, 4\), weights \(2,\)"):
        ops.cross_entropy(LOGITS, [0, 1, 2], [1.0, 1.0])


@pytest.mark.parametrize("weights", [[1, -1, 1], [0, 0, 0], [1, np.nan, 1]], ids=str)
def test_weights_that_are_negative_nan_or_all_zero_are_refused(weights: Any) -> None:
    with pytest.raises(DataError, match="sample weights must be finite, >= 0 and not all zero"):
        ops.cross_entropy(LOGITS, [0, 1, 2], weights)


def test_integer_logits_are_refused_with_the_remedy() -> None:
    with pytest.raises(DTypeError, match=r"cross_entropy wants float32 or float64, got int64; convert"):
        ops.cross_entropy(np.zeros((3, 4), int), [0, 1, 2])
