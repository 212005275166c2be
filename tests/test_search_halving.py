"""Successive halving: the better trials are trained for longer, and the best one is not lost."""

from __future__ import annotations

from collections import Counter

import pytest

from search_objectives import SPACE, explore, objective, peak
from tinygrad_cr.errors import DivergenceError, OptionError
from tinygrad_cr.search import Choice, Halving, Space
from tinygrad_cr.search.explore import Explorer
from tinygrad_cr.search.halving import as_halving
from tinygrad_cr.search.ledger import Ledger
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.progress import Lines
from tinygrad_cr.search.trial import ranked

HALVED = {"stages": ((30, 9),), "halving": Halving(3, 1)}
SCORE = peak(lr=0.4, reg=0.6)


def test_one_in_eta_goes_on_from_each_rung():
    result = explore(SCORE, **HALVED)
    assert Counter(row["rung"] for row in result) == {1: 20, 2: 6, 3: 4}
    assert Counter(row["epoch"] for row in result) == {1: 20, 3: 6, 9: 4}


def test_each_trial_has_one_row_and_those_given_up_were_stopped():
    result = explore(SCORE, **HALVED)
    assert [row["trial"] for row in result] == list(range(1, 31))
    assert {row["epoch"]: row["status"] for row in result} == {1: "stopped", 3: "stopped", 9: "finished"}


def test_the_trials_that_go_on_are_the_best_of_all_shapes():
    space = Space(dict(SPACE) | {"hidden": Choice([10, 20, 30, [10, 10]])})
    result, full = explore(SCORE, space, **HALVED), explore(SCORE, space, stages=((30, 9),))
    kept = {row["trial"] for row in result if row["rung"] == 3}
    assert kept == {row["trial"] for row in full.top(4)}


def test_the_best_trial_is_that_of_the_whole_budget():
    assert explore(SCORE, **HALVED).best["trial"] == explore(SCORE, stages=((30, 9),)).best["trial"]


def test_a_later_stage_with_fewer_rungs_can_win():
    result = explore(SCORE, stages=((81, 27), (30, 9)), halving=Halving(3, 1))
    assert {stage: max(row["rung"] for row in result if row["stage"] == stage) for stage in (1, 2)} == {1: 4, 2: 3}
    last = [row for row in result if row["status"] == "finished"]
    assert {row["stage"] for row in last} == {1, 2}
    assert result.best == max(last, key=lambda row: row["val_accuracy"])
    assert result.best["stage"] == 2
    ranks = [(row["status"] != "finished", -row["val_accuracy"]) for row in result.top(len(last))]
    assert ranks == sorted(ranks)


def test_where_all_that_went_furthest_diverged_the_others_are_no_finalists():
    def row(stage, trial, rung, accuracy, status="finished"):
        return {
            "stage": stage,
            "trial": trial,
            "rung": rung,
            "val_accuracy": accuracy,
            "val_loss": 1.0,
            "status": status,
        }

    rows = [
        row(1, 1, 3, 0.8),
        row(1, 2, 1, 0.7, "stopped"),
        row(2, 1, 3, 0.9, "diverged"),
        row(2, 2, 2, 0.9, "stopped"),
    ]
    assert [(row["stage"], row["trial"]) for row in ranked(rows)] == [(1, 1), (2, 2), (1, 2)]


def test_halving_costs_a_fraction():
    plan = Plan(SPACE, ((81, 27),), halving=Halving(3, 1))
    assert (plan.work(), Plan(SPACE, ((81, 27),)).work()) == (4 * 81, 81 * 27)


@pytest.mark.parametrize("size", [1, 3, 16, 100])
def test_groups_do_not_change_what_is_halved(size):
    plan = Plan(SPACE, **HALVED)
    result = Explorer(plan, objective(SCORE), Ledger(None, {}), group_size=size).explore()
    assert result.rows == explore(SCORE, **HALVED).rows


def test_trials_that_diverged_do_not_go_on():
    def score(point):
        return None if SPACE["lr"].position(point["lr"]) > 0.1 else SCORE(point)

    result = explore(score, **HALVED)
    assert {row["status"] for row in result if row["rung"] > 1} <= {"stopped", "finished"}
    assert result.best["status"] == "finished"


def test_if_all_diverge_at_the_first_rung_nothing_goes_on():
    with pytest.raises(DivergenceError, match="all 30 trials"):
        explore(lambda point: None, **HALVED)


def test_what_goes_on_is_told(capsys):
    plan = Plan(SPACE, **HALVED)
    Explorer(plan, objective(SCORE), Ledger(None, {}), reporter=Lines()).explore()
    out = capsys.readouterr().out
    assert "after 1 epochs the best 10 of 30 trials go on to 3" in out
    assert "after 3 epochs the best 4 of 10 trials go on to 9" in out


def test_the_edges_are_judged_with_those_that_went_furthest_in_front():
    assert explore(peak(lr=1.5), **HALVED | {"stages": ((100, 9),)}).warnings != []


@pytest.mark.parametrize(
    ("epochs", "eta", "first", "rungs"),
    [(5, 3, 1, [1, 3, 5]), (1, 3, 1, [1]), (2, 3, 4, [2]), (8, 2, 2, [2, 4, 8]), (27, 3, 3, [3, 9, 27])],
)
def test_the_last_rung_is_the_whole_budget(epochs, eta, first, rungs):
    assert Halving(eta, first).rungs(epochs) == rungs


def test_halving_is_given_in_several_ways():
    assert [as_halving(given) for given in (None, False, True, 4, Halving(2, 2))] == [
        None,
        None,
        Halving(3, 1),
        Halving(4, 1),
        Halving(2, 2),
    ]


@pytest.mark.parametrize(("given", "message"), [(1, "least 2"), ("3", "halving wants"), (0.5, "halving wants")])
def test_halving_that_keeps_all_is_refused(given, message):
    with pytest.raises(OptionError, match=message):
        as_halving(given)
