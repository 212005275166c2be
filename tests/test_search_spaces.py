"""Spaces: what they hold, what they refuse, and that draws from them are distributed as they say."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tinygrad_cr.errors import OptionError
from tinygrad_cr.search import Choice, IntUniform, LogUniform, Space, Uniform
from tinygrad_cr.search.parameters import PARAMETERS
from tinygrad_cr.search.sampling import grid_points, grid_values, random_point, stage_seeds

SPACE = Space(
    {
        "lr": LogUniform(1e-5, 1e-1),
        "reg": Uniform(0.0, 2.0),
        "momentum": Uniform(0.5, 0.99),
        "dropout": Choice([0.0, 0.5]),
        "lr_decay": 0.9,
        "batch_size": IntUniform(16, 64),
        "hidden": Choice([50, [100, 50], []]),
        "optimizer": Choice(["sgd", "adam", "adamw"]),
        "init": LogUniform(1e-4, 1e-1),
    }
)
DRAWS = 2000


@pytest.fixture(scope="module")
def points() -> list[dict[str, Any]]:
    return [random_point(SPACE, 0, 1, number) for number in range(1, DRAWS + 1)]


def column(points: list[dict[str, Any]], name: str) -> list[Any]:
    return [point[name] for point in points]


# Draws


@pytest.mark.parametrize("name", ["lr", "init"])
def test_log_uniform_draws_are_uniform_in_the_logarithm(points, name):
    low, high = math.log(SPACE[name].low), math.log(SPACE[name].high)
    found = stats.kstest(np.log(column(points, name)), "uniform", (low, high - low))
    assert found.pvalue > 1e-3


def test_the_kolmogorov_smirnov_test_tells_uniform_draws_from_log_uniform_ones(points):
    scaled = [math.log(1e-5 + value / 2 * 0.1) for value in column(points, "reg")]
    assert stats.kstest(scaled, "uniform", (math.log(1e-5), math.log(1e4))).pvalue < 1e-9


@pytest.mark.parametrize("name", ["reg", "momentum"])
def test_uniform_draws_are_uniform(points, name):
    low, high = SPACE[name].low, SPACE[name].high
    assert stats.kstest(column(points, name), "uniform", (low, high - low)).pvalue > 1e-3


def test_whole_numbers_are_equally_likely_and_both_ends_occur(points):
    counts = Counter(column(points, "batch_size"))
    assert sorted(counts) == list(range(16, 65))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("name", ["hidden", "optimizer", "dropout"])
def test_choices_are_equally_likely(points, name):
    counts = Counter(map(str, column(points, name)))
    assert len(counts) == len(SPACE[name].values)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_parameters_are_drawn_independently_of_each_other(points):
    names = ["lr", "reg", "momentum", "batch_size", "init"]
    ranks = stats.spearmanr([[point[name] for name in names] for point in points]).statistic
    assert np.abs(ranks - np.eye(len(names))).max() < 4 / math.sqrt(DRAWS)


def test_the_same_seed_gives_the_same_points_in_any_order(points):
    assert [random_point(SPACE, 0, 1, number) for number in range(DRAWS, 0, -1)] == points[::-1]


@pytest.mark.parametrize("other", [(1, 1, 1), (0, 2, 1), (0, 1, 2)])
def test_another_seed_stage_or_number_gives_another_point(points, other):
    assert random_point(SPACE, *other)["lr"] != points[0]["lr"]


def test_what_else_is_searched_does_not_change_the_points(points):
    small = Space({"momentum": 0.5, "lr": SPACE["lr"]})
    assert [random_point(small, 0, 1, i)["lr"] for i in range(1, 20)] == column(points, "lr")[:19]


def test_points_and_trainings_never_share_a_seed():
    seeds = [seed for stage in range(1, 200) for s in stage_seeds(3, stage) for seed in (s, s ^ 1)]
    assert len(set(seeds)) == len(seeds)


def test_a_point_holds_what_the_space_names_in_the_form_of_rows(points):
    assert set(points[0]) == set(SPACE)
    assert all(isinstance(value, list) for value in column(points, "hidden"))
    assert {point["lr_decay"] for point in points} == {0.9}


# Spaces


def test_a_space_goes_through_json_and_pickle():
    assert Space.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE


def test_numbers_of_numpy_become_plain_ones():
    space = Space({"lr": LogUniform(np.float32(0.25), np.float64(1)), "batch_size": IntUniform(np.int64(2), 8)})
    assert json.loads(json.dumps(space.to_dict()))["lr"] == {"kind": "log-uniform", "low": 0.25, "high": 1.0}
    assert isinstance(space["batch_size"].at(0.5), int)


def test_ranges_cannot_be_changed():
    with pytest.raises(AttributeError):
        SPACE["lr"].low = 1.0


def test_a_single_width_is_one_layer():
    assert Space({"hidden": 50})["hidden"] == [50]


@pytest.mark.parametrize("u", [0.0, 1e-12, 0.3, 1 - 1e-12, 1.0])
@pytest.mark.parametrize("name", list(SPACE.ranges))
def test_a_value_lies_in_its_range_and_its_position_where_it_came_from(name, u):
    dimension = SPACE[name]
    value = dimension.at(u)
    assert dimension.low <= value <= dimension.high
    cell = 1 / (dimension.high - dimension.low + 1) if isinstance(dimension, IntUniform) else 1e-9
    assert dimension.position(value) == pytest.approx(u, abs=cell)


def test_the_ends_of_a_range_are_exact():
    ends = [(dimension.at(0.0), dimension.at(1.0)) for dimension in SPACE.ranges.values()]
    assert ends == [(dimension.low, dimension.high) for dimension in SPACE.ranges.values()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogUniform(0, 1), "cannot reach 0"),
        (lambda: LogUniform(-1e-3, 1), "cannot reach 0"),
        (lambda: LogUniform(1e-3, 1e-6), r"inverted: the low end comes first, LogUniform\(1e-06, 0.001\)"),
        (lambda: Uniform(1.0, 1.0), "empty: give a single value"),
        (lambda: Uniform(0.0, math.inf), "two finite numbers"),
        (lambda: Uniform(math.nan, 1.0), "two finite numbers"),
        (lambda: Uniform("a", "b"), "two finite numbers"),
        (lambda: IntUniform(5, 5), "empty"),
        (lambda: IntUniform(9, 5), r"inverted: .* IntUniform\(5, 9\)"),
        (lambda: IntUniform(1.5, 5), r"whole numbers.*got \(1.5, 5\)"),
        (lambda: IntUniform(-1, 5), "not negative"),
        (lambda: Choice([]), "empty"),
        (lambda: Choice(np.array([])), "empty"),
        (lambda: Choice([{"a": 1}]), r"lists of widths.*got \{'a': 1\}"),
        (lambda: Choice([[[50]]]), "lists of widths"),
        (lambda: Choice(np.array(3)), "a list of values"),
        (lambda: Choice([1, 2, 1]), "each value once"),
        (lambda: Choice("sgd"), "a list of values, got 'sgd'"),
        (lambda: Space({}), "a space wants ranges by name"),
        (lambda: Space({"learning_rate": 0.1}), "unknown hyperparameter 'learning_rate'.*Known: batch_size"),
        (lambda: Space({"momentm": 0.1}), "did you mean 'momentum'"),
        (lambda: Space({"momentum": Uniform(0.5, 1.0)}), "range of momentum.*must be a number in"),
        (lambda: Space({"dropout": 1.5}), "dropout must be a number in"),
        (lambda: Space({"lr_decay": Uniform(0.0, 1.0)}), "range of lr_decay"),
        (lambda: Space({"batch_size": Uniform(16, 64)}), r"whole number.*IntUniform\(16, 64\)"),
        (lambda: Space({"batch_size": Choice([16, 32.5])}), "batch_size must be an integer"),
        (lambda: Space({"hidden": IntUniform(0, 5)}), "range of hidden"),
        (lambda: Space({"hidden": [10, 0]}), "a width in hidden"),
        (lambda: Space({"hidden": Choice([50, [50]])}), "each value once"),
        (lambda: Space({"optimizer": LogUniform(1, 2)}), r"optimizer is a name.*Choice"),
        (lambda: Space({"optimizer": Choice(["sgd", "adan"])}), "did you mean 'adam'"),
        (lambda: Space({"init": "hee"}), "did you mean 'he'"),
        (lambda: Space({"lr": -0.1}), "lr must be"),
        (lambda: Space.from_dict({"lr": {"kind": "log-unifrom", "low": 1, "high": 2}}), "did you mean 'log-uniform'"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_remedy(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_the_defaults_are_values_that_the_parameters_may_have():
    assert [
        name for name, parameter in PARAMETERS.items() if parameter.check(parameter.default) != parameter.default
    ] == []


# Grids


def test_a_grid_holds_each_combination_once():
    space = Space({"lr": LogUniform(1e-4, 1e-1), "reg": Uniform(0.0, 1.0), "optimizer": Choice(["sgd", "adam"])})
    points = grid_points(grid_values(space, {"lr": 4, "reg": [0.0, 0.25]}))
    wanted = {(lr, reg, name) for lr in (1e-4, 1e-3, 1e-2, 1e-1) for reg in (0.0, 0.25) for name in ("sgd", "adam")}
    found = {(float(f"{point['lr']:.6g}"), point["reg"], point["optimizer"]) for point in points}
    assert (found, len(points)) == (wanted, 16)


def test_a_grid_in_a_small_range_of_whole_numbers_holds_each_of_them():
    assert grid_values(Space({"hidden": IntUniform(3, 5)}), 10) == {"hidden": [[3], [4], [5]]}


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"lr": 5}, r"says nothing about batch_size.*'batch_size': 5"),
        ({"lr": 5, "batch_sise": 3}, "did you mean 'batch_size'"),
        ({"lr": [1e-9], "batch_size": 2}, "the point 1e-09 of lr is outside its range"),
        ({"lr": [], "batch_size": 2}, "empty"),
        ({"lr": 5, "batch_size": 2, "dropout": [0.3]}, r"the point 0.3 of dropout is none of"),
        (0, "integer of at least 1"),
        (10**6, "the points of lr must be an integer of at least 1 and below 100001"),
        (3000, "grid has .* points, more than 100,000"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(points, message):
    space = Space({"lr": SPACE["lr"], "batch_size": SPACE["batch_size"], "dropout": SPACE["dropout"]})
    with pytest.raises(OptionError, match=message):
        grid_values(space, points)


def test_arrays_are_lists_of_values():
    assert Choice(np.array([1, 2])) == Choice([1, 2])
    assert Space({"hidden": Choice(np.array([[50, 20], [20, 50]]))}) == Space({"hidden": Choice([[50, 20], [20, 50]])})
    assert Space({"hidden": Choice([np.array([50, 20]), 7])}) == Space({"hidden": Choice([[50, 20], 7])})
    lr = Space({"lr": LogUniform(1e-3, 1e-1)})
    assert grid_values(lr, {"lr": np.array([0.01, 0.1])}) == {"lr": [0.01, 0.1]}
