"""The table of ways to get more out of one network: each figure is that of what was trained."""

from __future__ import annotations

from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tinygrad_cr.data import Dataset, load, split
from tinygrad_cr.ensemble import (
    Comparison,
    WeightAverage,
    comparison,
    snapshot_ensemble,
    train_ensemble,
    weight_average,
)
from tinygrad_cr.errors import DataError, OptionError, ShapeError
from tinygrad_cr.random import Generator

PARTS = split(load("digits"), seed=0)
METHODS = [
    *("single model", "best single", "independent ensemble"),
    *("snapshot ensemble", "MC dropout", "weight average"),
]
COMMON: dict[str, Any] = {"hidden": [32], "lr": 0.02, "epochs": 6}
OPTIONS: dict[str, Any] = {**COMMON, "members": 3, "cycles": 2, "samples": 20, "generator": 5}


@pytest.fixture(scope="module")
def table() -> Comparison:
    return comparison(*PARTS, **OPTIONS)


def answers(ensemble: Any) -> list[bytes]:
    return [member.tobytes() for member in ensemble.member_proba(PARTS.test.x)]


def test_there_is_a_row_for_each_method(table):
    assert [row["method"] for row in table] == METHODS == list(table.ensembles)
    assert [row["members"] for row in table] == [1, 1, 3, 2, 20, 1]
    keys = {"method", "members", "accuracy", "log_loss", "ece", "relative_time", "seconds"}
    assert all(set(row) == keys for row in table)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "MC dropout"])
def test_figures_are_those_of_the_ensembles(table, method):
    ensemble, row = table.ensembles[method], table[method]
    assert (row["log_loss"], row["accuracy"]) == pytest.approx(ensemble.evaluate(PARTS.test), rel=1e-12)
    assert row["ece"] == ensemble.calibration(PARTS.test).ece


def test_the_networks_are_those_of_the_separate_functions(table):
    common = {**COMMON, "generator": 5, "reporter": False}
    together = train_ensemble(3, PARTS.train, PARTS.validation, **common)
    assert answers(table.ensembles["independent ensemble"]) == answers(together)
    assert answers(table.ensembles["single model"]) == answers(together[:1])
    snapshots = snapshot_ensemble(PARTS.train, PARTS.validation, cycles=2, **common)
    assert answers(table.ensembles["snapshot ensemble"]) == answers(snapshots)
    averaged = weight_average(PARTS.train, PARTS.validation, **common)
    assert answers(table.ensembles["weight average"]) == answers(averaged)


def test_the_best_single_model_is_chosen_on_the_validation_part(table):
    together = table.ensembles["independent ensemble"]
    accuracies = [together[i : i + 1].evaluate(PARTS.validation)[1] for i in range(3)]
    best = int(np.argmax(accuracies))
    assert answers(table.ensembles["best single"]) == answers(together[best : best + 1])


def test_times_are_multiples_of_that_of_the_single_model(table):
    unit = table["single model"]["seconds"]
    assert all(row["relative_time"] == row["seconds"] / unit for row in table)
    assert table["best single"]["seconds"] == table["independent ensemble"]["seconds"]
    assert table["weight average"]["relative_time"] == 1


def test_many_masks_are_drawn_from_a_network_with_dropout(table):
    assert table.ensembles["MC dropout"][0].model.dropout == 0.2
    dropping = comparison(*PARTS, **{**OPTIONS, "epochs": 2, "dropout": 0.4})
    assert answers(dropping.ensembles["MC dropout"]) == answers(dropping.ensembles["single model"])
    assert dropping["MC dropout"]["log_loss"] != dropping["single model"]["log_loss"]


def test_the_same_seed_gives_the_same_table_and_leaves_the_generator():
    def figures(generator: Any) -> list[Any]:
        made = comparison(*PARTS, **{**OPTIONS, "epochs": 2, "generator": generator})
        return [(row["accuracy"], row["log_loss"], row["ece"]) for row in made]

    generator = Generator(9)
    assert figures(generator) == figures(9) == figures(generator)


def test_a_table_is_printed_with_a_line_for_each_row(table):
    lines = str(table).splitlines()
    assert lines[0].split() == ["method", "members", "accuracy", "log", "loss", "ECE", "training", "time"]
    assert [line[:20].strip() for line in lines[1:]] == METHODS
    assert f"{table['single model']['accuracy']:.4f}" in lines[1]
    assert len({len(line) for line in lines}) == 1
    console = Console(file=StringIO(), width=100)
    console.print(table)
    assert all(method in console.file.getvalue() for method in METHODS)


def test_a_method_that_is_not_there_is_refused_with_the_nearest(table):
    with pytest.raises(OptionError, match="unknown method 'snapshots': did you mean 'snapshot ensemble'"):
        table["snapshots"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"test": Dataset(PARTS.test.x)}, DataError, "labelled test part"),
        ({"test": Dataset(PARTS.test.x[:, :5], PARTS.test.y)}, ShapeError, "test part has 5 features, the training"),
        ({"test": Dataset(PARTS.test.x[:1], [12])}, DataError, r"label 12, the training part only 0\.\.9"),
        ({"epochs": 7}, OptionError, "a multiple of 2 epochs, got epochs 7"),
        ({"patience": 2}, OptionError, "patience cannot be given here: every method"),
        ({"samples": 1}, OptionError, "samples must be an integer of at least 2"),
        ({"start": 2}, OptionError, "start must be"),
        ({"mask_rate": 1}, OptionError, "mask_rate must be"),
        ({"mask_rate": 0}, OptionError, "mask_rate 0 drops nothing"),
        ({"hidden": ()}, OptionError, "hidden is empty: MC dropout drops hidden units"),
        ({"members": 0}, OptionError, "members must be an integer of at least 1, got 0"),
        ({"snapshot_lr": -1}, OptionError, "snapshot_lr must be a finite number >= 0, got -1"),
        ({"lr": [0.1, 0.2, 0.3]}, OptionError, r"lr must be one value here, got \[0.1, 0.2, 0.3\]"),
        ({"dropout": (0.1, 0.2, 0.3)}, OptionError, "dropout must be one value here"),
        ({"validate_steps": 5}, OptionError, "validate_steps cannot be given here"),
        ({"callbacks": [WeightAverage()]}, OptionError, "a WeightAverage cannot follow the independent members"),
        ({"member": 3}, OptionError, "unknown option 'member'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(changes, error, message, monkeypatch):
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("tinygrad_cr.train.Trainer.fit", never)
    parts = {**PARTS._asdict(), **{name: changes.pop(name) for name in ("test",) if name in changes}}
    with pytest.raises(error, match=message):
        comparison(**{**parts, **OPTIONS, **changes})
