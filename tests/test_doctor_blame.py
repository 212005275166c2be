"""The doctor blames what is wrong: no sound table, narrow layer or unusual loss, and one cause in one check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planted import DIGITS, Softmaxed, healthy
from tinygrad_cr import ops
from tinygrad_cr.data import Dataset
from tinygrad_cr.doctor import Report, Status, preflight
from tinygrad_cr.errors import DataError, OptionError
from tinygrad_cr.nn import MLP
from tinygrad_cr.tensor import Tensor


def loud(report: Report) -> dict[str, str]:
    return {check.name: check.status.value for check in report.checks if check.status in ("WARN", "FAIL")}


def moons(rng: Any, n: int = 700) -> Dataset:
    angle, y = rng.uniform(0, np.pi, n), np.arange(n) % 2
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    return Dataset(np.where(y[:, None] == 0, upper, lower) + 0.2 * rng.standard_normal((n, 2)), y)


def noisy_line(rng: Any, n: int = 700, features: int = 2) -> Dataset:
    x = rng.standard_normal((n, features))
    return Dataset(x, (rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(int))


def one_feature(rng: Any) -> Dataset:
    return noisy_line(rng, features=1)


def clouds(rng: Any, n: int = 600) -> Dataset:
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 4)) + np.eye(3, 4)[y], y)


def spirals(rng: Any, n: int = 600) -> Dataset:
    y, turn = np.arange(n) % 2, rng.uniform(0.5, 3 * np.pi, n)
    x = np.stack([turn * np.cos(turn), turn * np.sin(turn)], axis=1) * np.where(y == 0, 1, -1)[:, None]
    return Dataset(x + 0.2 * rng.standard_normal((n, 2)), y)


TABLES: dict[str, tuple[Any, list[int]]] = {
    "moons": (moons, [2, 32, 2]),
    "a noisy line": (noisy_line, [2, 32, 2]),
    "one feature": (one_feature, [1, 16, 2]),
    "clouds": (clouds, [4, 10, 3]),
    "spirals": (spirals, [2, 100, 2]),
    "3 hidden units": (lambda rng: DIGITS, [64, 3, 10]),
    "5 hidden units": (lambda rng: DIGITS, [64, 5, 10]),
}


@pytest.mark.parametrize("kind", TABLES)
def test_small_tables_and_narrow_layers_never_fail_to_overfit(kind):
    make, sizes = TABLES[kind]
    for seed in range(2):
        report = preflight(MLP(sizes, generator=seed), make(np.random.default_rng(seed)), generator=seed)
        assert "FAIL" not in loud(report).values(), report["overfit"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
@pytest.mark.parametrize("kind", TABLES)
def test_small_tables_and_narrow_layers_fail_with_no_seed(kind, seed):
    make, sizes = TABLES[kind]
    report = preflight(MLP(sizes, generator=seed), make(np.random.default_rng(seed)), generator=seed)
    assert "FAIL" not in loud(report).values(), report["overfit"]


def test_a_descent_that_is_stuck_fails_and_says_what_a_constant_answer_costs():
    check = preflight(Softmaxed([64, 50, 10], generator=0), DIGITS)["overfit"]
    assert (check.status, "a constant answer costs 2.3" in check.advice) == (Status.FAIL, True)


def test_layers_narrower_than_the_classes_are_named():
    check = preflight(MLP([64, 3, 10], generator=1), DIGITS, generator=1)["overfit"]
    assert (check.status, check.advice.startswith("layers.0.weight: fewer units")) == (Status.WARN, True)


# A weak signal


@pytest.mark.parametrize(
    ("rows", "signal", "status"),
    [(300, 0.0, "WARN"), (1500, 0.0, "FAIL"), (1500, 0.15, "WARN"), (1500, 0.5, "PASS"), (60, 0.0, "SKIP")],
)
def test_a_signal_fails_only_where_many_rows_show_none(rows, signal, status):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 5))
    train = Dataset(x, (rng.standard_normal(rows) + signal * x[:, 0] > 0).astype(int))
    check = preflight(MLP([5, 16, 2], generator=0), train)["signal"]
    assert check.status == status, check


# Only biases


def test_a_network_of_which_only_biases_are_trained_is_examined():
    model = MLP([64, 50, 10], generator=0)
    for layer in model.layers:
        layer.weight.requires_grad = False
    check = preflight(model, DIGITS)["overfit"]
    assert (check.status, np.isfinite(check.values["loss"])) == (Status.WARN, True)


# A penalty that is too strong


def test_a_penalty_above_the_data_loss_warns_with_a_strength_to_try_and_nothing_else_is_blamed():
    report = preflight(MLP([64, 100, 10], generator=0), DIGITS, reg=1.0, lr=0.01)
    assert loud(report) == {"regularisation": "WARN"}
    share = report["regularisation"].values["share"]
    assert (share > 1, f"try reg={0.1 / share:.0e}" in report["regularisation"].advice) == (True, True)
    assert report["update ratio"].status is Status.SKIP


# Inputs that say nothing


@pytest.mark.parametrize("varying", [0, 1])
def test_inputs_that_are_nearly_all_constant_fail_and_what_depends_on_them_is_skipped(varying):
    x = np.full((200, 20), 3.0)
    x[:, :varying] = np.random.default_rng(0).standard_normal((200, varying))
    report = preflight(MLP([20, 8, 2], generator=0), Dataset(x, np.arange(200) % 2))
    assert loud(report) == {"inputs": "FAIL"}
    assert [report[name].status.value for name in ("signal", "units", "overfit")] == ["SKIP"] * 3


# A parameter that is lost


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_parameter_that_is_not_finite_fails_in_one_check_only_and_is_named(value):
    model = MLP([64, 50, 10], dropout=0.2, generator=0)
    model.layers[1].weight.data[3, 2] = value
    report = preflight(model, DIGITS)
    assert loud(report) == {"initialisation": "FAIL"}
    assert report["initialisation"].measured == "a parameter holds NaN or inf: layers.1.weight"
    assert report["dropout"].advice == "put this right first: initialisation"


# Losses


@pytest.mark.parametrize(
    ("loss", "given"), [(lambda z, y: 3.0, "got 3.0"), (lambda z, y: z.sum(axis=1), r"got a Tensor of shape \(2,\)")]
)
def test_a_loss_that_gives_no_scalar_tensor_is_refused_at_once(loss, given):
    with pytest.raises(OptionError, match=f"loss must give a scalar Tensor, {given}"):
        preflight(MLP([64, 10], generator=0), DIGITS, loss=loss)


def test_smoothed_labels_need_not_bring_the_cross_entropy_to_0():
    def smoothed(z: Tensor, y: Any) -> Tensor:
        return ops.cross_entropy(z, y) * 0.9 + (ops.logsumexp(z, axis=1) - z.mean(axis=1)).mean() * 0.1

    check = preflight(MLP([64, 50, 10], generator=0), DIGITS, loss=smoothed)["overfit"]
    assert (check.status, check.values["loss"] > 0.01) == (Status.PASS, True)


# The validation part


def spoiled(**changes: Any) -> tuple[Any, Dataset, Dataset]:
    setting = healthy()
    part = setting.validation
    return setting.model, setting.train, Dataset(changes.get("x", part.x), changes.get("y", part.y))


def test_validation_inputs_on_another_scale_warn():
    for x in (healthy().validation.x * 10.0 + 5, healthy().validation.x / 16.0):
        report = preflight(*spoiled(x=x))
        assert (report["split"].status, "another scale" in report["split"].advice) == (Status.WARN, True)


@pytest.mark.parametrize("change", [np.random.default_rng(0).permutation, lambda y: (y + 1) % 10])
def test_validation_labels_that_do_not_belong_to_their_rows_fail(change):
    report = preflight(*spoiled(y=change(healthy().validation.y)), lr=0.01)
    assert (loud(report), "shuffled or shifted" in report["split"].advice) == ({"split": "FAIL"}, True)


def test_parts_that_count_from_different_numbers_are_told_so():
    model, train, validation = spoiled()
    shifted = Dataset(validation.x, validation.y + 1)
    with pytest.raises(DataError, match="validation labels are 1 to 10, the training labels 0 to 9: use y - 1"):
        preflight(model, train, shifted)


# Advice


def test_nothing_is_advised_that_is_there_already():
    advice = preflight(MLP([64, *[100] * 6, 10], init=0.2, generator=0), DIGITS)["initial loss"].advice
    assert "init='he'" in advice
    model = MLP([64, *[100] * 6, 10], init="he", generator=0)
    model.layers[-1].bias.data[:] = np.linspace(-6, 6, 10)
    check = preflight(model, DIGITS)["initial loss"]
    assert (check.status is Status.PASS, "'he'" in check.advice) == (False, False)
