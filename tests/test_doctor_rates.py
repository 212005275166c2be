"""The learning-rate range: its ends, its suggestion, and how it takes noise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planted import DIGITS
from tinygrad_cr import ops
from tinygrad_cr.data import Dataset
from tinygrad_cr.doctor import RateRange, learning_rate, learning_rate_range
from tinygrad_cr.doctor.case import Case, make_case
from tinygrad_cr.doctor.rates import _begins as begins_at
from tinygrad_cr.errors import DataError, DivergenceError
from tinygrad_cr.nn import MLP, Affine, Dropout, ReLU, Sequential
from tinygrad_cr.optim import SGD
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train import Trainer


def network(**options: Any) -> MLP:
    return MLP([64, 50, 10], **{"generator": 0} | options)


def case_of(model: MLP) -> Case:
    options = {"loss": ops.cross_entropy, "optimizer": "sgd", "lr": None, "momentum": 0.9, "reg": 0.0}
    return make_case(model, DIGITS, None, batch_size=32, standardize="per-feature", generator=0, **options)


@pytest.fixture(scope="module")
def found() -> RateRange:
    return learning_rate_range(network(), DIGITS)


def test_rates_rise_and_the_ends_and_the_suggestion_are_among_them(found):
    assert list(found.rates) == sorted(found.rates)
    assert {found.low, found.suggestion, found.high} <= set(found.rates)


def test_the_suggestion_lies_inside_the_bracket(found):
    assert found.low < found.suggestion < found.high


def test_at_the_lower_end_and_below_the_cost_barely_moves(found):
    best = found.initial - min(found.costs)
    falls = [(found.initial - c) / best for r, c in zip(found.rates, found.costs, strict=True) if r <= found.low]
    assert all(abs(fall) < 0.1 for fall in falls)


def test_at_the_upper_end_the_cost_explodes_and_below_it_does_not(found):
    exploded = [rate for rate, cost in zip(found.rates, found.costs, strict=True) if math.isinf(cost)]
    assert exploded[0] == found.high


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_at_the_suggestion_the_cost_falls_by_most_of_what_it_can(optimizer):
    found = learning_rate_range(network(), DIGITS, optimizer=optimizer)
    cost = found.costs[found.rates.index(found.suggestion)]
    assert found.initial - cost >= 0.8 * (found.initial - min(found.costs))


def test_a_network_trained_at_the_suggestion_learns(found):
    model = network()
    history = Trainer(model, lr=found.suggestion, epochs=5, generator=0, reporter=False).fit(DIGITS)
    assert history[-1]["accuracy"] > 0.95


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_a_scaled_loss_moves_the_bracket_by_the_inverse_factor(found, factor):
    scaled = learning_rate_range(network(), DIGITS, loss=lambda z, y: ops.cross_entropy(z, y) * factor)
    ratios = (scaled.low / found.low * factor, scaled.high / found.high * factor)
    assert all(0.4 < ratio < 2.5 for ratio in ratios)


@pytest.fixture(scope="module")
def large_inputs() -> tuple[MLP, Dataset]:
    """A network whose ReLUs die of a rate that is too high, after one step at an enormous cost."""
    return network(init=1e-3), Dataset((DIGITS.x - DIGITS.x.mean()) * 30.0, DIGITS.y)


def test_large_inputs_want_a_smaller_rate(found, large_inputs):
    large = learning_rate_range(*large_inputs, standardize="none")
    assert (large.high < found.high / 10, large.suggestion < found.suggestion / 10) == (True, True)


def test_where_relus_die_of_a_high_rate_the_low_end_is_found_below_all_the_same(large_inputs):
    large = learning_rate_range(*large_inputs, standardize="none")
    assert large.low < large.rates[large.costs.index(min(large.costs))] < large.high


TRIED = RateRange((1e-4, 1e-3, 1e-2, 1e-1, 1.0), (2.3, 1.0, 0.2, 2.2, math.inf), 2.3, 1e-4, 1.0, 1e-3)
VERDICTS = {
    1e-5: "FAIL",
    1e-4: "FAIL",
    2e-4: "PASS",
    1e-3: "PASS",
    2e-2: "PASS",
    9e-2: "WARN",
    1.0: "FAIL",
    9.0: "FAIL",
}


@pytest.mark.parametrize("lr", VERDICTS)
def test_a_rate_passes_inside_the_bracket_unless_it_is_high_and_gains_little(lr):
    check = learning_rate.check(replace(case_of(network()), lr=lr), TRIED)
    assert (check.status, "0.001" in check.advice) == (VERDICTS[lr], True)


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_loss_leaves_the_bracket_about_where_it_was(found, seed):
    # Drawn from outside of the copies, so that no two runs have the same noise.
    rng = np.random.default_rng(seed)

    def noisy(logits: Tensor, labels: Any) -> Tensor:
        return ops.cross_entropy(logits, labels) * float(rng.lognormal(0, 0.6))

    got = learning_rate_range(network(), DIGITS, loss=noisy)
    assert found.low / 5 < got.low < 12 * found.low
    assert found.high / 5 < got.high < 5 * found.high
    assert got.low < got.suggestion < got.high


def test_dropout_and_minibatches_are_the_same_for_every_rate():
    # At rates that move nothing, two runs differ by nothing, whatever the noise between their steps.
    found = learning_rate_range(network(dropout=0.5), DIGITS, batch_size=4)
    assert abs(found.costs[0] - found.initial) < 0.1 * found.initial


def test_the_short_runs_train_with_dropout_whatever_mode_the_model_is_in():
    seen = set()

    class Noting(Dropout):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(self.training)
            return super().forward(x)

    model = Sequential(Affine(64, 20, generator=0), ReLU(), Noting(0.5, generator=0), Affine(20, 10, generator=1))
    learning_rate_range(model.eval(), DIGITS)
    # The shape of the logits is asked for in evaluation mode, before any run.
    assert seen == {False, True}


def test_the_python_of_a_layer_of_ones_own_runs_in_every_step():
    calls = []

    class Noting(Affine):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(self.training)
            return super().forward(x)

    found = learning_rate_range(Noting(64, 10, generator=0), DIGITS)
    whole = [cost for cost in found.costs if math.isfinite(cost)]
    assert sum(calls) > 100 * len(whole)


@pytest.mark.parametrize(
    ("flags", "begins"),
    [([0, 0, 1, 1], 2), ([0, 1, 0, 0, 1, 1], 4), ([0, 0, 0, 1], 3), ([1, 0, 1, 1], 2), ([1, 1], 0), ([0, 0], 7)],
)
def test_an_end_is_where_two_neighbours_agree_or_the_last_one_stands(flags, begins):
    assert begins_at([bool(flag) for flag in flags], 7) == begins


def test_the_rate_of_an_optimizer_does_not_matter():
    ranges = []
    for rate in (1e-5, 1e3):
        model = network()
        ranges.append(learning_rate_range(model, DIGITS, optimizer=SGD(model, rate, 0.9)))
    assert ranges[0] == ranges[1]


def test_the_update_ratios_at_the_suggestion_are_those_of_training(found):
    model = network()
    history = Trainer(model, lr=found.suggestion, epochs=2, generator=0, reporter=False).fit(DIGITS)
    for name, ratio in found.ratios.items():
        assert 0.2 < history[-1][f"update_ratio.{name}"] / ratio < 5


def test_where_no_rate_makes_the_cost_fall_none_is_suggested():
    rng = np.random.default_rng(0)
    same = Dataset(np.zeros((100, 5)), rng.permutation(np.arange(100) % 2))
    found = learning_rate_range(MLP([5, 4, 2], generator=0), same, standardize="none")
    assert found.suggestion is None


def test_a_cost_that_is_not_finite_to_begin_with_is_an_error():
    model = network()
    model.layers[0].weight.data[0, 0] = np.nan
    with pytest.raises(DivergenceError, match="the cost is nan before any update"):
        learning_rate_range(model, DIGITS)


def test_numbers_that_are_not_finite_are_an_error():
    x = np.random.default_rng(0).standard_normal((60, 5))
    data = Dataset(x, np.arange(60) % 3)
    x[7, 3] = np.inf
    with pytest.raises(DataError, match="row 7, column 3"):
        learning_rate_range(MLP([5, 3], generator=0), data)


def test_exploded_costs_are_none_in_json_and_inf_again_afterwards(found):
    content = found.to_dict()
    assert None in content["costs"]
    assert RateRange.from_dict(content) == found
