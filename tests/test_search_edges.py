"""Warnings at the edges of ranges: they come when the optimum lies outside, and not when it lies inside."""

from __future__ import annotations

import pytest

from search_objectives import SPACE, explore, peak, place
from tinygrad_cr.search import Choice, IntUniform, LogUniform, Space, Uniform, crowded_edges
from tinygrad_cr.search.edges import chance, moved
from tinygrad_cr.search.sampling import grid_points, grid_values
from tinygrad_cr.search.trial import Outcome, Trial, make_row

SEEDS = range(20)


def warnings(seed: int, noise: float = 0.02, **places: float) -> list[str]:
    return explore(peak(**places), noise=noise, seed=seed).warnings


def count(**places: float) -> int:
    return sum(bool(warnings(seed, **places)) for seed in SEEDS)


@pytest.mark.parametrize("where", [1.1, 1.5, 3.0, -0.1, -1.0])
def test_an_optimum_outside_is_noticed_at_that_edge(where):
    side = "high" if where > 1 else "low"
    heard = [any(f"{side} edge of lr" in text for text in warnings(seed, lr=where, reg=0.5)) for seed in SEEDS]
    assert sum(heard) >= 18


@pytest.mark.parametrize("where", [0.3, 0.5, 0.7])
def test_an_optimum_inside_is_no_reason_to_worry(where):
    assert count(lr=where, reg=1 - where, momentum=0.5) <= 1


def test_a_parameter_that_does_not_matter_is_no_reason_to_worry():
    assert count(reg=0.5) <= 1


def test_noise_alone_is_no_reason_to_worry():
    assert sum(bool(warnings(seed, noise=1.0)) for seed in SEEDS) <= 1


def test_a_cliff_of_divergence_beyond_the_optimum_is_no_edge():
    def score(point):
        return None if point["lr"] > place("lr", 0.75) else peak(lr=0.7, reg=0.5)(point)

    assert sum(bool(explore(score, seed=seed).warnings) for seed in SEEDS) <= 1


def test_the_warning_names_the_edge_and_where_to_move_it():
    heard = warnings(0, lr=1.3, reg=0.5)
    assert heard[0].startswith("stage 1: ")
    assert heard[0].endswith("near the high edge of lr, 0.01: better values may lie beyond; move it to 0.1")


def test_following_the_advice_ends_the_warnings_with_the_optimum_inside():
    space = SPACE
    for _ in range(3):
        edges = crowded_edges(space, explore(peak(lr=1.2, reg=0.5), space, noise=0.02).rows)
        if not edges:
            break
        space = space.replace(lr=LogUniform(space["lr"].low, edges[0].suggestion))
    assert not edges
    assert space["lr"].low < place("lr", 1.2) < space["lr"].high < place("lr", 2.0)


def test_the_decisive_edge_of_a_grid_is_noticed():
    values = grid_values(SPACE, {"lr": 5, "reg": 5, "momentum": 1})
    points = len(grid_points(values))
    heard = explore(peak(lr=1.3, reg=0.5), grid=values, stages=((points, 1),)).warnings
    assert [text for text in heard if "high edge of lr" in text] == heard != []


def test_a_grid_whose_best_points_lie_inside_is_no_reason_to_worry():
    values = grid_values(SPACE, {"lr": 5, "reg": 5, "momentum": 1})
    assert explore(peak(lr=0.5, reg=0.5), grid=values, stages=((25, 1),)).warnings == []


def test_a_grid_of_two_points_has_nothing_but_edges():
    values = grid_values(SPACE, 2)
    assert explore(peak(lr=1.3), grid=values, stages=((8, 1),)).warnings == []


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_a_handful_of_trials_says_nothing(trials):
    assert explore(peak(lr=3.0), stages=((trials, 1),)).warnings == []


def rows_of(space: Space, score) -> list[dict]:
    points = [{"hidden": [width], "dropout": 0.0} for width in range(space["hidden"].low, space["hidden"].high + 1)]
    return [
        make_row(Trial(1, i, point, 0), Outcome("finished", 1, score(point), 1.0), trials=9, epochs=1, rung=None)
        for i, point in enumerate(points, 1)
    ]


def test_widths_are_ranges_too():
    space = Space({"hidden": IntUniform(10, 60)})
    found = crowded_edges(space, rows_of(space, lambda point: point["hidden"][0] / 100))
    assert [(edge.parameter, edge.side, edge.bound, edge.suggestion) for edge in found] == [("hidden", "high", 60, 85)]


def test_choices_have_no_edges():
    space = Space({"hidden": IntUniform(10, 60), "dropout": Choice([0.0, 0.5])})
    assert crowded_edges(space, rows_of(space, lambda point: -abs(point["hidden"][0] - 35))) == []


@pytest.mark.parametrize(
    ("name", "dimension", "side", "bound"),
    [
        ("lr", LogUniform(1e-6, 1e-3), "high", 1e-2),
        ("lr", LogUniform(1e-6, 1e-3), "low", 1e-7),
        ("lr", LogUniform(1e-4, 4e-4), "high", 8e-4),
        ("reg", Uniform(0.0, 1.0), "low", 0.0),
        ("reg", Uniform(1.0, 2.0), "low", 0.5),
        ("dropout", Uniform(0.0, 0.5), "high", 0.8),
        ("dropout", Uniform(0.2, 0.9), "high", 0.95),
        ("momentum", Uniform(0.5, 0.99), "high", 0.995),
        ("lr_decay", Uniform(0.5, 1.0), "high", 1.0),
        ("lr_decay", LogUniform(0.5, 0.9), "high", 1.0),
        ("batch_size", IntUniform(16, 64), "high", 88),
        ("batch_size", IntUniform(1, 4), "low", 1),
        ("batch_size", IntUniform(3, 4), "low", 2),
    ],
)
def test_an_edge_moves_outwards_within_what_the_parameter_may_be(name, dimension, side, bound):
    assert moved(name, dimension, side) == pytest.approx(bound)


def test_an_edge_that_cannot_move_is_no_reason_to_worry():
    space = Space({"lr_decay": Uniform(0.5, 1.0)})
    assert explore(lambda point: point["lr_decay"], space).warnings == []
    assert explore(lambda point: -point["lr_decay"], space).warnings != []


def test_the_chance_of_a_crowd_is_that_of_scipy():
    from scipy.stats import hypergeom

    for drawn, marked, total, at_least in [
        (5, 20, 100, 4),
        (10, 20, 100, 7),
        (3, 3, 9, 3),
        (5, 0, 10, 1),
        (5, 9, 9, 5),
    ]:
        wanted = hypergeom.sf(at_least - 1, total, marked, drawn)
        assert chance(drawn, marked, total, at_least) == pytest.approx(wanted)
