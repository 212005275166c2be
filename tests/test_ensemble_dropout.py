"""Monte-Carlo dropout estimates the expectation over masks, which small networks allow to be counted.

**Within 5 standard errors**: the spread from one mask to another is known exactly, so that the error of a mean over T
masks has a known size. A correct implementation breaks the bound for one number in about two million.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tinygrad_cr.data import Standardizer
from tinygrad_cr.ensemble import exact_expectation, mc_dropout
from tinygrad_cr.errors import DataError, OptionError, ShapeError
from tinygrad_cr.nn import MLP, Affine, AffineReLUDropout, Dropout, Module, ReLU, Sequential
from tinygrad_cr.random import Generator
from tinygrad_cr.train import predict_proba

X = np.random.default_rng(0).standard_normal((20, 4))
MODES = ["inverted", "vanilla"]


def network(*hidden: int, dropout: float = 0.5, **options: Any) -> MLP:
    return MLP([4, *hidden, 3], dropout=dropout, **{"generator": 3, "dtype": "float64"} | options)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits)
    return e / e.sum(axis=-1, keepdims=True)


# The exact expectation


@pytest.mark.parametrize(("mode", "factor"), [("vanilla", 0.5), ("inverted", 1.0)])
def test_the_neuron_of_the_lecture_has_the_expectation_of_the_slide(mode, factor):
    w0, w1, x0, x1 = 3.0, 5.0, 1.0, 2.0
    neuron = Sequential(Dropout(0.5, mode=mode, generator=0), Affine(2, 1, init=0.0, dtype="float64"))
    neuron.layers[1].weight.data[:] = [[w0], [w1]]
    found = exact_expectation(neuron, [[x0, x1]], output="logits")
    four = [w0 * 0 + w1 * 0, w0 * 0 + w1 * x1, w0 * x0 + w1 * 0, w0 * x0 + w1 * x1]
    assert found.masks == 4
    assert found.mean.item() == factor * (w0 * x0 + w1 * x1) == sum(four) / 4 * 2 * factor
    assert found.spread.item() == pytest.approx(np.std(four) * 2 * factor, rel=1e-12)
    assert neuron.eval()(np.array([[x0, x1]])).item() == found.mean.item()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hidden", [(5,), (3, 2)])
def test_every_mask_counts_with_its_probability(hidden, mode):
    model = network(*hidden, dropout=0.25, dropout_mode=mode)
    scale = 1 / 0.75 if mode == "inverted" else 1
    answers, chances = [], []
    for kept in itertools.product([0, 1], repeat=sum(hidden)):
        values, rest = X, list(kept)
        for layer, width in zip(model.layers, hidden, strict=False):
            mask, rest = np.array(rest[:width]), rest[width:]
            values = np.maximum(values @ layer.weight.data + layer.bias.data, 0) * mask * scale
        answers.append(softmax(values @ model.layers[-1].weight.data + model.layers[-1].bias.data))
        chances.append(0.75 ** sum(kept) * 0.25 ** (len(kept) - sum(kept)))
    mean = np.average(answers, axis=0, weights=chances)
    variance = np.average((np.array(answers) - mean) ** 2, axis=0, weights=chances)
    found = exact_expectation(model, X)
    assert found.masks == len(answers) == 2 ** sum(hidden)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.spread, np.sqrt(variance), rtol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_a_pass_in_evaluation_is_the_expectation_of_the_logits_behind_one_layer_of_masks(mode):
    model = network(8, dropout_mode=mode)
    found = exact_expectation(model, X, output="logits")
    np.testing.assert_allclose(model.eval()(X).data, found.mean, rtol=1e-12)
    # The softmax is no affine map: there it is an approximation.
    assert np.abs(predict_proba(model, X) - exact_expectation(model, X).mean).max() > 1e-3


def test_without_dropout_there_is_one_mask():
    model = network(8, dropout=0.0)
    found = exact_expectation(model, X)
    assert (found.masks, found.spread.max()) == (1, 0)
    np.testing.assert_allclose(found.mean, predict_proba(model, X), rtol=1e-12)


def test_rows_are_standardised_first():
    standardizer = Standardizer("per-feature").fit(7 * X + 1)
    model = network(3)
    wanted = exact_expectation(model, standardizer.transform(X, "float64")).mean
    np.testing.assert_allclose(exact_expectation(model, X, standardizer=standardizer).mean, wanted, rtol=1e-12)


def test_sixteen_units_are_counted_and_seventeen_refused():
    assert exact_expectation(network(10, 6), X[:1]).masks == 2**16
    with pytest.raises(OptionError, match=r"drops 17 units, which is 2\*\*17 masks: at most 16"):
        exact_expectation(network(10, 7), X)


class Own(Module):
    """A network with a layer of masks inside, that this package knows nothing about."""

    def __init__(self) -> None:
        self.first = Affine(4, 5, generator=0, dtype="float64")
        self.masks = Dropout(0.5, generator=5)
        self.last = Affine(5, 3, generator=1, dtype="float64")

    def forward(self, x: Any) -> Any:
        return self.last(self.masks(self.first(x)))


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(OptionError, match="not Own"):
        exact_expectation(Own(), X)
    with pytest.raises(OptionError, match="unknown output 'logit': did you mean 'logits'"):
        exact_expectation(network(3), X, output="logit")
    with pytest.raises(ShapeError, match="x has 2 features, the model takes 4"):
        exact_expectation(network(3), X[:, :2])
    with pytest.raises(DataError, match="nan"):
        exact_expectation(network(3), X * np.nan)


# Monte-Carlo dropout


def errors(model: Module, counted: Module, samples: int, seed: int) -> np.ndarray:
    """The error of each probability, in standard errors of a mean over so many masks."""
    exact, found = exact_expectation(counted, X), mc_dropout(model, X, samples, generator=seed)
    return np.abs(found.mean - exact.mean) / (exact.spread / np.sqrt(samples))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hidden", [(8,), (5, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mean_over_masks_is_within_5_standard_errors_of_the_exact_one(hidden, mode, dtype):
    model = network(*hidden, dropout=0.3, dropout_mode=mode, dtype=dtype)
    assert errors(model, model, 10_000, seed=1).max() < 5


def test_masks_that_keep_too_little_are_found_out():
    right, wrong = network(8, dropout=0.5), network(8, dropout=0.53)
    wrong.load_state_dict(right.state_dict())
    assert errors(wrong, right, 10_000, seed=1).max() > 5


def test_the_error_shrinks_with_the_square_root_of_the_number_of_masks():
    model = network(5, 4)
    exact = exact_expectation(model, X).mean

    def error(samples: int) -> float:
        found = [mc_dropout(model, X, samples, generator=seed).mean - exact for seed in range(4)]
        return float(np.sqrt(np.mean(np.square(found))))

    few, some, many = (error(samples) for samples in (50, 800, 12_800))
    assert few / some == pytest.approx(4, rel=0.25)
    assert some / many == pytest.approx(4, rel=0.25)


def test_the_spread_is_that_over_all_masks():
    model = network(5, 4)
    found, exact = mc_dropout(model, X, 20_000, generator=0), exact_expectation(model, X)
    np.testing.assert_allclose(found.spread, exact.spread, rtol=0.05)


def test_a_standard_error_is_the_spread_over_the_root_of_the_number_of_masks():
    found = mc_dropout(network(8), X, 400, generator=0)
    np.testing.assert_allclose(found.standard_error, found.spread / 20, rtol=1e-12)
    assert (found.predict() == found.mean.argmax(axis=1)).all()


def test_the_mean_and_spread_are_those_of_passes_in_training():
    model, samples = Sequential(Own()), 30
    found = mc_dropout(model, X, samples, generator=9)
    model.layers[0].masks.generator = Generator(9)
    passes = softmax(model.train()(np.tile(X, (samples, 1))).data.reshape(samples, len(X), 3))
    np.testing.assert_allclose(found.mean, passes.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.spread, passes.std(axis=0, ddof=1), rtol=1e-6)


def test_a_fused_layer_gets_the_masks_of_its_parts():
    fused = network(6, 5)
    layers: list[Module] = []
    for layer in fused.layers[:-1]:
        assert isinstance(layer, AffineReLUDropout)
        affine = Affine(*layer.weight.shape, dtype="float64")
        affine.load_state_dict(layer.state_dict())
        layers += [affine, ReLU(), Dropout(0.5, generator=fused.generator)]
    apart = Sequential(*layers, fused.layers[-1])
    a, b = (mc_dropout(model, X, 40, generator=2) for model in (fused, apart))
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-10)


def test_the_same_generator_gives_the_same_answer_and_moves_on():
    model, generator = network(8), Generator(5)
    first, second = (mc_dropout(model, X, 50, generator=generator) for _ in range(2))
    assert (first.mean == mc_dropout(model, X, 50, generator=5).mean).all()
    assert (first.mean != second.mean).any()


def test_a_fresh_seed_is_taken_where_none_is_given():
    model = network(8)
    assert (mc_dropout(model, X, 50).mean != mc_dropout(model, X, 50).mean).any()


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training):
    model = network(8).train(training)
    before, state = model.state_dict(), model.generator.state()
    mc_dropout(model, X, 50, generator=0)
    assert model.generator.state() == state
    assert [module.training for module in model.modules()] == [training] * 3
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert model.layers[0].weight.grad is None


def test_a_network_keeps_its_generator_when_a_pass_fails():
    model = network(8)
    state = model.generator.state()
    with pytest.raises(ShapeError):
        mc_dropout(model, X[:, :2], 50, generator=0)
    assert model.generator.state() == state


def test_many_masks_and_many_rows_are_computed_in_pieces():
    model = network(3)
    rows = np.tile(X, (60, 1))  # more rows than a piece has with 2 masks
    assert mc_dropout(model, rows, 2, generator=0).mean.shape == (1200, 3)
    assert mc_dropout(model, X[:1], 9000, generator=0).samples == 9000  # more masks than a piece has
    many = np.tile(X, (300, 1))
    assert mc_dropout(model, many, 2, generator=0).mean.shape == (6000, 3)


def test_each_row_has_its_own_masks():
    found = mc_dropout(network(8), np.tile(X[:1], (5, 1)), 10, generator=0)
    assert len(np.unique(found.mean[:, 0])) > 1


def test_rows_are_standardised_before_the_masks():
    standardizer = Standardizer("per-feature").fit(7 * X + 1)
    model = network(5)
    wanted = mc_dropout(model, standardizer.transform(X, "float64"), 20, generator=0).mean
    found = mc_dropout(model, X, 20, standardizer=standardizer, generator=0).mean
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("model", [network(8, dropout=0.0), Sequential(Affine(4, 3), ReLU()), network()])
def test_a_network_that_drops_nothing_is_refused(model):
    with pytest.raises(OptionError, match=r"drops nothing.*dropout= above 0"):
        mc_dropout(model, X, 10)


@pytest.mark.parametrize("function", [mc_dropout, exact_expectation])
def test_of_a_population_one_member_is_wanted(function):
    population = MLP([4, 8, 3], dropout=0.5, members=2, generator=0)
    assert function(population[1], X).mean.shape == (20, 3)
    with pytest.raises(OptionError, match=r"give a member of the population, population\[m\]"):
        function(population, X)


def test_one_mask_has_no_spread_and_is_refused():
    with pytest.raises(OptionError, match="samples must be an integer of at least 2, got 1"):
        mc_dropout(network(8), X, 1)
