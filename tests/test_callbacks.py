"""Callbacks: what they are shown, in which order, what they may ask for, and that they change nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tinygrad_cr import ops
from tinygrad_cr.data import Dataset, load, split
from tinygrad_cr.errors import DivergenceError, OptionError
from tinygrad_cr.nn import MLP, Affine
from tinygrad_cr.optim import SGD, clip_norm
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train import Callback, EarlyStopping, Event, Histograms, History, Trainer, evaluate, read_run
from tinygrad_cr.train.callbacks import STEPS_BETWEEN_OBSERVATIONS


def blobs(n: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 5)) + 1.5 * np.eye(3, 5)[y], y)


TRAIN, VALIDATION = blobs(130), blobs(31, seed=1)


def trainer(model: MLP | None = None, **options: Any) -> Trainer:
    """Two epochs of 65 steps."""
    wanted = {"lr": 0.01, "epochs": 2, "batch_size": 2, "generator": 0, "reporter": False}
    return Trainer(MLP([5, 8, 3], generator=0) if model is None else model, **wanted | options)


def bits(model: MLP) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in model.state_dict().items()}


class Witness(Callback):
    """Writes down every call."""

    def __init__(self, log: list[tuple[str, str]] | None = None, name: str = "") -> None:
        self.log, self.name = [] if log is None else log, name
        self.setup, self.seen, self.rows = None, [], []

    def start(self, setup):
        self.setup = setup
        self.log.append((self.name, "start"))

    def steps(self, seen):
        self.seen.append(seen)
        self.log.append((self.name, "steps"))

    def epoch(self, row):
        self.rows.append(row)
        self.log.append((self.name, "epoch"))

    def stop(self, history):
        self.log.append((self.name, "stop"))


class Stopper(Callback):
    """Asks to stop at the first observation of a kind."""

    def __init__(self, hook: str, level: str = "note") -> None:
        event = Event(level, "enough", 1, 1, None, "enough is enough", stop=True)
        setattr(self, hook, lambda _: [event])


# What they see


def test_the_setup_says_what_is_trained_on_what():
    model, witness = MLP([5, 8, 3], generator=0), Witness()
    trainer(model, callbacks=[witness]).fit(TRAIN, VALIDATION)
    setup = witness.setup
    assert (setup.model, setup.validation, setup.classes, setup.epochs, setup.steps_per_epoch) == (
        model,
        VALIDATION,
        3,
        2,
        65,
    )
    assert setup.names == ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")
    assert setup.regularized == (True, False, True, False)


def test_updates_are_shown_in_blocks_that_end_with_the_epoch():
    witness = Witness()
    trainer(callbacks=[witness]).fit(TRAIN)
    assert [(s.epoch, s.step, len(s.costs)) for s in witness.seen] == [
        (1, 50, 50),
        (1, 65, 15),
        (2, 115, 50),
        (2, 130, 15),
    ]
    assert STEPS_BETWEEN_OBSERVATIONS == 50


@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_the_costs_shown_are_those_that_the_history_averages(reg):
    witness = Witness()
    history = trainer(callbacks=[witness], reg=reg).fit(TRAIN)
    costs = [cost for seen in witness.seen for cost in seen.costs]
    assert np.mean(costs[:65]) == pytest.approx(history[0]["loss"], rel=1e-9)


def test_the_norms_shown_are_those_of_the_last_update():
    witness = Witness()
    history = trainer(callbacks=[witness]).fit(TRAIN)
    ratio = math.sqrt(witness.seen[-1].norms[0, 1] / witness.seen[-1].norms[0, 0])
    assert ratio == history[-1]["update_ratio.layers.0.weight"]


def test_rows_are_shown_as_they_stand_in_the_history():
    witness = Witness()
    history = trainer(callbacks=[witness]).fit(TRAIN, VALIDATION)
    assert witness.rows == list(history)


def test_callbacks_are_called_in_the_order_of_the_list():
    log: list[tuple[str, str]] = []
    trainer(callbacks=[Witness(log, "a"), Witness(log, "b")], epochs=1).fit(TRAIN)
    kinds = ["start", "steps", "steps", "epoch", "stop"]
    assert log == [(name, kind) for kind in kinds for name in "ab"]


def test_those_behind_one_that_asks_to_stop_still_see_what_it_saw():
    witness = Witness()
    trainer(callbacks=[Stopper("epoch"), witness]).fit(TRAIN)
    assert [row["epoch"] for row in witness.rows] == [1]


# What they may ask for, and what they change


@pytest.mark.parametrize(("hook", "epochs"), [("steps", 0), ("epoch", 1)])
def test_an_event_that_stops_ends_training_at_once(hook, epochs):
    history = trainer(callbacks=[Stopper(hook)]).fit(TRAIN, VALIDATION)
    assert (len(history), history.stopped) == (epochs, "enough is enough")


def test_events_stand_in_the_history_and_are_told_once(capsys):
    history = trainer(callbacks=[Stopper("epoch", "warn")], reporter=True).fit(TRAIN)
    assert [event.kind for event in history.events] == ["enough"]
    assert capsys.readouterr().out.count("warning: enough is enough") == 1


def test_an_event_after_the_last_step_is_kept_too():
    assert [event.kind for event in trainer(callbacks=[Stopper("stop")]).fit(TRAIN).events] == ["enough"]


def test_a_stop_in_mid_epoch_leaves_the_best_epoch_before_it():
    class Late(Callback):
        def steps(self, seen):
            return [Event("fail", "late", 2, 115, None, "late", stop=True)] if seen.epoch == 2 else []

    model, twin = MLP([5, 8, 3], generator=0), MLP([5, 8, 3], generator=0)
    trainer(model, callbacks=[Late()]).fit(TRAIN, VALIDATION)
    trainer(twin, epochs=1).fit(TRAIN, VALIDATION)
    assert bits(model) == bits(twin)


@pytest.mark.parametrize(
    "options", [{"monitors": False}, {"callbacks": [Witness(), Histograms()]}], ids=["without", "more"]
)
def test_who_watches_changes_no_bit(options):
    models = [MLP([5, 8, 3], dropout=0.5, generator=0) for _ in range(2)]
    histories = [
        trainer(model, **given).fit(TRAIN, VALIDATION) for model, given in zip(models, ({}, options), strict=True)
    ]
    assert bits(models[0]) == bits(models[1])
    assert histories[0].column("loss") == histories[1].column("loss")


def test_what_is_no_callback_is_refused():
    with pytest.raises(OptionError, match="callbacks must be Callback objects, got <function"):
        trainer(callbacks=[lambda row: None])


# Early stopping


def rows(key: str, values: list[float | None]) -> list[dict[str, Any]]:
    return [{"epoch": i, "step": i, key: value} for i, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("key", "values", "stops"),
    [
        ("val_accuracy", [0.5, 0.6, 0.6, 0.6], 4),
        ("val_accuracy", [0.5, 0.6, 0.6, 0.7, 0.6, 0.6], 6),
        ("val_loss", [2.0, 1.0, 1.5, 1.0], 4),
        ("val_loss", [2.0, 1.0, None, 1.5, None, 1.2], 6),
        ("val_loss", [4.0, 3.0, 2.0, 1.0], None),
    ],
)
def test_early_stopping_counts_validations_without_improvement(key, values, stops):
    stopping = EarlyStopping(2, key)
    asked = [row["epoch"] for row in rows(key, values) if list(stopping.epoch(row))]
    assert (asked[0] if asked else None) == stops


def test_an_improvement_by_less_than_asked_for_is_none():
    stopping = EarlyStopping(1, "val_loss", min_delta=0.1)
    assert [bool(list(stopping.epoch(row))) for row in rows("val_loss", [1.0, 0.95, 0.8])] == [False, True, False]


def test_patience_ends_training_and_keeps_the_best_epoch():
    model = MLP([5, 8, 3], generator=0)
    history = trainer(model, lr=1.5, epochs=200, batch_size=16, patience=3, monitors=False).fit(TRAIN, VALIDATION)
    best = history.best()["epoch"]
    assert (len(history), history.events[-1].kind) == (best + 3, "early_stopping")
    assert f"better than {history.best()['val_accuracy']:.4g}" in history.stopped


def test_without_a_validation_part_patience_watches_the_cost():
    history = trainer(lr=0.0, epochs=9, patience=2).fit(TRAIN)
    assert "loss has not been better" in history.stopped


@pytest.mark.parametrize("patience", [0, 1.5, -1])
def test_a_patience_that_is_no_count_is_refused(patience):
    with pytest.raises(OptionError, match="patience must be an integer of at least 1"):
        trainer(patience=patience)


# Validation within epochs, and not in every epoch


def test_validation_every_few_steps_adds_rows_within_epochs():
    history = trainer(validate_steps=20, epochs=1).fit(TRAIN, VALIDATION)
    assert [(row["epoch"], row["step"], row["val_loss"] is None) for row in history] == [
        (1, 20, False),
        (1, 40, False),
        (1, 60, False),
        (1, 65, False),
    ]


def test_rows_within_an_epoch_average_the_steps_since_the_row_before():
    witness = Witness()
    history = trainer(validate_steps=40, epochs=1, callbacks=[witness]).fit(TRAIN, VALIDATION)
    costs = [cost for seen in witness.seen for cost in seen.costs]
    assert history.column("loss") == pytest.approx([np.mean(costs[:40]), np.mean(costs[40:])], rel=1e-9)


def test_validation_within_epochs_changes_no_bit():
    models = [MLP([5, 8, 3], dropout=0.5, generator=0) for _ in range(2)]
    for model, steps in zip(models, (None, 7), strict=True):
        trainer(model, validate_steps=steps).fit(TRAIN)
    assert bits(models[0]) == bits(models[1])


def test_the_best_network_may_lie_within_an_epoch():
    model = MLP([5, 8, 3], generator=0)
    run = trainer(model, lr=0.5, validate_steps=1, epochs=1)
    history = run.fit(TRAIN, VALIDATION)
    assert history.best()["step"] < 65
    assert evaluate(model, VALIDATION, run.standardizer)[1] == history.best()["val_accuracy"]


def test_validation_every_few_epochs_leaves_the_rows_between_without_it_but_not_the_last():
    history = trainer(validate_epochs=3, epochs=5).fit(TRAIN, VALIDATION)
    assert [row["val_loss"] is None for row in history] == [True, True, False, True, False]


# Clipping


def gradients(scale: float) -> tuple[Affine, SGD]:
    model = Affine(5, 3, generator=0)
    loss = ops.cross_entropy(model(Tensor(TRAIN.x.astype("float32"))), TRAIN.y) * scale
    optimizer = SGD(model, lr=1.0)
    loss.backward()
    return model, optimizer


def norm(model: Affine) -> float:
    return math.sqrt(sum(float((p.grad.astype(float) ** 2).sum()) for p in model.parameters()))


@pytest.mark.parametrize("scale", [10.0, 1e25])
def test_a_gradient_that_is_too_long_is_shortened_and_keeps_its_direction(scale):
    model, optimizer = gradients(scale)
    before = np.concatenate([p.grad.ravel() for p in model.parameters()]).astype(float)
    clip_norm(optimizer, 0.25)
    after = np.concatenate([p.grad.ravel() for p in model.parameters()])
    np.testing.assert_allclose(after, 0.25 * before / np.linalg.norm(before), rtol=1e-5)


def test_a_gradient_that_is_short_enough_keeps_its_bits():
    model, optimizer = gradients(1.0)
    before = [p.grad.tobytes() for p in model.parameters()]
    clip_norm(optimizer, 1000.0)
    assert [p.grad.tobytes() for p in model.parameters()] == before


def test_a_gradient_of_zeros_stays_zero():
    model, optimizer = gradients(0.0)
    clip_norm(optimizer, 1.0)
    assert norm(model) == 0


def test_only_gradients_that_exist_count():
    model, optimizer = gradients(10.0)
    model.bias.grad = None
    clip_norm(optimizer, 0.5)
    assert math.sqrt(float((model.weight.grad**2).sum())) == pytest.approx(0.5, rel=1e-6)


def test_clipped_training_takes_no_step_longer_than_the_learning_rate_times_the_limit():
    model = MLP([5, 8, 3], generator=0)
    before = np.array(model.flat().values, copy=True)
    trainer(model, clip_norm=1e-3, lr=0.1, momentum=0.0, epochs=1, batch_size=130).fit(TRAIN)
    assert np.linalg.norm(model.flat().values - before) == pytest.approx(1e-4, rel=1e-3)


def test_compiled_clipped_training_ends_with_the_eager_bits():
    models = [MLP([5, 8, 3], dropout=0.5, generator=0) for _ in range(2)]
    for model, compile in zip(models, (True, False), strict=True):
        trainer(model, clip_norm=0.1, lr=0.5, compile=compile).fit(TRAIN)
    assert bits(models[0]) == bits(models[1])


@pytest.mark.parametrize("limit", [0, -1, math.inf])
def test_a_limit_that_is_no_length_is_refused(limit):
    with pytest.raises(OptionError, match="clip_norm"):
        trainer(clip_norm=limit)


# Histograms


def histograms(**options: Any) -> list[dict[str, Any]]:
    watching = Histograms(rows=20)
    trainer(callbacks=[watching], **options).fit(TRAIN)
    return watching.records


def test_histograms_count_every_layer_and_the_gradient_of_every_weight():
    assert [(r["epoch"], r["kind"], r["name"]) for r in histograms(epochs=1)] == [
        (1, "activation", "layers.0"),
        (1, "activation", "layers.1"),
        (1, "gradient", "layers.0.weight"),
        (1, "gradient", "layers.1.weight"),
    ]


def test_every_value_is_counted_once():
    assert [sum(r["counts"]) for r in histograms(epochs=1)] == [20 * 8, 20 * 3, 5 * 8, 8 * 3]


def test_the_range_of_a_histogram_is_that_of_the_values():
    watching = Histograms(rows=20)
    model = MLP([5, 8, 3], generator=0)
    run = trainer(model, callbacks=[watching], epochs=1)
    run.fit(TRAIN)
    logits = model(Tensor(run.standardizer.transform(TRAIN.x[:20]))).data
    (record,) = [r for r in watching.records if r["name"] == "layers.1"]
    assert (record["low"], record["high"]) == (logits.min(), logits.max())


def test_a_long_run_keeps_a_bounded_number_of_histograms():
    steps = {record["step"] for record in histograms(epochs=450, batch_size=130)}
    assert 50 <= len(steps) <= 100
    assert len(set(np.diff(sorted(steps)))) == 1


def test_a_history_that_was_stopped_is_read_back_with_its_events():
    history = trainer(callbacks=[Stopper("epoch")]).fit(TRAIN)
    again = History.from_jsonl(history.to_jsonl(), history.events_to_jsonl())
    assert (again.events, again.stopped) == (history.events, "enough is enough")


# Hooks that give something else, and runs that are lost


@pytest.mark.parametrize("given", ["enough", [1]])
def test_a_hook_that_gives_no_events_is_refused_by_name(given):
    class Chatty(Callback):
        def epoch(self, row):
            return given

    with pytest.raises(OptionError, match=r"Chatty gave .*; a hook returns or yields Events, or None"):
        trainer(callbacks=[Chatty()]).fit(TRAIN)


def test_of_a_run_that_is_lost_only_the_reason_is_told():
    class Warning(Callback):
        def steps(self, seen):
            yield Event("warn", "other", seen.epoch, seen.step, None, "something else")

    history = trainer(callbacks=[Stopper("steps", "fail"), Warning()]).fit(TRAIN)
    assert [event.kind for event in history.events] == ["enough"]


def test_without_monitors_a_diverged_run_says_so_in_its_history(tmp_path):
    with pytest.raises(DivergenceError) as caught:
        trainer(lr=1e30, monitors=False, out=tmp_path).fit(TRAIN)
    (event,) = read_run(tmp_path).history.events
    assert (event.kind, event.message) == ("divergence", str(caught.value))


@pytest.mark.parametrize("monitors", [True, False])
def test_a_cost_that_is_lost_before_any_update_is_not_blamed_on_the_learning_rate(monitors):
    model = MLP([5, 8, 3], generator=0)
    model.layers[0].weight.data[0, 0] = np.nan
    run = trainer(model, monitors=monitors)
    try:
        message = run.fit(TRAIN).stopped
    except DivergenceError as error:
        message = str(error)
    assert "the cost became nan in epoch 1, step 1, before any update: weights or inputs hold NaN" in message


def test_a_penalty_that_drowns_the_data_is_named():
    history = trainer(reg=5.0, epochs=4).fit(TRAIN, VALIDATION)
    assert [event.kind for event in history.events] == ["penalty"]
    assert "reg, 5, is too strong" in history.events[0].message


def test_a_penalty_of_a_useful_strength_is_not():
    assert trainer(reg=1e-2, lr=0.002, epochs=4).fit(TRAIN, VALIDATION).events == []


def test_a_trained_network_that_is_trained_on_slowly_hears_nothing():
    parts = split(load("digits"), seed=0)
    model = MLP([64, 100, 10], generator=0)
    for lr in (0.02, 0.005):
        events = trainer(model, lr=lr, epochs=10, batch_size=32).fit(parts.train, parts.validation).events
        assert events == []
