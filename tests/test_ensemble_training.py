"""Several networks out of several runs, or out of one: which parameters become the members."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_cr import ops, schedules
from tinygrad_cr.data import Batches, Dataset, Standardizer
from tinygrad_cr.ensemble import Ensemble, Snapshots, WeightAverage, snapshot_ensemble, train_ensemble, weight_average
from tinygrad_cr.ensemble.settings import SHUFFLES
from tinygrad_cr.errors import DataError, DivergenceError, OptionError
from tinygrad_cr.nn import MLP, Module
from tinygrad_cr.optim import SGD
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train import Callback, Event, Trainer


def blobs(n: int, seed: int = 0) -> Dataset:
    """Three overlapping clouds of points with 5 features."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 5)) + 1.5 * np.eye(3, 5)[y], y, class_names=("a", "b", "c"))


TRAIN, VALIDATION = blobs(50), blobs(31, seed=1)
STEPS = 4
"""A run's steps an epoch."""
OPTIONS: dict[str, Any] = {"hidden": [8], "batch_size": 16, "generator": 7, "reporter": False}
RUN = {"batch_size": 16, "reporter": False}


def bits(model: Module) -> list[bytes]:
    return [value.tobytes() for value in model.state_dict().values()]


class Stopping(Callback):
    """Calls a run lost, or just ends it, after an epoch; of a population, only one member's."""

    def __init__(self, epoch: int, level: str = "fail", member: int | None = None) -> None:
        self.last, self.level, self.member = epoch, level, member

    def epoch(self, row: Any) -> Any:
        if (row["epoch"], row.get("member")) == (self.last, self.member):
            message = "it was planted"
            yield Event(self.level, "planted", self.last, row["step"], None, message, stop=True, member=self.member)


# Independent members


def test_each_member_is_the_network_that_its_streams_make():
    ensemble = train_ensemble(3, TRAIN, VALIDATION, lr=0.1, epochs=4, dropout=0.3, **OPTIONS)
    for m, member in enumerate(ensemble):
        model = MLP([5, 8, 3], dropout=0.3, generator=Generator(7, stream=m))
        trainer = Trainer(model, lr=0.1, epochs=4, generator=Generator(7, stream=SHUFFLES + m), **RUN)
        trainer.fit(TRAIN, VALIDATION)
        assert bits(member.model) == bits(model)
        assert (member.standardizer.mean_ == trainer.standardizer.mean_).all()
    assert ensemble.class_names == TRAIN.class_names


def test_a_member_is_the_same_in_ensembles_of_any_size():
    few, many = (train_ensemble(k, TRAIN, epochs=2, **OPTIONS) for k in (2, 4))
    assert [bits(a.model) == bits(b.model) for a, b in itertools.product(few, many)] == [
        *(True, False, False, False),
        *(False, True, False, False),
    ]


def test_members_may_differ_in_a_hyperparameter():
    ensemble = train_ensemble(2, TRAIN, lr=[0.1, 0.01], dropout=[0.0, 0.5], epochs=2, **OPTIONS)
    alone = train_ensemble(1, TRAIN, lr=0.1, epochs=2, **OPTIONS)
    assert bits(ensemble[0].model) == bits(alone[0].model)
    assert [member.model.dropout for member in ensemble] == [0.0, 0.5]


def test_the_history_has_a_row_for_each_member_and_epoch():
    history = train_ensemble(2, TRAIN, VALIDATION, epochs=3, **OPTIONS).history
    assert sorted((row["member"], row["epoch"]) for row in history) == list(itertools.product(range(2), range(1, 4)))


def test_a_member_whose_run_is_lost_is_left_out_and_named():
    lost = Stopping(2, member=1)
    ensemble = train_ensemble(3, TRAIN, epochs=3, callbacks=[lost], **OPTIONS)
    whole = train_ensemble(3, TRAIN, epochs=3, **OPTIONS)
    assert [bits(member.model) for member in ensemble] == [bits(whole[m].model) for m in (0, 2)]
    told = [(event.member, event.message) for event in ensemble.history.events if event.level == "fail"]
    assert told == [(1, "it was planted")]


def test_a_member_that_stopped_early_is_kept():
    ensemble = train_ensemble(2, TRAIN, epochs=3, callbacks=[Stopping(2, level="note", member=1)], **OPTIONS)
    assert len(ensemble) == 2


def test_an_ensemble_of_which_nobody_is_left_is_an_error():
    with pytest.raises(DivergenceError, match=r"no member is left; member 0: .*member 1: "):
        train_ensemble(2, TRAIN, lr=1e9, epochs=2, **OPTIONS)


@pytest.mark.parametrize("train", [train_ensemble, snapshot_ensemble, weight_average])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leraning_rate": 1}, "unknown option 'leraning_rate'"),
        ({"dropuot": 0.5}, "unknown option 'dropuot': did you mean 'dropout'"),
        ({"out": "folder"}, "unknown option 'out'"),
        ({"optimizer": SGD(MLP([5, 3]), lr=1)}, "optimizer must be a name here"),
        ({"hidden": "100"}, r"hidden lists the widths of the hidden layers, e.g. \[100\]; got '100'"),
        ({"hidden": [0]}, "a hidden layer's width must be an integer of at least 1, got 0"),
        ({"lr": -1}, "lr must be"),
    ],
)
def test_options_that_nobody_takes_are_refused(train, options, message):
    count = (1,) if train is train_ensemble else ()
    with pytest.raises(OptionError, match=message):
        train(*count, TRAIN, **{**OPTIONS, **options})


def test_rows_without_labels_are_refused():
    with pytest.raises(DataError, match="labelled data"):
        train_ensemble(2, Dataset(TRAIN.x))


def test_no_members_are_refused():
    with pytest.raises(OptionError, match="k must be an integer of at least 1, got 0"):
        train_ensemble(0, TRAIN)


# Snapshots


def after(epochs: int, schedule: Any) -> Module:
    """The network after so many epochs of the run that the snapshots are from: without validation it keeps the last."""
    model = MLP([5, 8, 3], generator=Generator(7))
    Trainer(model, schedule=schedule, epochs=epochs, generator=Generator(7, stream=SHUFFLES), **RUN).fit(TRAIN)
    return model


@pytest.mark.parametrize(("cycles", "t_mult", "ends"), [(3, 1, [2, 4, 6]), (3, 2, [1, 3, 7]), (1, 1, [5])])
@pytest.mark.parametrize("validation", [None, VALIDATION])
def test_snapshots_are_the_parameters_at_the_minima_of_the_schedule(cycles, t_mult, ends, validation):
    ensemble = snapshot_ensemble(
        TRAIN, validation, cycles=cycles, t_mult=t_mult, lr=0.3, low=0.01, epochs=ends[-1], **OPTIONS
    )
    schedule = schedules.cosine_restarts(0.3, ends[0] * STEPS, t_mult, 0.01)
    assert schedule.minima(ends[-1] * STEPS) == [epoch * STEPS - 1 for epoch in ends]
    assert [bits(member.model) for member in ensemble] == [bits(after(epoch, schedule)) for epoch in ends]


def test_the_rate_is_lowest_at_a_snapshot_and_highest_right_after_it():
    seen: list[float] = []

    class Rates(Callback):
        def steps(self, steps: Any) -> None:
            seen.append(steps.lr)

    # One minibatch an epoch, so that every step is seen.
    options = {**OPTIONS, "batch_size": 50, "callbacks": [Rates()]}
    ensemble = snapshot_ensemble(TRAIN, cycles=3, lr=0.1, epochs=12, **options)
    assert len(ensemble) == 3
    for end in (4, 8, 12):
        assert seen[end - 1] == min(seen[end - 4 : end])
        assert seen[end - 4] == 0.1 == max(seen)


def test_snapshots_average_to_one_answer_with_one_standardizer():
    ensemble = snapshot_ensemble(TRAIN, cycles=2, epochs=4, **OPTIONS)
    assert len({id(member.standardizer) for member in ensemble}) == 1
    alone = ensemble.member_proba(TRAIN.x)
    np.testing.assert_allclose(ensemble.predict_proba(TRAIN.x), alone.mean(axis=0), rtol=1e-12)


def test_a_run_that_is_lost_leaves_the_cycles_that_it_finished():
    whole = snapshot_ensemble(TRAIN, cycles=3, epochs=6, **OPTIONS)
    ensemble = snapshot_ensemble(TRAIN, cycles=3, epochs=6, callbacks=[Stopping(5)], **OPTIONS)
    assert [bits(m.model) for m in ensemble] == [bits(m.model) for m in whole[:2]]
    assert ensemble.history.stopped == "it was planted"


def test_a_run_that_is_lost_before_its_first_cycle_ends_is_an_error():
    with pytest.raises(DivergenceError, match="no member is left; it was planted"):
        snapshot_ensemble(TRAIN, cycles=3, epochs=6, callbacks=[Stopping(1)], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cycles": 3, "epochs": 10}, "t_mult 1 take a multiple of 3 epochs, got epochs 10; take 9 or 12"),
        ({"cycles": 3, "t_mult": 2, "epochs": 5}, "a multiple of 7 epochs, got epochs 5; take 7$"),
        ({"cycles": 0}, "cycles must be an integer of at least 1"),
        ({"low": 0.2, "lr": 0.1}, "low"),
        ({"schedule": schedules.constant(0.1)}, "schedule cannot be given here: .*cosine_restarts"),
        ({"lr_decay": 0.9}, "lr_decay cannot be given here"),
        ({"patience": 3}, "patience cannot be given here: every cycle is trained to its end"),
    ],
)
def test_cycles_that_do_not_fit_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        snapshot_ensemble(TRAIN, **OPTIONS, **options)


# The average of weights


def trajectory(steps: int, batch: int) -> list[dict[str, np.ndarray]]:
    """The parameters after each step of plain SGD, computed eagerly without a trainer."""
    model = MLP([5, 8, 3], generator=Generator(7), dtype="float64")
    optimizer = SGD(model, lr=0.1, momentum=0.9)
    batches = Batches(
        TRAIN,
        batch,
        standardizer=Standardizer("per-feature").fit(TRAIN.x),
        generator=Generator(7, stream=SHUFFLES),
        dtype="float64",
    )
    found = []
    while len(found) < steps:
        for x, y in batches:
            optimizer.zero_grad()
            ops.cross_entropy(model(Tensor(x)), y).backward()
            optimizer.step()
            found.append(model.state_dict())
    return found[:steps]


def assert_close(model: Module, wanted: dict[str, np.ndarray]) -> None:
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-9, atol=1e-12)


# One minibatch an epoch: every step is seen, and the average is that of the definition.
EVERY_STEP: dict[str, Any] = {**OPTIONS, "batch_size": 50, "lr": 0.1, "epochs": 12, "dtype": "float64"}


@pytest.mark.parametrize(("start", "first"), [(0.75, 9), (0.5, 6), (0.0, 0), (0.7, 8)])
def test_the_plain_average_is_the_mean_over_the_last_steps(start, first):
    ensemble = weight_average(TRAIN, VALIDATION, start=start, **EVERY_STEP)
    states = trajectory(12, 50)[first:]
    assert_close(ensemble[0].model, {name: np.mean([s[name] for s in states], axis=0) for name in states[0]})


def test_the_running_average_forgets_by_its_decay():
    ensemble = weight_average(TRAIN, start=0.5, decay=0.8, **EVERY_STEP)
    average, *states = trajectory(12, 50)[6:]
    for state in states:
        average = {name: 0.8 * average[name] + 0.2 * state[name] for name in average}
    assert_close(ensemble[0].model, average)


@pytest.mark.parametrize("decay", [None, 0.99])
def test_a_look_stands_for_the_steps_since_the_look_before(decay):
    # 70 steps an epoch, seen after steps 50 and 70; averaging begins after step 35.
    data, average = blobs(70), WeightAverage(start=0.25, decay=decay)
    seen: list[tuple[int, Any]] = []

    class Recorder(Callback):
        def start(self, setup: Any) -> None:
            self.model = setup.model

        def steps(self, steps: Any) -> None:
            seen.append((steps.step, self.model.state_dict()))

    model = MLP([5, 8, 3], generator=0, dtype="float64")
    Trainer(model, epochs=2, batch_size=1, generator=0, callbacks=[Recorder(), average], reporter=False).fit(data)
    average.apply(model)
    assert [step for step, _ in seen] == [50, 70, 120, 140]
    assert (average.steps_averaged, average.looks) == (140 - 35, 4)
    counts = [15, 20, 50, 20]
    weights = np.array(counts) / 105
    if decay is not None:
        kept = [decay**count for count in counts]
        weights = np.array([1, 1 - kept[1], 1 - kept[2], 1 - kept[3]])
        weights[:3] *= [kept[1] * kept[2] * kept[3], kept[2] * kept[3], kept[3]]
    assert weights.sum() == pytest.approx(1)
    assert_close(model, {n: np.tensordot(weights, [s[n] for _, s in seen], 1) for n in seen[0][1]})


def test_the_run_itself_is_not_changed_by_who_averages():
    models = [MLP([5, 8, 3], generator=0) for _ in range(2)]
    for model, callbacks in zip(models, ([], [WeightAverage(), Snapshots([4])]), strict=True):
        Trainer(model, epochs=3, generator=0, callbacks=callbacks, **RUN).fit(TRAIN, VALIDATION)
    assert bits(models[0]) == bits(models[1])


def test_an_average_with_one_look_is_the_last_parameters():
    model, average = MLP([5, 8, 3], generator=0), WeightAverage(start=0.5)
    Trainer(model, epochs=1, generator=0, callbacks=[average], **RUN).fit(TRAIN)
    last = bits(model)
    average.apply(model)
    assert (average.looks, average.steps_averaged, bits(model)) == (1, 2, last)


def test_a_population_has_no_average_of_weights():
    trainer = Trainer(MLP([5, 8, 3], members=2, generator=0), generator=0, callbacks=[WeightAverage()], **RUN)
    with pytest.raises(OptionError, match="WeightAverage follows one network, got a population of 2"):
        trainer.fit(TRAIN)


def test_an_average_that_never_began_is_an_error():
    with pytest.raises(OptionError, match="nothing was averaged: the run ended before step 10"):
        weight_average(TRAIN, callbacks=[Stopping(2, level="note")], **EVERY_STEP)
    with pytest.raises(DivergenceError, match="it was planted"):
        weight_average(TRAIN, callbacks=[Stopping(2)], **EVERY_STEP)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1}, r"start must be a number in \[0, 1\)"),
        ({"decay": 0}, "decay 0 remembers nothing"),
        ({"decay": 1}, r"decay must be a number in \[0, 1\)"),
    ],
)
def test_averages_of_nothing_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        weight_average(TRAIN, **options)


@pytest.mark.parametrize("step", [2, 4, 13, 16, 22])
def test_a_resumed_run_collects_what_an_uninterrupted_one_does(tmp_path: Path, step: int):
    def watching() -> list[Any]:
        return [WeightAverage(start=0.3), WeightAverage(start=0.3, decay=0.9), Snapshots([4, 12, 24])]

    class Interrupting(Callback):
        def steps(self, steps: Any) -> None:
            if steps.step == step:
                self.trainer.interrupt()

    common = {"epochs": 6, "generator": 3, **RUN, "batch_size": 16}
    whole, again, interrupting = watching(), watching(), Interrupting()
    Trainer(MLP([5, 8, 3], generator=0), callbacks=[Callback(), *whole], **common).fit(TRAIN, VALIDATION)
    first = Trainer(MLP([5, 8, 3], generator=0), callbacks=[interrupting, *watching()], out=tmp_path / "run", **common)
    interrupting.trainer = first
    first.fit(TRAIN, VALIDATION)
    rest = Trainer.resume(tmp_path / "run", callbacks=[Interrupting(), *again], reporter=False)
    rest.callbacks[0].trainer = rest
    rest.fit(TRAIN, VALIDATION)
    for ours, wanted in zip(again[:2], whole[:2], strict=True):
        assert (ours.steps_averaged, ours.looks) == (wanted.steps_averaged, wanted.looks)
        assert all((ours.average[name] == value).all() for name, value in wanted.average.items())
    assert list(again[2].states) == list(whole[2].states) == [4, 12, 24]
    for ours, wanted in zip(again[2].states.values(), whole[2].states.values(), strict=True):
        assert all((ours[name] == value).all() for name, value in wanted.items())


# The results are ensembles like any other


def test_what_is_trained_can_be_saved_and_loaded(tmp_path: Path):
    for ensemble in (
        train_ensemble(2, TRAIN, epochs=1, dropout=[0.1, 0.2], **OPTIONS),
        snapshot_ensemble(TRAIN, cycles=2, epochs=2, **OPTIONS),
        weight_average(TRAIN, epochs=2, **OPTIONS),
    ):
        ensemble.save(tmp_path / "e.safetensors")
        again = Ensemble.load(tmp_path / "e.safetensors")
        assert (again.predict_proba(TRAIN.x) == ensemble.predict_proba(TRAIN.x)).all()
        assert again.class_names == ("a", "b", "c")
