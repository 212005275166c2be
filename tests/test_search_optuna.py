"""Optuna chooses points of our spaces, hears of each epoch, and may end a trial there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tinygrad_cr.data import load, split
from tinygrad_cr.errors import DataError, ExtraError, OptionError, ShapeError
from tinygrad_cr.search import Choice, IntUniform, LogUniform, Uniform, optuna_objective, random_search

optuna = pytest.importorskip("optuna")

PARTS = split(load("digits"), seed=0)
TRAIN, VALIDATION = PARTS.train.take(slice(400)), PARTS.validation
SPACE = {"lr": LogUniform(1e-3, 1e-1), "dropout": Uniform(0.0, 0.4), "hidden": 12, "batch_size": 20}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def study(**options: Any) -> Any:
    wanted = {"direction": "maximize", "sampler": optuna.samplers.RandomSampler(seed=0)}
    return optuna.create_study(**wanted | options)


def test_a_trial_is_the_trial_of_a_random_search_at_the_same_point():
    search = random_search(TRAIN, VALIDATION, SPACE, trials=3, epochs=2, seed=5, reporter=False)
    chosen = study()
    for row in search:
        chosen.enqueue_trial({name: row[name] for name in ("lr", "dropout")})
    chosen.optimize(optuna_objective(TRAIN, VALIDATION, SPACE, epochs=2, seed=5), n_trials=3)
    assert [trial.value for trial in chosen.trials] == [row["val_accuracy"] for row in search]
    for key in ("val_loss", "loss", "accuracy", "epoch", "status"):
        assert [trial.user_attrs[key] for trial in chosen.trials] == [row[key] for row in search], key


def test_threads_of_optuna_change_nothing():
    found = []
    for jobs in (1, 2):
        chosen = study()
        for lr in (0.003, 0.01, 0.03, 0.1):
            chosen.enqueue_trial({"lr": lr, "dropout": 0.1})
        chosen.optimize(optuna_objective(TRAIN, VALIDATION, SPACE, epochs=1), n_trials=4, n_jobs=jobs)
        found.append([(trial.params, trial.value) for trial in chosen.trials])
    assert found[0] == found[1]


def test_every_epoch_is_reported():
    chosen = study()
    chosen.optimize(optuna_objective(TRAIN, VALIDATION, SPACE, epochs=4), n_trials=1)
    (trial,) = chosen.trials
    assert list(trial.intermediate_values) == [1, 2, 3, 4]
    assert max(trial.intermediate_values.values()) == trial.value


def test_the_median_pruner_ends_a_trial_that_lags_behind():
    chosen = study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0))
    for lr in (0.02, 0.02, 1e-3):
        chosen.enqueue_trial({"lr": lr, "dropout": 0.0})
    chosen.optimize(optuna_objective(TRAIN, VALIDATION, SPACE, epochs=5), n_trials=3)
    assert [trial.state.name for trial in chosen.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    slow = chosen.trials[2]
    assert list(slow.intermediate_values) == [1]
    assert (slow.user_attrs["status"], slow.user_attrs["epoch"]) == ("pruned", 1)


def test_a_trial_that_diverges_is_pruned_and_the_study_goes_on():
    chosen = study()
    space = {"lr": LogUniform(1e-3, 1e6), "hidden": 12}
    for lr in (1e6, 0.02):
        chosen.enqueue_trial({"lr": lr})
    chosen.optimize(optuna_objective(TRAIN, VALIDATION, space, epochs=2), n_trials=2)
    lost, good = chosen.trials
    assert (lost.state.name, lost.user_attrs["status"]) == ("PRUNED", "diverged")
    assert (good.state.name, good.user_attrs["status"]) == ("COMPLETE", "finished")
    assert chosen.best_trial.number == 1


def test_patience_ends_a_trial_that_still_counts():
    chosen = study()
    objective = optuna_objective(TRAIN, VALIDATION, {"lr": 1e-9, "hidden": 12}, epochs=9, patience=2)
    chosen.optimize(objective, n_trials=1)
    (trial,) = chosen.trials
    assert (trial.state.name, trial.user_attrs["status"], trial.user_attrs["epoch"]) == ("COMPLETE", "stopped", 3)


def test_each_kind_of_range_becomes_one_of_optuna_and_comes_back():
    space = {
        "lr": LogUniform(1e-3, 1e-1),
        "dropout": Uniform(0.0, 0.4),
        "batch_size": IntUniform(20, 40),
        "optimizer": Choice(["sgd", "adam"]),
        "hidden": Choice([12, [12, 8]]),
        "momentum": 0.5,
    }
    chosen = study()
    objective = optuna_objective(TRAIN, VALIDATION, space, epochs=1)
    chosen.optimize(objective, n_trials=6)
    kinds = chosen.trials[0].distributions
    assert kinds["lr"] == optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)
    assert kinds["dropout"] == optuna.distributions.FloatDistribution(0.0, 0.4)
    assert kinds["batch_size"] == optuna.distributions.IntDistribution(20, 40)
    assert kinds["optimizer"].choices == ("sgd", "adam")
    assert kinds["hidden"].choices == ("[12]", "[12, 8]")
    points = [objective.point(trial.params) for trial in chosen.trials]
    assert {tuple(point["hidden"]) for point in points} == {(12,), (12, 8)}
    assert all(point["momentum"] == 0.5 and isinstance(point["batch_size"], int) for point in points)
    assert [point["lr"] for point in points] == [trial.params["lr"] for trial in chosen.trials]


@pytest.mark.parametrize("options", [{"direction": "minimize"}, {"direction": None, "directions": ["maximize"] * 2}])
def test_a_study_that_does_not_maximise_is_refused(options):
    with pytest.raises(OptionError, match='direction="maximize"'):
        study(**options).optimize(optuna_objective(TRAIN, VALIDATION, SPACE), n_trials=1)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"space": {"lrr": 0.1}}, OptionError, "did you mean 'lr'"),
        ({"epochs": 0}, OptionError, "epochs"),
        ({"patience": 0}, OptionError, "patience"),
        ({"dtype": "float16"}, OptionError, "float16"),
        ({"standardize": "none at all"}, OptionError, "none at all"),
        ({"train": "nowhere.csv"}, DataError, "nowhere"),
        ({"train": (TRAIN.x, None)}, DataError, "training part has no labels"),
        ({"validation": (VALIDATION.x, None)}, DataError, "validation part has no labels"),
        ({"validation": (VALIDATION.x[:, :9], VALIDATION.y)}, ShapeError, "9"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_trial(wrong, error, match):
    arguments = {"train": TRAIN, "validation": VALIDATION, "space": SPACE} | wrong
    with pytest.raises(error, match=match):
        optuna_objective(**arguments)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ExtraError, match=r"pip install 'tinygrad_cr\[optuna\]'"):
        optuna_objective(TRAIN, VALIDATION, SPACE)
