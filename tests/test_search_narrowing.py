"""From coarse to fine: ranges close in on a planted optimum, and only those that matter."""

from __future__ import annotations

import pytest

from search_objectives import SPACE, explore, objective, peak, place, uniforms
from tinygrad_cr.search import Choice, IntUniform, LogUniform, Space, Uniform
from tinygrad_cr.search.explore import Explorer
from tinygrad_cr.search.ledger import Ledger
from tinygrad_cr.search.narrowing import narrowed
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.progress import Lines

STAGES = ((100, 5), (100, 5), (100, 5))
SEEDS = range(5)


def planted(seed: int) -> dict[str, float]:
    return dict(zip(SPACE, (0.1 + 0.8 * u for u in uniforms(seed, 3)), strict=True))


def distance(row, places) -> float:
    return max(abs(SPACE[name].position(row[name]) - where) for name, where in places.items())


@pytest.mark.parametrize("seed", SEEDS)
def test_coarse_to_fine_finds_a_planted_optimum(seed):
    places = planted(seed)
    result = explore(peak(**places), stages=STAGES, seed=seed)
    assert distance(result.best, places) < 0.06


@pytest.mark.parametrize("seed", SEEDS)
def test_the_planted_optimum_stays_in_the_ranges(seed):
    places = planted(seed)
    last = explore(peak(**places), stages=STAGES, seed=seed, noise=0.02).stages[-1].space
    assert [n for n, where in places.items() if not last[n].low <= place(n, where) <= last[n].high] == []


def test_coarse_to_fine_comes_closer_than_as_many_trials_in_one_stage():
    def mean(stages) -> float:
        each = [(planted(seed), explore(peak(**planted(seed)), stages=stages, seed=seed)) for seed in SEEDS]
        return sum(distance(result.best, places) for places, result in each) / len(each)

    assert mean(STAGES) < mean(((300, 5),)) / 2


def test_the_new_range_lies_within_the_old_one_around_the_best_trials():
    result = explore(peak(lr=0.5, reg=0.5), stages=STAGES[:2])
    old, new = (stage.space["lr"] for stage in result.stages)
    assert old.low < new.low < place("lr", 0.5) < new.high < old.high
    assert all(new.low <= row["lr"] <= new.high for row in result.top(10, stage=1))


def test_the_trials_of_a_stage_are_drawn_from_its_ranges():
    result = explore(peak(lr=0.5), stages=STAGES[:2])
    space = result.stages[1].space
    assert all(space["lr"].low <= row["lr"] <= space["lr"].high for row in result if row["stage"] == 2)


def test_a_parameter_that_does_not_matter_keeps_most_of_its_range():
    new = explore(peak(lr=0.5), stages=STAGES[:2]).stages[1].space["reg"]
    position = SPACE["reg"].position
    assert position(new.high) - position(new.low) > 0.7


def test_the_new_ranges_are_shown_before_the_stage_begins(capsys):
    plan = Plan(SPACE, ((20, 5), (3, 5)))
    result = Explorer(plan, objective(peak(lr=0.5)), Ledger(None, {}), reporter=Lines()).explore()
    lines = capsys.readouterr().out.splitlines()
    begins = lines.index("stage 2: 3 trials, 5 epochs")
    new = result.stages[1].space["lr"]
    assert lines[begins - 4] == "the ranges from here on lie around the best trials:"
    assert lines[begins - 3] == f"  lr: {new.low:e} to {new.high:e} (was 1.000000e-06 to 1.000000e-02)"


def test_choices_that_the_best_trials_avoid_are_dropped():
    space = Space({"optimizer": Choice(["sgd", "adam", "adamw"]), "hidden": IntUniform(10, 99), "momentum": 0.9})

    def score(point):
        return (point["optimizer"] != "adamw") + point["hidden"][0] / 1000

    new = narrowed(space, explore(score, space).rows)
    assert set(new["optimizer"].values) == {"sgd", "adam"}
    assert (80 <= new["hidden"].low < new["hidden"].high == 99, new["momentum"]) == (True, 0.9)


def test_two_best_trials_at_one_place_leave_a_range():
    space = Space({"batch_size": IntUniform(1, 64), "lr": LogUniform(1e-4, 1e-3), "reg": Uniform(0.0, 1.0)})
    base = {"stage": 1, "status": "finished", "val_accuracy": 0.9, "val_loss": 1.0}
    rows = [base | {"trial": i, "batch_size": 32, "lr": 2e-4, "reg": 0.5} for i in range(10)]
    new = narrowed(space, rows)
    assert (new["batch_size"], new["lr"].low < 2e-4 < new["lr"].high) == (IntUniform(31, 33), True)
    assert (new["reg"].low, new["reg"].high) == pytest.approx((0.49, 0.51))


@pytest.mark.parametrize(("trials", "scored"), [(1, 1), (3, 3), (5, 5), (40, 2)])
def test_too_few_good_trials_keep_the_ranges(trials, scored):
    def score(point):
        return next(scores)

    scores = iter([0.5 + i / 100 for i in range(scored)] + [None] * (trials - scored))
    assert narrowed(SPACE, explore(score, stages=((trials, 5),)).rows) == SPACE


def test_three_good_trials_are_enough_to_narrow():
    rows = explore(peak(lr=0.5), stages=((6, 5),)).rows
    assert narrowed(SPACE, rows)["lr"] != SPACE["lr"]
