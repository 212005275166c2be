"""The trainer runs a population like a model, and each member as it would run alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_cr import Generator, Tensor, data, nn, optim, schedules
from tinygrad_cr.errors import DivergenceError, OptionError, RunError
from tinygrad_cr.nn.module import Module
from tinygrad_cr.train import Callback, Event, Trainer, evaluate, load_run, predict_proba, read_run

MEMBERS = 4
SIZES = [64, 12, 10]
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 50, "reporter": False}
VECTORS = {"lr": [0.01, 0.05, 0.1, 0.02], "momentum": [0.0, 0.9, 0.5, 0.9], "lr_decay": [1.0, 0.9, 0.5, 0.95]}
REG = [0.0, 1e-3, 0.01, 0.0]
DROPOUT = [0.0, 0.5, 0.2, 0.1]


@pytest.fixture(scope="module")
def parts() -> Any:
    return data.split(data.load("digits"), seed=0)


def population(dtype: str = "float32") -> nn.MLP:
    return nn.MLP(SIZES, members=MEMBERS, dropout=DROPOUT, generator=1, dtype=dtype)


def of(options: dict[str, Any], m: int) -> dict[str, Any]:
    return {key: value[m] if isinstance(value, list) else value for key, value in options.items()}


def member(m: int, dtype: str = "float32") -> nn.MLP:
    return nn.MLP(SIZES, dropout=DROPOUT[m], generator=Generator(1, stream=m), dtype=dtype)


def without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("seconds", *keys)}


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (VECTORS, "float32"),
        (VECTORS | {"reg": REG}, "float32"),
        (VECTORS | {"reg": REG}, "float64"),
        (VECTORS | {"reg": REG, "compile": False, "clip_norm": 0.5, "epochs": 2}, "float32"),
        ({"optimizer": "adam", "lr": [0.001, 0.01, 0.003, 0.0005], "reg": 1e-3, "lr_decay": 0.9}, "float32"),
        (VECTORS | {"standardize": "none", "batch_size": 2000}, "float32"),
    ],
    ids=["vectors", "reg", "float64", "eager", "adam", "whole"],
)
def test_each_member_has_the_history_and_the_network_of_its_solo_run(
    parts: Any, options: dict[str, Any], dtype: str
) -> None:
    model = population(dtype)
    history = Trainer(model, generator=2, **OPTIONS | options).fit(parts.train, parts.validation)
    assert len(history) == MEMBERS * (OPTIONS | options)["epochs"]
    for m in range(MEMBERS):
        alone = member(m, dtype)
        expected = Trainer(alone, generator=Generator(2, stream=m), **OPTIONS | of(options, m)).fit(
            parts.train, parts.validation
        )
        np.testing.assert_array_equal(model.flat().values[m], alone.flat().values)
        own = [without(row, "member") for row in history if row["member"] == m]
        assert own == [without(row) for row in expected]


def test_wide_rows_are_narrowed_once(parts: Any) -> None:
    wide = data.Dataset(parts.train.x.astype("float64"), parts.train.y)
    model, alone = population(), member(1)
    Trainer(model, generator=2, lr=0.01, **OPTIONS).fit(wide)
    Trainer(alone, generator=Generator(2, stream=1), lr=0.01, **OPTIONS).fit(wide)
    np.testing.assert_array_equal(model.flat().values[1], alone.flat().values)


def test_one_shuffle_can_serve_all(parts: Any) -> None:
    model = population()
    trainer = Trainer(model, generator=2, shuffle="shared", **OPTIONS | VECTORS)
    trainer.fit(parts.train, parts.validation)
    for m in range(MEMBERS):
        alone = member(m)
        Trainer(alone, generator=2, **OPTIONS | of(VECTORS, m)).fit(parts.train, parts.validation)
        np.testing.assert_array_equal(model.flat().values[m], alone.flat().values)


def test_a_schedule_may_be_everybodys_or_a_vector(parts: Any) -> None:
    for schedule in (lambda step: 0.1 / (1 + step), lambda step: np.array([0.1, 0.2, 0.3, 0.4]) / (1 + step)):
        model = population()
        history = Trainer(model, generator=2, schedule=schedule, **OPTIONS).fit(parts.train)
        alone = member(3)
        Trainer(
            alone, generator=Generator(2, stream=3), schedule=lambda step, s=schedule: float(np.max(s(step))), **OPTIONS
        ).fit(parts.train)
        np.testing.assert_array_equal(model.flat().values[3], alone.flat().values)
        assert history[3]["lr"] == pytest.approx(float(np.max(schedule(history[3]["step"] - 1))))


@pytest.mark.parametrize("monitors", [True, False])
def test_a_member_that_diverges_is_retired_and_the_others_do_not_notice(parts: Any, monitors: bool) -> None:
    rates = [0.01, 1e30, 0.1, 0.02]
    model, twin = population(), population()
    options = OPTIONS | {"monitors": monitors, "generator": 2, "reg": 1e-4}
    history = Trainer(model, lr=rates, **options).fit(parts.train, parts.validation)
    Trainer(twin, lr=[0.01, 0.01, 0.1, 0.02], **options).fit(parts.train, parts.validation)
    (event,) = [event for event in history.events if event.stop]
    assert (event.member, event.level) == (1, "fail")
    assert event.kind in ("divergence", "explosion")
    assert event.message.startswith("member 1: the cost ")
    assert history.stopped is None
    assert {row["member"] for row in history} == {0, 2, 3}
    for m in (0, 2, 3):
        np.testing.assert_array_equal(model.flat().values[m], twin.flat().values[m])
    # What it was before it was lost: its initial parameters.
    np.testing.assert_array_equal(model.flat().values[1], population().flat().values[1])


def test_a_member_that_explodes_is_retired_as_its_solo_run_is(parts: Any) -> None:
    rates = [0.01, 3.0, 0.05, 0.02]
    model, alone = population(), member(1)
    history = Trainer(model, lr=rates, generator=2, **OPTIONS).fit(parts.train, parts.validation)
    solo = Trainer(alone, lr=3.0, generator=Generator(2, stream=1), **OPTIONS).fit(parts.train, parts.validation)
    (event,) = [event for event in history.events if event.member == 1]
    fatal = next(event for event in solo.events if event.level == "fail")
    assert (event.kind, event.step, event.message) == (fatal.kind, fatal.step, f"member 1: {fatal.message}")
    np.testing.assert_array_equal(model.flat().values[1], alone.flat().values)


def test_a_run_in_which_everybody_is_lost_ends_and_says_so(parts: Any) -> None:
    history = Trainer(population(), lr=1e30, generator=2, **OPTIONS).fit(parts.train)
    assert history.stopped == "no member trains any more: 4 of 4 were lost"
    assert len(history) == 0


def test_without_monitors_a_run_in_which_everybody_is_lost_is_an_error(parts: Any) -> None:
    with pytest.raises(DivergenceError, match=r"4 of 4 were lost; member 0: the cost became"):
        Trainer(population(), lr=1e30, generator=2, monitors=False, **OPTIONS).fit(parts.train)


def test_a_member_that_was_lost_can_be_trained_again(parts: Any) -> None:
    model = population()
    trainer = Trainer(model, lr=[0.05, 1e30, 0.05, 0.05], generator=2, **OPTIONS)
    assert trainer.fit(parts.train).events[-1].member == 1
    trainer.schedule = lambda step: 0.05
    history = trainer.fit(parts.train, parts.validation)
    assert [row["val_accuracy"] > 0.5 for row in history][-MEMBERS:] == [True] * MEMBERS


def test_patience_retires_members_one_by_one(parts: Any) -> None:
    model = population()
    options = OPTIONS | {"epochs": 8, "patience": 1, "lr": [1e-6, 0.05, 1e-6, 0.05]}
    history = Trainer(model, generator=2, **options).fit(parts.train, parts.validation)
    lengths = [len([row for row in history if row["member"] == m]) for m in range(MEMBERS)]
    for m in range(MEMBERS):
        alone = Trainer(member(m), generator=Generator(2, stream=m), **options | {"lr": options["lr"][m]})
        assert len(alone.fit(parts.train, parts.validation)) == lengths[m]
    assert min(lengths) < max(lengths)


def test_an_event_that_names_a_member_retires_it_and_one_that_does_not_ends_the_run(parts: Any) -> None:
    class Judge(Callback):
        def epoch(self, row: Any) -> Any:
            if (row["epoch"], row["member"]) == (1, 2):
                yield Event("note", "halving", 1, row["step"], None, "not among the best", stop=True, member=2)
            if (row["epoch"], row["member"]) == (3, 0):
                yield Event("note", "enough", 3, row["step"], None, "that is enough", stop=True)

    history = Trainer(population(), generator=2, callbacks=[Judge()], **OPTIONS | {"epochs": 9}).fit(parts.train)
    assert [len([row for row in history if row["member"] == m]) for m in range(MEMBERS)] == [3, 3, 1, 3]
    assert history.stopped == "that is enough"


def test_evaluate_and_predict_proba_give_a_value_for_each_member(parts: Any) -> None:
    model = population()
    trainer = Trainer(model, generator=2, **OPTIONS | VECTORS)
    trainer.fit(parts.train)
    loss, accuracy = evaluate(model, parts.test, trainer.standardizer)
    probabilities = predict_proba(model, parts.test.x, trainer.standardizer)
    assert probabilities.shape == (MEMBERS, len(parts.test), 10)
    for m in range(MEMBERS):
        assert evaluate(model[m], parts.test, trainer.standardizer) == (loss[m], accuracy[m])
        np.testing.assert_array_equal(probabilities[m], predict_proba(model[m], parts.test.x, trainer.standardizer))


def test_a_run_folder_holds_every_members_best(parts: Any, tmp_path: Path) -> None:
    model = population()
    trainer = Trainer(model, generator=2, out=tmp_path / "run", reg=REG, **OPTIONS | VECTORS)
    history = trainer.fit(parts.train, parts.validation)
    run = load_run(tmp_path / "run")
    assert run.model.members == MEMBERS
    np.testing.assert_array_equal(run.model.flat().values, model.flat().values)
    assert list(read_run(tmp_path / "run").history) == list(history)
    assert run.config["lr"] == VECTORS["lr"]
    with pytest.raises(RunError, match="checkpoint"):
        Trainer.resume(tmp_path / "run")


def test_a_population_can_be_stacked_trained_and_taken_apart(parts: Any) -> None:
    networks = [nn.MLP(SIZES, generator=seed) for seed in (5, 6)]
    model = nn.stack(networks)
    Trainer(model, lr=0.05, generator=2, **OPTIONS).fit(parts.train)
    fine = model[1]
    history = Trainer(fine, lr=0.01, generator=3, **OPTIONS).fit(parts.train, parts.validation)
    assert history.best()["val_accuracy"] > 0.8
    np.testing.assert_array_equal(model.flat().values[1], fine.flat().values)


class Scaled(Module):
    """A layer of somebody's own in front of a population."""

    def __init__(self, inner: Module) -> None:
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 0.5)


def test_layers_of_ones_own_train_eagerly_and_captured(parts: Any) -> None:
    found = []
    for compile in (None, True):
        model = Scaled(population())
        Trainer(model, lr=0.05, generator=2, compile=compile, **OPTIONS | {"epochs": 1}).fit(parts.train)
        found.append(model.flat().values.copy())
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": [0.1, 0.2]}, "lr has 2 values for 4 members"),
        ({"lr": [0.1, 0.2, 0.3, -1]}, r"lr\[3\] must be"),
        ({"lr_decay": [1.0, 1.0, 1.0, 0.0]}, "decay is a factor"),
        ({"momentum": 1.5}, "momentum must be"),
        ({"shuffle": "member"}, "did you mean 'members'"),
        ({"generator": [Generator(1)]}, "4 members want as many generators"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Trainer(population(), reporter=False, **options)


def test_validation_within_epochs_is_refused(parts: Any) -> None:
    with pytest.raises(OptionError, match="leave validate_steps out"):
        Trainer(population(), validate_steps=3, reporter=False).fit(parts.train)


def test_interrupting_ends_after_the_block_in_progress(parts: Any) -> None:
    class Impatient(Callback):
        def epoch(self, row: Any) -> None:
            trainer.interrupt()

    model = population()
    trainer = Trainer(model, generator=2, callbacks=[Impatient()], **OPTIONS)
    history = trainer.fit(parts.train)
    assert history.events[-1].kind == "interrupted"
    assert {row["epoch"] for row in history} == {1}


def test_the_same_schedule_object_works_for_vectors(parts: Any) -> None:
    schedule = schedules.exponential(0.05, 0.9, 10)
    model = population()
    optimizer = optim.SGD(model, lr=0.05, momentum=VECTORS["momentum"])
    Trainer(model, optimizer=optimizer, schedule=schedule, generator=2, **OPTIONS).fit(parts.train)
    alone = member(2)
    Trainer(
        alone,
        optimizer=optim.SGD(alone, lr=0.05, momentum=VECTORS["momentum"][2]),
        schedule=schedule,
        generator=Generator(2, stream=2),
        **OPTIONS,
    ).fit(parts.train)
    np.testing.assert_array_equal(model.flat().values[2], alone.flat().values)
