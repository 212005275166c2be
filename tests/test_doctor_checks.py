"""Each check of the doctor by itself: where its verdict turns, and that its statistics are right."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planted import DIGITS, LR, NoBiasGradient, SlightlyWrong, stacked
from tinygrad_cr import ops
from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.doctor import Check, Status, signal
from tinygrad_cr.doctor.case import make_case
from tinygrad_cr.doctor.initial import chance
from tinygrad_cr.doctor.signal import _above_chance
from tinygrad_cr.doctor.units import hidden
from tinygrad_cr.nn import MLP, Affine, Dropout, Module, ReLU, Sequential
from tinygrad_cr.optim import SGD, Adam, AdamW, Optimizer
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor, record
from tinygrad_cr.train import Trainer


def table(x: Any, classes: int = 3, **options: Any) -> Dataset:
    """Rows with labels that follow from them: by the largest of the first columns."""
    x = np.asarray(x)
    return Dataset(x, x[:, :classes].argmax(axis=1), class_names=[str(c) for c in range(classes)], **options)


def normal(rows: int = 200, features: int = 5, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, features))


OPTIONS: dict[str, Any] = {
    "loss": ops.cross_entropy,
    "optimizer": "sgd",
    "lr": None,
    "momentum": 0.9,
    "reg": 0.0,
    "batch_size": 32,
    "standardize": "per-feature",
}


STEPS = importlib.import_module("tinygrad_cr.doctor.preflight")


def examine(name: str, model: Module | None = None, train: Dataset | None = None, **options: Any) -> Check:
    """One check of a preflight, after what it needs: the rest would only take time."""
    train = table(normal()) if train is None else train
    validation = options.pop("validation", None)
    model = MLP([train.features, 16, train.classes], generator=0) if model is None else model
    round_ = STEPS._Round(make_case(model, train, validation, **{"generator": 0} | OPTIONS | options))
    with np.errstate(all="ignore"):
        round_.examine(next(each for each in STEPS.EXAMINATIONS if each.name == name))
    return round_.done[name]


# Inputs


@pytest.mark.parametrize(("shift", "status"), [(0.0, "PASS"), (0.4, "PASS"), (0.7, "FAIL"), (30.0, "FAIL")])
def test_a_mean_above_half_the_size_of_the_inputs_fails(shift, status):
    assert examine("inputs", train=table(normal() + shift), standardize="none").status == status


@pytest.mark.parametrize("mode", ["mean-image", "per-feature"])
def test_standardised_inputs_pass_wherever_they_came_from(mode):
    assert examine("inputs", train=table(normal() + 30), standardize=mode).status is Status.PASS


def test_columns_that_are_mostly_0_pass_as_they_are():
    x = np.eye(20)[np.random.default_rng(0).integers(0, 20, 400)]
    train = Dataset(x, x.argmax(axis=1) % 3)
    assert examine("inputs", train=train, standardize="none").status is Status.PASS


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_feature_of_another_scale_warns_and_is_named(scale):
    x = normal()
    x[:, 3] *= scale
    check = examine("inputs", train=table(x), standardize="mean-image")
    assert (check.status, check.values["wild"]) == (Status.WARN, [3])


def test_per_feature_standardisation_takes_care_of_scales():
    assert examine("inputs", train=table(normal() * np.logspace(-4, 4, 5))).status is Status.PASS


@pytest.mark.parametrize(("value", "status"), [(0, "PASS"), (16, "PASS"), (7, "WARN")])
def test_a_pixel_may_be_black_or_white_in_every_row_but_not_grey(value, status):
    x = DIGITS.x.copy()
    x[:, 20] = value
    train = Dataset(x, DIGITS.y, image_shape=(8, 8))
    assert examine("inputs", MLP([64, 16, 10], generator=0), train).status == status


def test_a_constant_feature_of_a_table_warns_whatever_its_value():
    x = normal()
    x[:, 2] = 0
    check = examine("inputs", train=Dataset(x, (x[:, 0] > 0).astype(int)))
    assert (check.status, check.values["stuck"]) == (Status.WARN, [2])


# Labels


def skewed(rare: int) -> Dataset:
    x = normal(1000)
    y = np.zeros(1000, int)
    y[:rare] = 1
    x[:rare, 0] += 5
    return Dataset(x, y)


@pytest.mark.parametrize(("rare", "status"), [(500, "PASS"), (100, "PASS"), (80, "WARN")])
def test_a_class_with_a_tenth_of_the_rows_of_another_is_where_imbalance_begins(rare, status):
    assert examine("labels", train=skewed(rare)).status == status


def test_a_class_without_rows_warns_where_chance_does_not_explain_it():
    x = normal(500)
    train = Dataset(x, (x[:, 0] > 0) * 2, class_names=("a", "b", "c"))
    check = examine("labels", train=train)
    assert (check.status, "b" in check.advice) == (Status.WARN, True)


def test_of_20_rows_and_10_classes_some_class_is_expected_to_have_none():
    y = np.arange(20) % 9
    train = Dataset(normal(20), y, class_names=[str(c) for c in range(10)])
    assert examine("labels", train=train).status is Status.PASS


# The signal


@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.9, 0.05, 0.05)])
def test_accuracy_by_chance_is_that_of_shuffled_labels(shares):
    rng = np.random.default_rng(0)
    guesses, y = rng.choice(3, 400, p=shares), rng.choice(3, 400, p=shares[::-1])
    hits = [float((guesses == rng.permutation(y)).mean()) for _ in range(4000)]
    accuracy, mean, deviations = _above_chance(guesses, y)
    assert mean == pytest.approx(np.mean(hits), rel=0.01)
    assert (accuracy - mean) / deviations == pytest.approx(np.std(hits), rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_labels_dealt_out_at_random_are_never_taken_for_a_signal(seed):
    rng = np.random.default_rng(seed)
    train = Dataset(normal(300, seed=seed), rng.integers(0, 3, 300))
    case = make_case(MLP([5, 3], generator=0), train, None, generator=seed, **OPTIONS)
    assert signal.check(case).status is Status.WARN


def test_a_signal_behind_much_label_noise_is_seen():
    rng = np.random.default_rng(0)
    x = normal(1500)
    y = np.where(rng.random(1500) < 0.6, rng.integers(0, 2, 1500), x[:, 0] > 0)
    assert examine("signal", train=Dataset(x, y)).status is Status.PASS


def test_classes_of_very_different_size_are_no_signal_by_themselves():
    y = (np.random.default_rng(0).random(1000) < 0.05).astype(int)
    assert examine("signal", train=Dataset(normal(1000), y)).status is Status.FAIL


# Rows in both parts


def test_rows_in_both_parts_are_counted_and_named():
    train = table(normal())
    validation = Dataset(np.vstack([normal(10, seed=1), train.x[[17, 3]]]), np.zeros(12, int), train.class_names)
    validation = Dataset(validation.x, validation.y, class_names=train.class_names)
    check = examine("split", train=train, validation=validation)
    assert (check.status, check.values["count"], check.values["pairs"]) == (Status.WARN, 2, [[17, 10], [3, 11]])


def test_a_row_is_the_same_row_in_another_dtype_and_with_a_zero_of_the_other_sign():
    train = table(np.round(normal()).astype("float32"))
    x = train.x[[0, 1]].astype("float64")
    x[x == 0] = -0.0
    validation = Dataset(x, [0, 1], class_names=train.class_names)
    assert examine("split", train=train, validation=validation).values["count"] == 2


def test_a_row_that_differs_in_one_value_is_another_row():
    train = table(normal())
    x = train.x[:5].copy()
    x[:, 4] = np.nextafter(x[:, 4], 9)
    assert examine("split", train=train, validation=Dataset(x, train.y[:5], class_names="012")).status is Status.PASS


# The initial loss


def cross_entropy(z: Any, y: Any) -> float:
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]))


def test_chance_is_mean_and_deviation_over_all_meanings_that_the_outputs_could_have():
    rng = np.random.default_rng(0)
    y = np.arange(70) % 7
    z = rng.standard_normal((7, 7))[y] + 0.1 * rng.standard_normal((70, 7))
    z -= z.mean(axis=0)
    costs = [cross_entropy(z[:, rng.permutation(7)], y) for _ in range(20_000)]
    mean, deviation = chance(z, y)
    assert mean == pytest.approx(np.mean(costs), rel=1e-2)
    assert deviation == pytest.approx(np.std(costs), rel=3e-2)


def test_a_bias_that_holds_the_class_frequencies_is_no_knowledge():
    y = np.random.default_rng(0).choice(3, 500, p=(0.8, 0.15, 0.05))
    z = np.tile(np.log(np.bincount(y) / 500), (500, 1))
    mean, deviation = chance(z, y)
    assert mean == pytest.approx(cross_entropy(z, y))
    assert deviation < 0.05


def test_a_network_that_was_trained_before_is_not_taken_for_a_new_one():
    model = MLP([64, 50, 10], generator=0)
    Trainer(model, lr=0.01, epochs=5, generator=0, reporter=False).fit(DIGITS)
    check = examine("initial loss", model, DIGITS)
    assert (check.status, "trained before" in check.advice) == (Status.FAIL, True)


def smoothed(z: Tensor, y: Any) -> Tensor:
    return ops.cross_entropy(z, y) * 0.9 + (ops.logsumexp(z, axis=1) - z.mean(axis=1)).mean() * 0.1


LOSSES: dict[str, tuple[Callable[[Tensor, Any], Tensor], str]] = {
    "smoothed labels": (smoothed, "PASS"),
    "half": (lambda z, y: ops.cross_entropy(z, y) * 0.5, "FAIL"),
    "bits": (lambda z, y: ops.cross_entropy(z, y) / math.log(2), "FAIL"),
    "negative": (lambda z, y: -ops.cross_entropy(z, y), "FAIL"),
    "not a number": (lambda z, y: ops.cross_entropy(z, y) * math.nan, "FAIL"),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_has_to_be_a_mean_cross_entropy(kind):
    loss, status = LOSSES[kind]
    assert examine("initial loss", MLP([64, 50, 10], generator=0), DIGITS, loss=loss).status == status


@pytest.mark.parametrize(("factor", "status"), [(0.01, "PASS"), (1.0, "PASS"), (1.7, "WARN"), (10.0, "FAIL")])
def test_logits_far_apart_warn_first_and_then_fail(factor, status):
    model = MLP([64, 50, 10], generator=0)
    model.layers[1].weight.data *= factor
    assert examine("initial loss", model, DIGITS).status == status


# Initialisation


def test_a_last_layer_of_zeros_is_fine():
    model = MLP([5, 16, 3], generator=0)
    model.layers[1].weight.data[...] = 0
    assert examine("initialisation", model).status is Status.PASS


def test_a_first_layer_of_zeros_is_dead_behind_a_relu():
    model = MLP([5, 16, 3], generator=0)
    model.layers[0].weight.data[...] = 0
    check = examine("initialisation", model)
    assert (check.status, check.values["alike"]) == (Status.FAIL, ["layers.0.weight"])


class Tanh(Module):
    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


def test_equal_units_that_get_different_gradients_become_different():
    model = Sequential(Affine(5, 16, init=0.0), Tanh(), Affine(16, 3, generator=0))
    assert examine("initialisation", model).status is Status.PASS


def test_zeros_in_every_layer_stay_alike_behind_any_nonlinearity():
    model = Sequential(Affine(5, 16, init=0.0), Tanh(), Affine(16, 3, init=0.0))
    assert examine("initialisation", model).values["alike"] == ["layers.0.weight", "layers.2.weight"]


# Regularisation


class Half(SGD):
    def step(self, *, reg: float = 0.0, norms: bool = False) -> Any:
        return super().step(reg=reg / 2, norms=norms)


class Forgets(SGD):
    def step(self, *, reg: float = 0.0, norms: bool = False) -> Any:
        return super().step(norms=norms)


class WrongNorms(SGD):
    def step(self, *, reg: float = 0.0, norms: bool = False) -> Any:
        result = super().step(reg=reg, norms=norms)
        return None if result is None else result * 1.01


class Decaying(Optimizer):
    """A rule of one's own, with a buffer."""

    buffers = ("mean",)

    def _update(self, m: int, arrays: Any, live: Any, spans: Any, l2: Any, weights: Any, norms: Any) -> None:
        if norms is not None:
            norms[:] = [[float((p.data.astype("float64") ** 2).sum()), 0.0] for p in self.flat.parameters]
        for (start, stop), decay in zip(spans, l2, strict=True):
            values = self.flat.values[start:stop]
            self.mean[start:stop] = 0.5 * self.mean[start:stop] + self.flat.gradients[start:stop] + decay * values
            values -= self.lr * self.mean[start:stop]


def test_a_rule_of_ones_own_that_writes_both_norms_trains_with_a_penalty():
    model = MLP([5, 4, 3], generator=0)
    data = Dataset(np.random.default_rng(0).standard_normal((40, 5)).astype("float32"), np.arange(40) % 3)
    trainer = Trainer(model, optimizer=Decaying(model, 0.1), epochs=2, batch_size=8, reg=0.01, reporter=False)
    assert math.isfinite(trainer.fit(data)[-1]["loss"])


OPTIMIZERS: dict[str, tuple[Callable[[Module], Optimizer], str]] = {
    "SGD": (lambda model: SGD(model, 0.1), "PASS"),
    "momentum": (lambda model: SGD(model, 0.1, 0.9), "PASS"),
    "Nesterov": (lambda model: SGD(model, 0.1, 0.9, nesterov=True), "PASS"),
    "weight decay": (lambda model: SGD(model, 0.1, weight_decay=0.3), "PASS"),
    "Adam": (lambda model: Adam(model, 1e-3), "PASS"),
    "AdamW": (lambda model: AdamW(model, 1e-3), "PASS"),
    "its own rule": (lambda model: Decaying(model, 0.1), "PASS"),
    "half the penalty": (lambda model: Half(model, 0.1), "FAIL"),
    "no penalty": (lambda model: Forgets(model, 0.1), "FAIL"),
    "wrong norms": (lambda model: WrongNorms(model, 0.1), "FAIL"),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_penalty_has_to_pull_weights_to_0_and_leave_biases_alone(kind):
    make, status = OPTIMIZERS[kind]
    model = MLP([5, 16, 3], generator=0)
    for layer in model.layers:
        layer.bias.data[...] = 0.3
    assert examine("regularisation", model, optimizer=make(model)).status == status


def test_the_momentum_of_steps_made_before_is_not_taken_for_a_penalty():
    model = MLP([5, 16, 3], generator=0)
    optimizer = SGD(model, 0.1, 0.9)
    for _ in range(3):
        optimizer.zero_grad()
        ops.cross_entropy(model(normal(9).astype("float32")), np.arange(9) % 3).backward()
        optimizer.step()
    assert examine("regularisation", model, optimizer=optimizer).status is Status.PASS


# Gradients


class OneElement(Affine):
    """A gradient of the weights that is wrong in one element."""

    def forward(self, x: Tensor) -> Tensor:
        w, b = self.weight, self.bias

        def vjp(g: Any) -> Any:
            dw = x.data.T @ g
            dw[3, 7] *= 1.01
            return (g @ w.data.T if x.requires_grad else None), dw, g.sum(axis=0)

        return record(x.data @ w.data + b.data, (x, w, b), vjp)


def test_one_wrong_element_of_a_gradient_is_found_and_named():
    check = examine("gradients", stacked(0, ReLU(), OneElement), DIGITS)
    assert check.status is Status.FAIL
    assert "layers.0.weight, index (3, 7)" in check.advice


def test_the_parameter_whose_gradient_is_missing_is_named():
    check = examine("gradients", stacked(0, ReLU(), NoBiasGradient), DIGITS)
    assert check.values["wrong"] == ["layers.0.bias"]


@pytest.mark.parametrize("init", [1e-6, 1e-4, "he", 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_right_gradients_pass_at_any_size_of_weights(init, seed):
    model = MLP([64, 60, 60, 10], init=init, generator=seed)
    assert examine("gradients", model, DIGITS, generator=seed).status is Status.PASS


@pytest.mark.parametrize("size", [1e-9, 1e3])
def test_a_gradient_that_is_0_1_percent_wrong_is_seen_with_inputs_of_any_size(size):
    data = Dataset((DIGITS.x - DIGITS.x.mean(axis=0)) * size, DIGITS.y)
    check = examine("gradients", stacked(0, ReLU(), SlightlyWrong), data, standardize="none")
    assert check.values["wrong"] == ["layers.0.weight"]


def test_a_wrong_gradient_is_seen_behind_a_last_layer_of_zeros():
    model = stacked(0, ReLU(), NoBiasGradient)
    model.layers[3].weight.data[...] = 0
    assert examine("gradients", model, DIGITS).values["wrong"] == ["layers.0.bias"]


def test_a_layer_that_draws_in_evaluation_still_has_its_gradients_checked():
    class Stuck(Dropout):
        def forward(self, x: Tensor) -> Tensor:
            return ops.dropout(x, self.dropout, generator=self.generator)

    assert examine("gradients", stacked(0, Stuck(0.3, generator=0)), DIGITS).status is Status.PASS
    assert examine("gradients", stacked(0, Stuck(0.3, generator=0), OneElement), DIGITS).status is Status.FAIL


# Dropout


class Biased(Dropout):
    """Inverted dropout that divides by a little more than it should."""

    factor = 0.97

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (self.factor if self.training else 1.0)


def test_an_expectation_that_is_off_by_three_percent_is_seen():
    assert examine("dropout", stacked(0, Biased(0.3, generator=0)), DIGITS).status is Status.FAIL


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
@pytest.mark.parametrize("seed", range(3))
def test_both_forms_of_dropout_keep_the_expectation(dropout, mode, seed):
    model = MLP([64, 80, 80, 10], dropout=dropout, dropout_mode=mode, generator=seed)
    assert examine("dropout", model, DIGITS, generator=seed).status is Status.PASS


class Inside(Affine):
    """Dropout in front of a nonlinearity, in one layer: its expectation is kept only roughly."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(super().forward(ops.dropout(x, 0.3, generator=self.source, training=self.training)))


def test_dropout_in_front_of_a_nonlinearity_may_be_off_by_what_the_curve_makes_of_it():
    layer = Inside(64, 50, generator=0)
    layer.source = Generator(0)
    assert examine("dropout", Sequential(layer, Affine(50, 10, generator=1)), DIGITS).status is Status.PASS


def test_without_dropout_there_is_nothing_to_check():
    check = examine("dropout", MLP([64, 50, 10], generator=0), DIGITS)
    assert (check.status, check.measured) == (Status.SKIP, "no layer draws random numbers")


def test_dropout_outside_of_layers_is_said_to_be_unchecked():
    class Functional(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(ops.dropout(x, 0.2, generator=self.generator, training=self.training))

    check = examine("dropout", Functional([64, 50, 10], generator=0), DIGITS)
    assert (check.status, check.measured) == (Status.SKIP, "chance outside of layers")


# Overfitting


def test_rows_that_contradict_each_other_are_not_among_those_to_be_learned():
    x = np.repeat(normal(40), 5, axis=0)
    check = examine("overfit", train=Dataset(x, np.arange(200) % 3))
    assert (check.status, check.values["rows"]) == (Status.PASS, 20)


def test_a_small_network_that_cannot_learn_20_rows_by_heart_warns_and_a_large_one_fails():
    x = normal(100, 2)
    train = Dataset(x, np.random.default_rng(1).integers(0, 4, 100))
    wide = Sequential(Affine(2, 64, generator=0), Affine(64, 4, generator=1))  # no nonlinearity between
    statuses = [examine("overfit", model, train).status for model in (MLP([2, 4], generator=0), wide)]
    assert statuses == [Status.WARN, Status.FAIL]


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1.3])
def test_neither_the_scale_of_the_loss_nor_the_chosen_rate_matters_for_overfitting(factor):
    model = MLP([64, 50, 10], generator=0)
    loss = (lambda z, y: ops.cross_entropy(z, y) * factor) if factor > 1 else ops.cross_entropy
    assert examine("overfit", model, DIGITS, loss=loss, lr=LR * factor).status is Status.PASS


# Units


def test_a_relu_outside_of_layers_is_seen_by_what_the_next_layer_takes():
    class Functional(Module):
        def __init__(self) -> None:
            self.first, self.last = Affine(5, 16, generator=0), Affine(16, 3, generator=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(ops.relu(self.first(x)))

    model = Functional()
    model.first.bias.data[...] = -1000
    (layer,) = hidden(model, normal().astype("float32"))
    assert (layer.name, layer.dead) == ("input of last", 1.0)
    assert examine("units", model).status is Status.FAIL


def test_features_that_are_always_0_are_no_dead_units():
    x = np.hstack([normal(features=4), np.zeros((200, 40))])
    train = Dataset(x, (x[:, 0] > 0).astype(int))
    assert examine("units", train=train).status is Status.PASS


def test_inputs_that_a_model_takes_apart_first_are_no_activations_either():
    class Halving(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 0.5)

    x = np.hstack([normal(features=4), np.zeros((200, 40))]).astype("float32")
    assert [layer.name for layer in hidden(Halving([44, 16, 3], generator=0), x)] == ["layers.0"]


@pytest.mark.parametrize(("init", "status"), [("he", "PASS"), (1e-3, "WARN"), (1e-5, "FAIL")])
def test_activations_that_shrink_from_layer_to_layer_are_reported(init, status):
    assert examine("units", MLP([64, 50, 50, 10], init=init, generator=0), DIGITS).status == status


# Update ratio


def test_weights_that_are_tiny_beside_their_updates_warn():
    model = MLP([64, 50, 10], init=1e-4, generator=0)
    assert examine("update ratio", model, DIGITS).status is Status.WARN


def test_the_standardizer_may_be_a_fitted_one():
    fitted = Standardizer("per-feature").fit(DIGITS.x)
    assert examine("inputs", MLP([64, 16, 10], generator=0), DIGITS, standardize=fitted).status is Status.PASS


def test_a_network_with_tensors_of_its_own_has_its_gradients_checked_all_the_same():
    class Shifted(MLP):
        def forward(self, x: Tensor) -> Tensor:
            shift = Tensor(np.ones(x.shape, x.dtype))  # on the CPU, wherever x is
            return super().forward(x + shift)

    assert examine("gradients", Shifted([5, 8, 3], generator=0)).status is Status.PASS
