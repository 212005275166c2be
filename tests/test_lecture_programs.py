"""The lecture's own programs: what they compute, what they print, and that the engine does it.

`two_layer_net` and the dropout networks are held against the same programs written out in NumPy below, with their
gradients by hand; those hands are held against finite differences, as is the engine.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import tinygrad_cr
from tinygrad_cr import ops, optim
from tinygrad_cr.data import load
from tinygrad_cr.errors import (
    DataError,
    DownloadError,
    DTypeError,
    OptionError,
    ShapeError,
    StateDictError,
    TinygradError,
)
from tinygrad_cr.kernels import reference
from tinygrad_cr.lecture import ClassifierTrainer, InvertedDropout, VanillaDropout, init_two_layer_model, two_layer_net
from tinygrad_cr.random import Generator, keep_probability, keep_threshold

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "data"
REFERENCE = [
    {key: float(value) for key, value in row.items()}
    for row in csv.DictReader((FOLDER / "reference-overfit20.csv").read_text().splitlines())
]
Arrays = dict[str, np.ndarray]


def problem(n: int = 7, d: int = 4, h: int = 5, c: int = 3, seed: int = 0, dtype: str = "float64") -> Any:
    """X, model and y with weights large enough for every term to matter."""
    rng = np.random.default_rng(seed)
    shapes = {"W1": (d, h), "b1": (h,), "W2": (h, c), "b2": (c,)}
    model = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return rng.standard_normal((n, d)).astype(dtype), model, rng.integers(0, c, n)


# init_two_layer_model


def test_a_model_has_the_lectures_names_and_shapes():
    shapes = {name: array.shape for name, array in init_two_layer_model(3072, 50, 10).items()}
    assert shapes == {"W1": (3072, 50), "b1": (50,), "W2": (50, 10), "b2": (10,)}


def test_weights_are_normal_with_the_lectures_deviation():
    w = init_two_layer_model(3072, 50, 10, generator=0)["W1"].ravel() / 1e-4
    # Mean, variance and fourth moment of 153,600 standard normals, each within 5 standard errors.
    errors = [w.mean(), (w**2).mean() - 1, (w**4).mean() - 3] * np.sqrt(w.size / np.array([1, 2, 96]))
    assert np.abs(errors).max() < 5


def test_biases_are_zero():
    model = init_two_layer_model(8, 5, 3)
    assert not model["b1"].any()
    assert not model["b2"].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_has_the_dtype_that_was_asked_for(dtype):
    assert {str(array.dtype) for array in init_two_layer_model(8, 5, 3, dtype=dtype).values()} == {dtype}


def test_a_model_is_float64_unless_asked_otherwise_as_numpy_has_it():
    assert init_two_layer_model(8, 5, 3)["W1"].dtype == np.float64


def test_the_same_seed_gives_the_same_model():
    first, second = (init_two_layer_model(8, 5, 3, generator=4)["W1"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_without_a_seed_every_model_is_another():
    first, second = (init_two_layer_model(8, 5, 3)["W1"] for _ in range(2))
    assert (first != second).all()


@pytest.mark.parametrize("sizes", [(0, 5, 3), (8, -1, 3), (8, 5, 2.5)])
def test_a_size_that_is_no_positive_integer_is_refused(sizes):
    with pytest.raises(OptionError, match=r"_size must be an integer of at least 1"):
        init_two_layer_model(*sizes)


# two_layer_net


def handwritten(X: Any, model: Arrays, y: Any = None, reg: float = 0.0) -> Any:
    """The lecture's network as a course hand-in would have it."""
    hidden = np.maximum(0, X @ model["W1"] + model["b1"])
    scores = hidden @ model["W2"] + model["b2"]
    if y is None:
        return scores
    rows = np.arange(len(X))
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[rows, y]).mean()
    loss += 0.5 * reg * ((model["W1"] ** 2).sum() + (model["W2"] ** 2).sum())
    dscores = probabilities.copy()
    dscores[rows, y] -= 1
    dscores /= len(X)
    dhidden = np.where(hidden > 0, dscores @ model["W2"].T, 0)
    grads = {
        "W1": X.T @ dhidden + reg * model["W1"],
        "b1": dhidden.sum(axis=0),
        "W2": hidden.T @ dscores + reg * model["W2"],
        "b2": dscores.sum(axis=0),
    }
    return loss, grads


def assert_slopes(loss: Callable[[Arrays], float], model: Arrays, grads: Arrays) -> None:
    """Each gradient agrees with central differences, element by element."""
    step = 1e-6
    for name, values in model.items():
        for index in np.ndindex(values.shape):
            moved = {sign: {n: a.copy() for n, a in model.items()} for sign in (-1, 1)}
            for sign, arrays in moved.items():
                arrays[name][index] += sign * step
            slope = (loss(moved[1]) - loss(moved[-1])) / (2 * step)
            assert grads[name][index] == pytest.approx(slope, rel=1e-6, abs=1e-8), (name, index)


NETWORKS = {"lecture": two_layer_net, "handwritten": handwritten}


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("reg", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_agree_with_finite_differences(net, reg, seed):
    X, model, y = problem(seed=seed)
    assert_slopes(lambda moved: net(X, moved, y, reg)[0], model, net(X, model, y, reg)[1])


PLANTED: dict[str, Callable[[Arrays, Arrays], Arrays]] = {
    "scaled by 1.001": lambda grads, _: {name: 1.001 * grad for name, grad in grads.items()},
    "a missing bias": lambda grads, _: grads | {"b1": 0 * grads["b1"]},
    "a penalty with the wrong sign": lambda grads, model: grads | {"W2": grads["W2"] - 2 * 0.7 * model["W2"]},
    "a penalty on a bias": lambda grads, model: grads | {"b2": grads["b2"] + 0.7 * model["b2"]},
}


@pytest.mark.parametrize("wrong", PLANTED.values(), ids=PLANTED)
def test_a_wrong_gradient_is_caught_by_finite_differences(wrong):
    X, model, y = problem()
    grads = wrong(two_layer_net(X, model, y, 0.7)[1], model)
    with pytest.raises(AssertionError):
        assert_slopes(lambda moved: two_layer_net(X, moved, y, 0.7)[0], model, grads)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("reg", [0.0, 0.7])
@pytest.mark.parametrize("shape", [(7, 4, 5, 3), (1, 1, 1, 1), (33, 17, 50, 10)])
def test_loss_and_gradients_are_those_of_the_handwritten_network(shape, reg, dtype, tolerance):
    X, model, y = problem(*shape, dtype=dtype)
    loss, grads = two_layer_net(X, model, y, reg)
    wanted, wanted_grads = handwritten(X, model, y, reg)
    assert loss == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, wanted_grads[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_without_labels_it_gives_the_scores():
    X, model, _ = problem()
    np.testing.assert_allclose(two_layer_net(X, model), handwritten(X, model), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_and_scores_have_the_dtype_of_the_model(dtype):
    X, model, y = problem(dtype=dtype)
    _, grads = two_layer_net(X, model, y, 0.1)
    assert {array.dtype.name for array in [*grads.values(), two_layer_net(X, model)]} == {dtype}


@pytest.mark.parametrize("given", [np.uint8, np.int64, np.float32, np.float64, list])
def test_rows_of_any_numbers_are_computed_with_in_the_dtype_of_the_model(given):
    X, model, y = problem(dtype="float64")
    pixels = np.round(np.abs(10 * X))
    rows = pixels.tolist() if given is list else pixels.astype(given)
    assert two_layer_net(rows, model, y)[0] == two_layer_net(pixels, model, y)[0]


def test_gradients_come_in_the_order_of_the_model():
    X, model, y = problem()
    assert list(two_layer_net(X, model, y)[1]) == ["W1", "b1", "W2", "b2"]


def test_it_changes_neither_model_nor_data():
    X, model, y = problem()
    before = [a.tobytes() for a in (X, y, *model.values())]
    two_layer_net(X, model, y, 0.5)
    assert [a.tobytes() for a in (X, y, *model.values())] == before


def test_the_initial_loss_is_the_slides():
    # 2.30261216167, "loss ~2.3: correct for 10 classes", and with reg 1e3 3.06859716482 on another draw of weights.
    X = load(FOLDER / "cifar10-20.npz").x.astype(float)
    model, y = init_two_layer_model(32 * 32 * 3, 50, 10, generator=0), np.arange(20) % 10
    assert two_layer_net(X, model, y, 0.0)[0] == pytest.approx(math.log(10), abs=1e-3)
    assert two_layer_net(X, model, y, 1e3)[0] == pytest.approx(3.07, abs=0.01)


@pytest.mark.parametrize("reg", [1e-3, 1.0, 1e3])
def test_regularization_raises_the_loss_by_exactly_its_penalty(reg):
    X, model, y = problem()
    penalty = 0.5 * reg * sum((model[name] ** 2).sum() for name in ("W1", "W2"))
    raised = two_layer_net(X, model, y, reg)[0] - two_layer_net(X, model, y, 0.0)[0]
    assert raised == pytest.approx(penalty, rel=1e-9)


@pytest.mark.parametrize("size", [1e30, np.inf, np.nan])
def test_a_model_that_exploded_has_a_cost_and_raises_no_warning(size):
    X, model, y = problem(dtype="float32")
    model["W1"][...] = size
    loss, _ = two_layer_net(X, model, y, 1.0)
    assert not math.isfinite(loss)


def without(name: str) -> Arrays:
    return {key: value for key, value in problem()[1].items() if key != name}


BAD_CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a model without b2": (
        lambda: two_layer_net(problem()[0], without("b2"), problem()[2]),
        StateDictError,
        "lacks b2; init_two_layer_model makes a whole one",
    ),
    "another number of features": (
        lambda: two_layer_net(np.ones((7, 9)), problem()[1], problem()[2]),
        ShapeError,
        r"\(7, 9\), \(4, 5\), \(5,\)",
    ),
    "images that are not flattened": (
        lambda: two_layer_net(np.ones((7, 2, 2)), problem()[1], problem()[2]),
        ShapeError,
        r"\(7, 2, 2\), \(4, 5\)",
    ),
    "a label too few": (lambda: two_layer_net(problem()[0], problem()[1], [0] * 6), ShapeError, r"\(7, 3\) and \(6,\)"),
    "a label out of range": (lambda: two_layer_net(problem()[0], problem()[1], [0] * 6 + [3]), DataError, "label 3"),
    "labels that are no integers": (
        lambda: two_layer_net(problem()[0], problem()[1], [0.5] * 7),
        DTypeError,
        "labels must be integers",
    ),
    "weights of two dtypes": (
        lambda: two_layer_net(problem()[0], problem()[1] | {"W2": np.ones((5, 3), "float32")}, problem()[2]),
        DTypeError,
        "float64 and float32",
    ),
    "weights of integers": (
        lambda: two_layer_net(problem()[0], problem()[1] | {"W1": np.ones((4, 5), int)}, problem()[2]),
        DTypeError,
        "int64",
    ),
    "a negative penalty": (lambda: two_layer_net(*problem(), -1), OptionError, "reg must be a finite number >= 0"),
    "a penalty that is no number": (lambda: two_layer_net(*problem(), "1"), OptionError, "reg must be"),
}


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_two_layer_net_refuses(kind):
    call, error, message = BAD_CALLS[kind]
    with pytest.raises(error, match=message) as raised:
        call()
    assert isinstance(raised.value, TinygradError)


# ClassifierTrainer: the lines


def scripted(costs: list[float], right: list[float]) -> Callable[..., Any]:
    """A loss function that costs what it is told to, and knows that fraction of rows of class 0 after each update."""
    updates = iter(costs)
    done = -1

    def loss_function(X: Any, model: Arrays, y: Any = None, reg: float = 0.0) -> Any:
        nonlocal done
        if y is None:
            known = right[max(done, 0)]
            return np.where(np.arange(len(X))[:, None] < known * len(X), [1.0, 0.0], [0.0, 1.0])
        done += 1
        return next(updates), {name: np.zeros_like(array) for name, array in model.items()}

    return loss_function


ROWS = np.zeros((20, 2)), np.zeros(20, int)
DUMMY = {"W": np.zeros((2, 2))}


def run_script(costs: list[float], right: list[float], **options: Any) -> tuple[Arrays, dict[str, Any]]:
    wanted = {"num_epochs": len(right), "sample_batches": False, "verbose": True, "learning_rate": 1e-3}
    return ClassifierTrainer().train(*ROWS, *ROWS, DUMMY, scripted(costs, right), **wanted | options)


def test_the_lines_are_the_slides_to_the_letter(capsys):
    # The first, second, fourth and last epoch of the slide.
    run_script([2.302603, 2.302258, 2.301196, 0.002597], [0.4, 0.45, 0.65, 1.0])
    assert capsys.readouterr().out == (
        "starting iteration 0\n"
        "Finished epoch 1 / 4: cost 2.302603, train: 0.400000, val 0.400000, lr 1.000000e-03\n"
        "Finished epoch 2 / 4: cost 2.302258, train: 0.450000, val 0.450000, lr 1.000000e-03\n"
        "Finished epoch 3 / 4: cost 2.301196, train: 0.650000, val 0.650000, lr 1.000000e-03\n"
        "Finished epoch 4 / 4: cost 0.002597, train: 1.000000, val 1.000000, lr 1.000000e-03\n"
        "finished optimization. best validation accuracy: 1.000000\n"
    )


def test_a_cost_that_is_nan_prints_as_on_the_slide(capsys):
    run_script([math.nan], [0.1], learning_rate=1e6, early_stop=False, num_epochs=1)
    assert capsys.readouterr().out.splitlines()[1] == (
        "Finished epoch 1 / 1: cost nan, train: 0.100000, val 0.100000, lr 1.000000e+06"
    )


def test_it_is_silent_unless_asked(capsys):
    run_script([1.0], [0.5], verbose=False)
    assert capsys.readouterr().out == ""


def test_the_learning_rate_in_a_line_is_that_of_its_epoch(capsys):
    run_script([1.0] * 3, [0.5] * 3, learning_rate=0.5, learning_rate_decay=0.5)
    assert re.findall(r"lr (\S+)", capsys.readouterr().out) == ["5.000000e-01", "2.500000e-01", "1.250000e-01"]


# What it trains


def data(n: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping clouds of points with 4 features."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.standard_normal((n, 4)) + 1.5 * np.eye(3, 4)[y], y


TRAIN, VALIDATION = data(30), data(12, seed=1)


def train(loss_function: Callable[..., Any] = two_layer_net, model: Arrays | None = None, **options: Any) -> Any:
    wanted = {"num_epochs": 4, "learning_rate": 0.1, "batch_size": 8}
    start = problem()[1] if model is None else model
    return ClassifierTrainer(generator=0).train(*TRAIN, *VALIDATION, start, loss_function, **wanted | options)


@pytest.mark.parametrize("update", ["sgd", "momentum"])
def test_full_batch_training_is_the_lectures_update_written_out(update):
    X, y = TRAIN
    model = {name: array.copy() for name, array in problem()[1].items()}
    velocity = {name: np.zeros_like(array) for name, array in model.items()}
    momentum = 0.8 if update == "momentum" else 0.0
    costs = []
    for _ in range(6):
        cost, grads = handwritten(X, model, y, 0.3)
        costs.append(cost)
        for name in model:
            velocity[name] = momentum * velocity[name] - 0.1 * grads[name]
            model[name] += velocity[name]
    # The cost of each epoch depends on every parameter that the updates before it left.
    options = {"update": update, "momentum": 0.8, "reg": 0.3, "sample_batches": False, "num_epochs": 6}
    _, stats = train(**options)
    np.testing.assert_allclose(stats["loss_history"], costs, rtol=1e-11)


def test_the_update_sgd_ignores_momentum():
    costs = [train(update="sgd", momentum=m)[1]["loss_history"] for m in (0.0, 0.9)]
    assert costs[0] == costs[1]


def test_the_decay_of_the_learning_rate_takes_effect_after_each_epoch():
    X, y = TRAIN
    model = {name: array.copy() for name, array in problem()[1].items()}
    costs = []
    for lr in (0.1, 0.05, 0.025):
        cost, grads = handwritten(X, model, y)
        costs.append(cost)
        model = {name: array - lr * grads[name] for name, array in model.items()}
    _, stats = train(sample_batches=False, num_epochs=3, learning_rate_decay=0.5)
    np.testing.assert_allclose(stats["loss_history"], costs, rtol=1e-11)


class Watched:
    """two_layer_net, and the rows that it was shown to learn from."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def __call__(self, X: Any, model: Arrays, y: Any = None, reg: float = 0.0) -> Any:
        if y is not None:
            self.batches.append(np.array(X))
        return two_layer_net(X, model, y, reg)


def test_an_epoch_of_minibatches_shows_each_row_once():
    watched = Watched()
    train(watched, num_epochs=2)
    assert [len(batch) for batch in watched.batches] == [8, 8, 8, 6] * 2
    for epoch in (watched.batches[:4], watched.batches[4:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch), axis=0), np.sort(TRAIN[0], axis=0))


def test_epochs_are_shuffled_differently():
    watched = Watched()
    train(watched, num_epochs=2)
    assert not np.array_equal(watched.batches[0], watched.batches[4])


def test_without_sampling_an_update_sees_all_rows_in_order():
    watched = Watched()
    train(watched, num_epochs=2, sample_batches=False)
    np.testing.assert_array_equal(watched.batches, [TRAIN[0]] * 2)


def test_the_same_seed_gives_the_same_run():
    (first, a), (second, b) = train(), train()
    assert a == b
    assert all((first[name] == second[name]).all() for name in first)


def test_the_model_that_was_given_stays_as_it_is():
    model = problem()[1]
    before = {name: array.copy() for name, array in model.items()}
    train(model=model)
    np.testing.assert_equal(model, before)


def test_stats_hold_a_cost_an_update_and_accuracies_an_epoch():
    _, stats = train(num_epochs=3)
    assert {key: len(stats[key]) for key in stats if stats[key] is not None} == {
        "loss_history": 12,
        "train_acc_history": 3,
        "val_acc_history": 3,
    }


def test_accuracies_are_those_after_the_epochs_updates():
    best, stats = train(num_epochs=1)
    for (X, y), key in ((TRAIN, "train_acc_history"), (VALIDATION, "val_acc_history")):
        assert stats[key] == [(two_layer_net(X, best).argmax(axis=1) == y).mean()]


def test_of_the_best_epochs_the_first_is_kept():
    seen = []

    def wavering(X: Any, model: Arrays, y: Any = None, reg: float = 0.0) -> Any:
        """Moves its weight by 1 an update, and is right about everything at 2 and at 4."""
        if y is not None:
            return 1.0, {"W": -np.ones((2, 2))}
        seen.append(float(model["W"][0, 0]))
        return np.tile([1.0, 0.0] if seen[-1] in (2, 4) else [0.0, 1.0], (len(X), 1))

    best, stats = ClassifierTrainer().train(
        *ROWS, *ROWS, DUMMY, wavering, learning_rate=1.0, num_epochs=5, sample_batches=False
    )
    assert stats["val_acc_history"] == [0, 1, 0, 1, 0]
    assert best["W"][0, 0] == 2


def test_the_training_accuracy_is_measured_on_at_most_1000_rows():
    asked = set()

    def counting(X: Any, model: Arrays, y: Any = None, reg: float = 0.0) -> Any:
        if y is None:
            asked.add(len(X))
        return two_layer_net(X, model, y, reg)

    ClassifierTrainer(0).train(*data(3001), *data(50), problem()[1], counting, num_epochs=1, batch_size=1000)
    assert asked == {1000, 50}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_trains_in_the_dtype_of_the_model(dtype):
    best, _ = train(model=problem(dtype=dtype)[1])
    assert {array.dtype.name for array in best.values()} == {dtype}


def test_a_loss_function_of_ones_own_learns():
    def softmax_regression(X: Any, model: Arrays, y: Any = None, reg: float = 0.0) -> Any:
        scores = X @ model["weights"]
        if y is None:
            return scores
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        cost = -np.log(p[np.arange(len(y)), y]).mean() + 0.5 * reg * (model["weights"] ** 2).sum()
        return cost, {"weights": X.T @ (p - np.eye(3)[y]) / len(y) + reg * model["weights"]}

    best, stats = train(softmax_regression, {"weights": np.zeros((4, 3))}, num_epochs=20, reg=0.01)
    assert list(best) == ["weights"]
    assert stats["loss_history"][-1] < 0.7 * stats["loss_history"][0]


# Stopping early


def test_a_cost_of_more_than_three_times_the_original_one_ends_training(capsys):
    _, stats = run_script([1.0, 2.9, 3.0, 3.1, 1.0], [0.5] * 5)
    assert stats["loss_history"] == [1.0, 2.9, 3.0, 3.1]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "stopped early in epoch 4 / 5: the cost is 3.100000, the original cost was 1.000000: "
        "the learning rate, 1.000000e-03, is probably too high",
        "finished optimization. best validation accuracy: 0.500000",
    ]


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_cost_that_is_no_number_ends_training(cost):
    _, stats = run_script([1.0, cost, 1.0], [0.5] * 3)
    assert stats["loss_history"] == pytest.approx([1.0, cost], nan_ok=True)
    assert "stopped early in epoch 2 / 3" in stats["stopped"]


def test_a_run_to_the_end_was_not_stopped():
    assert run_script([1.0, 2.9], [0.5] * 2)[1]["stopped"] is None


def test_training_goes_on_through_anything_if_early_stop_is_off():
    _, stats = run_script([1.0, math.nan, 9.0], [0.5] * 3, early_stop=False)
    assert len(stats["loss_history"]) == 3


def test_a_run_that_explodes_later_keeps_its_best_epoch():
    _, stats = run_script([1.0, 1.0, 9.0], [0.25, 0.75, 1.0])
    assert stats["val_acc_history"] == [0.25, 0.75]


def test_a_run_that_explodes_in_its_first_epoch_returns_the_start_and_its_accuracies():
    model = problem()[1]
    best, stats = train(model=model, learning_rate=1e6)
    assert "epoch 1 / 4" in stats["stopped"]
    np.testing.assert_equal(best, model)
    X, y = VALIDATION
    assert stats["val_acc_history"] == [(two_layer_net(X, model).argmax(axis=1) == y).mean()]


# Overfitting 20 images, as test_lecture.py does with the Trainer

SEEDS = range(5)


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Any]]:
    images = load(FOLDER / "cifar10-20.npz")
    X_tiny, y_tiny = images.x - images.x.mean(axis=0), images.y
    stats = []
    for seed in SEEDS:
        model = init_two_layer_model(32 * 32 * 3, 50, 10, generator=seed)
        trainer = ClassifierTrainer()
        best_model, found = trainer.train(
            X_tiny,
            y_tiny,
            X_tiny,
            y_tiny,
            model,
            two_layer_net,
            num_epochs=200,
            reg=0.0,
            update="sgd",
            learning_rate_decay=1,
            sample_batches=False,
            learning_rate=1e-3,
            verbose=False,
        )
        assert best_model.keys() == model.keys()
        stats.append(found)
    return stats


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: f"epoch {row['epoch']:.0f}")
def test_the_cost_of_every_seed_stays_in_the_references_range(runs, row):
    costs = np.array([stats["loss_history"][int(row["epoch"]) - 1] for stats in runs])
    assert ((0.9 * row["cost_min"] <= costs) & (costs <= 1.1 * row["cost_max"])).all(), costs


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: f"epoch {row['epoch']:.0f}")
@pytest.mark.parametrize(("key", "column"), [("loss_history", "cost"), ("train_acc_history", "acc")])
def test_the_median_of_the_seeds_lies_in_the_references_range_as_it_is(runs, row, key, column):
    median = np.median([stats[key][int(row["epoch"]) - 1] for stats in runs])
    assert row[f"{column}_min"] <= median <= row[f"{column}_max"]


def test_every_seed_ends_with_all_twenty_images_learned(runs):
    assert {stats["val_acc_history"][-1] for stats in runs} == {1.0}


# What ClassifierTrainer refuses

X, Y = TRAIN


def refused(*, arrays: tuple[Any, ...] = (*TRAIN, *VALIDATION), model: Any = None, f: Any = two_layer_net, **options):
    model = problem()[1] if model is None else model
    return lambda: ClassifierTrainer(0).train(*arrays, model, f, **{"num_epochs": 1} | options)


def gradient(**changes: Any) -> Callable[..., Any]:
    """two_layer_net with other gradients."""

    def wrong(X: Any, model: Arrays, y: Any = None, reg: float = 0.0) -> Any:
        if y is None:
            return two_layer_net(X, model)
        cost, grads = two_layer_net(X, model, y, reg)
        return cost, {n: g for n, g in (grads | changes).items() if g is not None}

    return wrong


BAD_TRAINING: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "an unknown update": (refused(update="momentun"), OptionError, "did you mean 'momentum'"),
    "no epoch": (refused(num_epochs=0), OptionError, "num_epochs must be an integer of at least 1, got 0"),
    "an empty minibatch": (refused(batch_size=0), OptionError, "batch_size must be"),
    "a negative rate": (refused(learning_rate=-1), OptionError, "learning_rate must be"),
    "a rate of nan": (refused(learning_rate=math.nan), OptionError, "learning_rate must be"),
    "a negative decay": (refused(learning_rate_decay=-1), OptionError, "learning_rate_decay must be"),
    "a momentum of 1": (refused(momentum=1), OptionError, "momentum must be"),
    "a negative penalty": (refused(reg=-1), OptionError, "reg must be"),
    "a model that is no dict": (refused(model=[1]), OptionError, r"model wants arrays by name.*got \[1\]"),
    "an empty model": (refused(model={}), OptionError, "model wants arrays by name"),
    "a model of two dtypes": (
        refused(model=problem()[1] | {"b1": np.zeros(5, "float32")}),
        DTypeError,
        "one dtype",
    ),
    "no training labels": (refused(arrays=(X, None, *VALIDATION)), DataError, "labels"),
    "no validation labels": (refused(arrays=(*TRAIN, VALIDATION[0], None)), DataError, "labels for both parts"),
    "a label too few": (refused(arrays=(X, Y[1:], *VALIDATION)), ShapeError, "one label a row"),
    "a class too many": (refused(arrays=(X, Y + 1, *VALIDATION)), DataError, "label 3"),
    "rows of another width": (refused(arrays=(X[:, 1:], Y, *VALIDATION)), ShapeError, r"\(30, 3\), \(4, 5\)"),
    "validation rows of another width": (
        refused(arrays=(*TRAIN, VALIDATION[0][:, 1:], VALIDATION[1])),
        ShapeError,
        r"\(12, 3\), \(4, 5\)",
    ),
    "a NaN among the data": (refused(arrays=(X * np.nan, Y, *VALIDATION)), DataError, "nan"),
    "scores that are no table": (
        refused(f=lambda X, model, y=None, reg=0.0: np.zeros(len(X))),
        ShapeError,
        r"wants to give scores \(30, classes\), got \(30,\)",
    ),
    "a gradient too few": (refused(f=gradient(b2=None)), OptionError, r"gradients named \['W1', 'W2', 'b1'\]"),
    "a gradient too many": (refused(f=gradient(b3=np.zeros(1))), OptionError, "b3"),
    "a gradient of another shape": (refused(f=gradient(b2=np.zeros(4))), ShapeError, r"\(3,\), got float64 \(4,\)"),
}


@pytest.mark.parametrize("kind", BAD_TRAINING)
def test_the_trainer_refuses(kind):
    call, error, message = BAD_TRAINING[kind]
    with pytest.raises(error, match=message) as raised:
        call()
    assert isinstance(raised.value, TinygradError)


# Dropout in a three-layer network

KINDS = {"vanilla": VanillaDropout, "inverted": InvertedDropout}
SHAPES = {"W1": (3, 4), "b1": (3,), "W2": (3, 3), "b2": (3,), "W3": (2, 3), "b3": (2,)}


def three_layers(seed: int = 0, positive: bool = False, columns: bool = False) -> Arrays:
    """W1 [3, 4], W2 [3, 3], W3 [2, 3] and their biases, in float64; with `columns`, biases as [h, 1]."""
    rng = np.random.default_rng(seed)
    made = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    if positive:
        made = {name: np.abs(array) for name, array in made.items()}
    return {n: a[:, None] if columns and n[0] == "b" else a for n, a in made.items()}


def as_printed(arrays: Arrays, X: Any, U1: Any, U2: Any) -> Any:
    """The slide's forward pass, with the masks (already divided by p, or not) given."""
    b1, b2, b3 = (arrays[f"b{i}"].reshape(-1, *[1] * (X.ndim - 1)) for i in (1, 2, 3))
    H1 = np.maximum(0, np.dot(arrays["W1"], X) + b1) * U1
    H2 = np.maximum(0, np.dot(arrays["W2"], H1) + b2) * U2
    return np.dot(arrays["W3"], H2) + b3


@contextmanager
def prescribed(*masks: np.ndarray) -> Iterator[None]:
    """The reference kernels keep exactly these units, layer after layer; each mask [h] or [h, n]."""
    queue = list(masks)

    def lanes(n: int, threshold: int, seed: int, draw: int, stream: int, xp: Any) -> np.ndarray:
        mask = np.ascontiguousarray(queue.pop(0).T).ravel()
        assert mask.size == n
        return mask

    with patch.object(reference, "_kept", lanes):
        yield
    assert not queue


def on_reference(kind: str, arrays: Arrays, p: float = 0.5) -> Any:
    return KINDS[kind](**arrays, p=p, generator=0).to("reference")


def kept(p: float) -> float:
    """The probability of keeping that the engine works with."""
    return keep_probability(keep_threshold(1 - p))


@pytest.mark.parametrize("columns", [False, True], ids=["b [h]", "b [h, 1]"])
@pytest.mark.parametrize("n", [None, 1, 5])
@pytest.mark.parametrize("p", [0.5, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_train_step_is_the_slides_forward_pass(kind, p, n, columns):
    rng = np.random.default_rng(1)
    arrays, batch = three_layers(columns=columns), () if n is None else (n,)
    X, U1, U2 = rng.standard_normal((4, *batch)), *(rng.random((2, 3, *batch)) < p)
    with prescribed(U1, U2):
        out = on_reference(kind, arrays, p).train_step(X)
    scale = kept(p) if kind == "inverted" else 1
    np.testing.assert_allclose(out.numpy(), as_printed(arrays, X, U1 / scale, U2 / scale), rtol=1e-12)


@pytest.mark.parametrize("n", [None, 1, 5])
@pytest.mark.parametrize("p", [0.5, 0.8, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_predict_scales_by_p_in_the_vanilla_version_and_by_nothing_in_the_inverted_one(kind, p, n):
    X, arrays = np.random.default_rng(1).standard_normal((4, *([] if n is None else [n]))), three_layers()
    scale = kept(p) if kind == "vanilla" else 1
    predicted = KINDS[kind](**arrays, p=p).predict(X)
    np.testing.assert_allclose(predicted, as_printed(arrays, X, scale, scale), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_p_is_the_probability_of_keeping(kind):
    n, p = 10_000, 0.9
    # Whatever comes in, the output is the number of units of the second layer that were kept.
    net = KINDS[kind](np.ones((1, 1)), [1.0], np.zeros((n, 1)), np.ones(n), np.ones((1, n)), [0.0], p=p, generator=0)
    number = net.train_step([1.0]).item() * (p if kind == "inverted" else 1)
    assert abs(number - p * n) < 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_dropout_network_agree_with_finite_differences(kind):
    rng = np.random.default_rng(3)
    X, y, arrays = rng.standard_normal((4, 6)), rng.integers(0, 2, 6), three_layers(3)
    masks = rng.random((2, 3, 6)) < 0.5

    def loss(moved: Arrays) -> Any:
        net = on_reference(kind, moved)
        with prescribed(*masks):
            return net, ops.cross_entropy(net.train_step(X).T, y)

    net, cost = loss(arrays)
    cost.backward()
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert_slopes(lambda moved: loss(moved)[1].item(), arrays, grads)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_have_the_shapes_of_what_was_given(kind, columns):
    arrays = three_layers(columns=columns)
    net = KINDS[kind](**arrays, generator=0)
    net.train_step(np.ones((4, 2))).sum().backward()
    assert {n: p.grad.shape for n, p in net.named_parameters()} == {n: a.shape for n, a in arrays.items()}


def masks_of(units: int) -> np.ndarray:
    """All masks of so many units: bool [2^units, units]."""
    return (np.arange(2**units)[:, None] >> np.arange(units)) & 1 == 1


def expectation(kind: str, arrays: Arrays, X: Any, p: float, first: np.ndarray, second: np.ndarray) -> Any:
    """The mean of train_step over all pairs of these masks, weighted by their probability."""
    net = on_reference(kind, arrays, p)
    keep = kept(p)
    total, weights = 0.0, 0.0
    for U1 in first:
        for U2 in second:
            units = np.concatenate([U1] * (len(first) > 1) + [U2] * (len(second) > 1))
            weight = keep ** units.sum() * (1 - keep) ** (~units).sum()
            with prescribed(U1, U2):
                total = total + weight * net.train_step(X).numpy()
            weights += weight
    assert weights == pytest.approx(1, rel=1e-12)
    return total


@pytest.mark.parametrize("p", [0.5, 0.8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_predict_is_exactly_the_expectation_over_all_masks_before_an_affine_map(kind, p, seed):
    # Only the output layer lies behind the second mask; the first keeps everything.
    X, arrays = np.random.default_rng(seed + 10).standard_normal(4), three_layers(seed)
    keep, everything = kept(p), np.ones(3, bool)
    mean = expectation(kind, arrays, X, p, everything[None], masks_of(3))
    U1, U2 = (1, keep) if kind == "vanilla" else (1 / keep, 1)
    np.testing.assert_allclose(mean, as_printed(arrays, X, U1, U2), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_predict_is_exactly_the_expectation_over_all_masks_where_no_relu_cuts(kind, p):
    X, arrays = np.abs(np.random.default_rng(5).standard_normal(4)), three_layers(positive=True)
    mean = expectation(kind, arrays, X, p, masks_of(3), masks_of(3))
    np.testing.assert_allclose(mean, KINDS[kind](**arrays, p=p).predict(X), rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_relu_that_cuts_predict_is_not_quite_the_expectation(kind):
    X, off = np.random.default_rng(12).standard_normal(4), []
    for seed in range(5):
        arrays = three_layers(seed)
        mean = expectation(kind, arrays, X, 0.5, masks_of(3), masks_of(3))
        off.append(np.abs(mean - KINDS[kind](**arrays).predict(X)).max())
    assert max(off) > 0.01


def test_both_versions_learn_with_an_optimizer_of_the_package():
    X, y = TRAIN
    for kind in KINDS.values():
        weights = [np.random.default_rng(0).standard_normal(shape) * 0.3 for shape in ((40, 4), (40, 40), (3, 40))]
        arrays = [part for w in weights for part in (w, np.zeros(len(w)))]
        net = kind(*arrays, p=0.5, generator=0)
        optimizer = optim.SGD(net, lr=0.1)
        before = ops.cross_entropy(net.predict(X.T).T, y).item()
        for _ in range(200):
            optimizer.zero_grad()
            ops.cross_entropy(net.train_step(X.T).T, y).backward()
            optimizer.step()
        assert ops.cross_entropy(net.predict(X.T).T, y).item() < 0.6 * before


def test_arrays_that_were_given_are_copied():
    arrays = three_layers()
    net = InvertedDropout(**arrays)
    net.W1.data += 1
    np.testing.assert_equal(arrays, three_layers())


def test_the_same_seed_gives_the_same_masks():
    outs = [InvertedDropout(**three_layers(), generator=7).train_step(np.ones((4, 50))).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*outs)


def test_each_step_draws_new_masks():
    net = InvertedDropout(**three_layers(), generator=7)
    first, second = (net.train_step(np.ones((4, 50))).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


def test_predict_draws_no_mask():
    net = InvertedDropout(**three_layers(), generator=Generator(7))
    net.predict(np.ones(4))
    assert net.generator.draw == 0


def test_only_weights_are_regularized():
    net = VanillaDropout(**three_layers())
    assert [name for name, parameter in net.named_parameters() if parameter.regularized] == ["W1", "W2", "W3"]


def test_called_as_a_module_it_trains_or_predicts():
    net = InvertedDropout(**three_layers(), generator=7)
    np.testing.assert_array_equal(net.eval()(np.ones(4)).numpy(), net.predict(np.ones(4)))
    net.train()(np.ones(4))
    assert net.generator.draw == 2


BAD_DROPOUT: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "p = 0": (lambda: VanillaDropout(**three_layers(), p=0), OptionError, r"p must be in \(0, 1\].*keeping"),
    "p = 1.5": (lambda: VanillaDropout(**three_layers(), p=1.5), OptionError, "p must be in"),
    "p = 'half'": (lambda: VanillaDropout(**three_layers(), p="half"), OptionError, "p must be"),
    "weights as [in, out]": (
        lambda: VanillaDropout(**three_layers() | {"W1": np.ones((4, 3))}),
        ShapeError,
        r"W1 \[h, d\].*W1 \(4, 3\), W2 \(3, 3\)",
    ),
    "a bias of another length": (
        lambda: VanillaDropout(**three_layers() | {"b3": np.ones(3)}),
        ShapeError,
        r"b3 \(3,\)",
    ),
    "a bias that is a row": (
        lambda: VanillaDropout(**three_layers() | {"b3": np.ones((1, 2))}),
        ShapeError,
        r"b3 \(1, 2\)",
    ),
    "two dtypes": (
        lambda: VanillaDropout(**three_layers() | {"b3": np.ones(2, "float32")}),
        DTypeError,
        "one dtype",
    ),
    "rows for columns": (
        lambda: VanillaDropout(**three_layers()).train_step(np.ones((6, 4))),
        ShapeError,
        r"\[4\] or \[4, n\]; got \(6, 4\); pass X.T",
    ),
    "columns of another height": (
        lambda: InvertedDropout(**three_layers()).predict(np.ones((3, 6))),
        ShapeError,
        r"got \(3, 6\)$",
    ),
    "a number": (lambda: InvertedDropout(**three_layers()).predict(3.0), ShapeError, r"got \(\)"),
}


@pytest.mark.parametrize("kind", BAD_DROPOUT)
def test_the_dropout_networks_refuse(kind):
    call, error, message = BAD_DROPOUT[kind]
    with pytest.raises(error, match=message) as raised:
        call()
    assert isinstance(raised.value, TinygradError)


# examples/lecture.py

EXAMPLE = ROOT / "examples" / "lecture.py"
SECTIONS = [
    "Check that the loss is reasonable",
    "Make sure that you can overfit a very small portion of the training data",
    "Find a learning rate that makes the loss go down",
    "Coarse search",
    "Finer search",
    "Random search or grid search",
    "Watch the curves",
    "A curve that starts flat",
    "Parameter updates",
    "Model ensembles",
    "Dropout: why test time scales",
    "Dropout in a three-layer network",
]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the example prints with its smallest options, from an empty folder."""
    # The package that is tested is the one that the example imports.
    environment = os.environ | {"PYTHONPATH": str(Path(tinygrad_cr.__file__).parents[1])}
    command = [sys.executable, str(EXAMPLE), "--data", "digits", "--rows", "300", "--trials", "2"]
    folder = tmp_path_factory.mktemp("walk")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_example_walks_through_the_lecture_in_order(walk):
    places = [walk.find(f"=== {section}") for section in SECTIONS]
    assert places == sorted(places)
    assert places[0] >= 0


def test_the_example_overfits_the_twenty_images(walk):
    cost, accuracy = re.search(r"^epoch 200: cost (\S+), train: (\S+)$", walk, re.MULTILINE).groups()
    assert float(accuracy) == 1
    assert float(cost) < 0.003


def test_the_examples_sanity_check_gives_the_losses_that_theory_wants(walk):
    lines = re.findall(r"reg \S+, loss (\S+), wanted .* = (\S+)", walk)
    assert len(lines) == 4
    for loss, wanted in lines:
        assert float(loss) == pytest.approx(float(wanted), abs=1e-3)


def test_the_examples_gradient_check_agrees(walk):
    analytic, numeric = re.search(r"random direction: (\S+), by finite differences (\S+)", walk).groups()
    assert float(analytic) == pytest.approx(float(numeric), rel=1e-4)


def test_the_example_prints_trials_as_the_lecture_does(walk):
    number = r"\d\.\d{6}e[+-]\d\d"
    line = rf"^val_acc: 0\.\d{{6}}, lr: {number}, reg: {number}, \([12] / 2\)$"
    assert len(re.findall(line, walk, re.MULTILINE)) == 6


@pytest.mark.parametrize("mode", ["vanilla", "inverted"])
def test_the_examples_neuron_has_its_expectation_at_test_time(walk, mode):
    mean, test = re.search(rf"{mode}: masks .* their mean (\S+), at test time (\S+)", walk).groups()
    assert mean == test


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_lecture", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_where_fashion_mnist_is_not_available_the_digits_take_its_place(capsys, monkeypatch):
    example = module()

    def unavailable(name: str) -> Any:
        if name == "fashion-mnist":
            raise DownloadError("no network")
        return load(name)

    monkeypatch.setattr(example.data, "load", unavailable)
    parts = example.classification_data("fashion-mnist", 100, 0)
    assert parts.train.name == "digits"
    assert capsys.readouterr().out.startswith("fashion-mnist is not available (no network); the digits")
