"""`Trainer.fit`: what it records, what it keeps, and what it refuses before anything is changed or written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from tinygrad_cr import ops, schedules
from tinygrad_cr.data import Batches, Dataset, Standardizer
from tinygrad_cr.errors import DataError, DivergenceError, GraphError, OptionError, RunError, ShapeError, TinygradError
from tinygrad_cr.nn import MLP, Affine, Dropout, Module, ReLU, Sequential
from tinygrad_cr.optim import SGD
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor, record
from tinygrad_cr.train import History, Trainer, evaluate, load_run, predict_proba
from tinygrad_cr.train.checkpoint import generators


def blobs(n: int = 50, seed: int = 0) -> Dataset:
    """Three overlapping clouds of points with 5 features."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 5)) + 1.5 * np.eye(3, 5)[y], y)


TRAIN, VALIDATION = blobs(50), blobs(31, seed=1)


def network(**options: Any) -> MLP:
    return MLP([5, 8, 3], **{"generator": 0} | options)


def trainer(model: Module | None = None, **options: Any) -> Trainer:
    """A quick run: 4 epochs of 4 steps, the last of 2 rows."""
    wanted = {"lr": 0.1, "momentum": 0.9, "epochs": 4, "batch_size": 16, "generator": 0, "reporter": False}
    return Trainer(network() if model is None else model, **wanted | options)


def bits(model: Module) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in model.state_dict().items()}


def timeless(history: History) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


# The history

KEYS = {"epoch", "step", "loss", "val_loss", "accuracy", "val_accuracy", "lr", "seconds"}
RATIOS = {f"update_ratio.layers.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}


def test_every_row_is_flat_and_has_the_same_keys():
    history = trainer().fit(TRAIN, VALIDATION)
    assert [set(row) for row in history] == [KEYS | RATIOS] * 4


def test_every_value_is_a_plain_number():
    values = {type(value) for row in trainer().fit(TRAIN, VALIDATION) for value in row.values()}
    assert values == {int, float}


def test_epochs_count_from_one_and_steps_are_updates_made():
    history = trainer().fit(TRAIN)
    assert list(zip(history.column("epoch"), history.column("step"), strict=True)) == [(1, 4), (2, 8), (3, 12), (4, 16)]


def test_seconds_never_go_back():
    seconds = trainer().fit(TRAIN).column("seconds")
    assert 0 < seconds[0] <= seconds[-1]
    assert seconds == sorted(seconds)


def test_without_a_validation_part_its_columns_are_none():
    history = trainer().fit(TRAIN)
    assert history.column("val_loss") + history.column("val_accuracy") == [None] * 8


def test_a_history_is_a_sequence_of_dicts_as_tables_want_it():
    history = trainer().fit(TRAIN)
    table = {key: [row[key] for row in history] for key in history[0]}
    assert isinstance(history, Sequence)
    assert all(isinstance(row, Mapping) for row in history)
    assert table == {key: history.column(key) for key in history[0]}


def test_a_data_frame_of_a_history_is_its_table():
    history = trainer().fit(TRAIN, VALIDATION)
    assert pandas.DataFrame(history)["loss"].tolist() == history.column("loss")


def test_a_slice_of_a_history_is_a_history():
    assert isinstance(trainer().fit(TRAIN)[1:3], History)


def test_the_lines_of_a_history_make_it_again():
    history = trainer().fit(TRAIN, VALIDATION)
    assert list(History.from_jsonl(history.to_jsonl())) == list(history)


def test_an_unknown_column_is_answered_with_the_nearest():
    with pytest.raises(OptionError, match="unknown observation 'los': did you mean 'loss'"):
        trainer().fit(TRAIN).column("los")


def test_the_best_row_is_the_first_with_the_highest_value():
    rows = [{"epoch": i + 1, "val_accuracy": a} for i, a in enumerate([0.5, 0.75, 0.25, 0.75])]
    assert History(rows).best()["epoch"] == 2


def test_a_history_without_validation_has_no_best_row():
    with pytest.raises(OptionError, match="no epoch of this history has val_accuracy"):
        trainer().fit(TRAIN).best()


# The figures in it


class Replay:
    """The same training, written out with the parts: the specification of `Trainer.fit`."""

    def __init__(self, reg: float = 0.0, dropout: float = 0.0) -> None:
        self.model, data = network(dropout=dropout, dtype="float64"), TRAIN
        standardizer = Standardizer("per-feature").fit(data.x)
        batches = Batches(data, 16, standardizer=standardizer, generator=Generator(0), dtype="float64")
        optimizer = SGD(self.model, 0.1, 0.9)
        self.losses, self.accuracies, self.ratios = [], [], []
        for _ in range(4):
            total = 0.0
            for x, y in batches:
                weights = [layer.weight for layer in self.model.layers]
                penalty = 0.5 * reg * sum(float((w.data**2).sum()) for w in weights)
                optimizer.zero_grad()
                loss = ops.cross_entropy(self.model(Tensor(x)), y)
                loss.backward()
                before = [p.data.copy() for p in self.model.parameters()]
                optimizer.step(reg=reg)
                total += (loss.item() + penalty) * len(y)
            self.losses.append(total / len(data))
            self.accuracies.append(evaluate(self.model, data, standardizer)[1])
            self.ratios.append(
                [
                    float(np.linalg.norm(p.data - old) / np.linalg.norm(old))
                    for p, old in zip(self.model.parameters(), before, strict=True)
                ]
            )


@pytest.mark.parametrize("reg", [0.0, 0.37])
def test_the_loss_is_the_mean_over_rows_of_the_cost_with_its_penalty(reg):
    history = trainer(network(dtype="float64"), reg=reg).fit(TRAIN)
    np.testing.assert_allclose(history.column("loss"), Replay(reg).losses, rtol=1e-12)


@pytest.mark.parametrize("reg", [0.0, 0.37])
def test_the_network_is_the_one_that_the_parts_train(reg):
    model = network(dtype="float64")
    trainer(model, reg=reg).fit(TRAIN)
    for got, wanted in zip(model.parameters(), Replay(reg).model.parameters(), strict=True):
        np.testing.assert_allclose(got.data, wanted.data, rtol=1e-11, atol=1e-13)


def test_accuracy_is_measured_after_the_epochs_updates_and_without_dropout():
    history = trainer(network(dtype="float64", dropout=0.5)).fit(TRAIN)
    assert history.column("accuracy") == Replay(dropout=0.5).accuracies


def test_update_ratios_are_the_norm_of_the_last_update_over_that_of_the_parameter_before_it():
    history = trainer(network(dtype="float64")).fit(TRAIN)
    names = [name for name, _ in network().named_parameters()]
    ratios = [[row[f"update_ratio.{name}"] for name in names] for row in history]
    np.testing.assert_allclose(ratios, Replay().ratios, rtol=1e-9)


def test_the_update_ratio_of_a_parameter_of_zeros_is_none():
    row = trainer(epochs=1, batch_size=50).fit(TRAIN)[0]
    assert row["update_ratio.layers.0.bias"] is None


def test_an_uneven_last_minibatch_counts_by_its_rows():
    # At a learning rate of 0 the mean over rows is the cost of the whole, whatever the cut.
    model = network(dtype="float64")
    history = trainer(model, lr=0, epochs=1, batch_size=49).fit(TRAIN)
    assert history[0]["loss"] == pytest.approx(evaluate(model, TRAIN, Standardizer("per-feature").fit(TRAIN.x))[0])


def test_a_batch_larger_than_the_data_is_the_data():
    assert trainer(batch_size=1000, epochs=3).fit(TRAIN).column("step") == [1, 2, 3]


def test_validation_figures_are_those_of_evaluate():
    model, run = network(), trainer(epochs=1)
    run = trainer(model, epochs=1)
    row = run.fit(TRAIN, VALIDATION)[0]
    assert (row["val_loss"], row["val_accuracy"]) == evaluate(model, VALIDATION, run.standardizer)


def test_the_standardization_is_learned_from_the_training_part_alone():
    run = trainer()
    run.fit(TRAIN, VALIDATION)
    np.testing.assert_array_equal(run.standardizer.mean_, TRAIN.x.mean(axis=0))


def test_the_learning_rate_decays_once_an_epoch():
    lrs = trainer(lr=0.5, lr_decay=0.5).fit(TRAIN).column("lr")
    assert lrs == [0.5, 0.25, 0.125, 0.0625]


def test_a_schedule_is_asked_for_every_step():
    asked: list[int] = []
    trainer(schedule=lambda step: asked.append(step) or 0.1, epochs=2).fit(TRAIN)
    assert asked == list(range(8))


def test_a_schedule_replaces_the_learning_rate():
    model, twin = network(), network()
    trainer(model, lr=99.0, schedule=schedules.constant(0.1)).fit(TRAIN)
    trainer(twin, lr=0.1).fit(TRAIN)
    assert bits(model) == bits(twin)


def test_an_optimizer_made_for_the_model_keeps_its_learning_rate():
    model = network()
    wanted = {"epochs": 1, "generator": 0, "reporter": False}
    assert Trainer(model, optimizer=SGD(model, lr=0.5), **wanted).fit(TRAIN)[0]["lr"] == 0.5


def test_an_optimizer_given_by_name_or_made_trains_the_same():
    model, twin = network(), network()
    trainer(model, optimizer="sgd").fit(TRAIN)
    trainer(twin, optimizer=SGD(twin, 0.1, 0.9)).fit(TRAIN)
    assert bits(model) == bits(twin)


# Reproducibility


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_same_seeds_give_the_same_bits(optimizer, dtype):
    models = [network(dropout=0.5, dtype=dtype) for _ in range(2)]
    histories = [timeless(trainer(m, optimizer=optimizer, lr=0.01).fit(TRAIN, VALIDATION)) for m in models]
    assert histories[0] == histories[1]
    assert bits(models[0]) == bits(models[1])


@pytest.mark.parametrize("where", ["network", "shuffles"])
def test_another_seed_gives_another_run(where):
    other = network(generator=1) if where == "network" else network()
    first = trainer(network()).fit(TRAIN)
    second = trainer(other, generator=1 if where == "shuffles" else 0).fit(TRAIN)
    assert first.column("loss") != second.column("loss")


def test_the_validation_part_does_not_influence_training():
    histories = [trainer(network(dropout=0.5)).fit(TRAIN, part) for part in (None, VALIDATION)]
    assert histories[0].column("loss") == histories[1].column("loss")


def test_a_run_folder_does_not_influence_training(tmp_path):
    histories = [timeless(trainer(network(dropout=0.5), out=out).fit(TRAIN)) for out in (None, tmp_path / "run")]
    assert histories[0] == histories[1]


# What is kept


class Watched(History):
    """A reporter that keeps the network of each epoch."""

    def __init__(self, model: Module) -> None:
        super().__init__()
        self.model, self.states = model, []

    def start(self, epochs: int, steps_per_epoch: int) -> None:
        pass

    def steps(self, done: int) -> None:
        pass

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        self.states.append(bits(self.model))

    def note(self, text: str) -> None:
        pass

    def stop(self, best_accuracy: float | None) -> None:
        self.best_accuracy = best_accuracy


def wavering() -> tuple[Module, Watched, History]:
    """A run whose best epoch is neither the first nor the last."""
    model = network()
    watched = Watched(model)
    return model, watched, trainer(model, lr=1.5, epochs=12, reporter=watched, monitors=False).fit(TRAIN, VALIDATION)


def test_the_model_ends_with_the_parameters_of_its_best_epoch():
    model, watched, history = wavering()
    best = history.best()["epoch"]
    assert 1 < best < 12
    assert bits(model) == watched.states[best - 1]


def test_of_equally_accurate_epochs_the_first_is_kept():
    model = network()
    watched = Watched(model)
    history = trainer(model, lr=1e-6, reporter=watched).fit(TRAIN, VALIDATION)
    assert len(set(history.column("val_accuracy"))) == 1
    assert bits(model) == watched.states[0] != watched.states[1]


def test_the_reporter_hears_the_best_validation_accuracy():
    _, watched, history = wavering()
    assert watched.best_accuracy == history.best()["val_accuracy"]


def test_without_a_validation_part_the_last_epoch_is_kept():
    model = network()
    watched = Watched(model)
    trainer(model, reporter=watched).fit(TRAIN)
    assert bits(model) == watched.states[-1]


def test_training_does_not_change_the_data():
    before = TRAIN.x.tobytes(), TRAIN.y.tobytes()
    trainer().fit(TRAIN, VALIDATION)
    assert (TRAIN.x.tobytes(), TRAIN.y.tobytes()) == before


@pytest.mark.parametrize("look", [evaluate, lambda model, data: predict_proba(model, data.x)])
def test_looking_at_a_network_restores_the_mode_of_every_module(look):
    model = Sequential(Affine(5, 8, generator=0), ReLU(), Dropout(0.5), Affine(8, 3, generator=1))
    model.train()
    model.layers[2].eval()
    look(model, TRAIN)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]


def test_a_failed_look_restores_the_mode():
    model = network()
    with pytest.raises(ShapeError):
        evaluate(model, Dataset(np.ones((2, 6)), [0, 1]))
    assert all(module.training for module in model.modules())


def test_looking_draws_no_mask():
    model = network(dropout=0.5)
    draw = model.generator.draw
    evaluate(model, TRAIN)
    assert model.generator.draw == draw


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 2500])
def test_rows_evaluated_in_chunks_give_the_figures_of_the_whole(rows):
    model, data = network(dtype="float64"), blobs(rows)
    logits = model(Tensor(data.x)).numpy()
    wanted = ops.cross_entropy(Tensor(logits), data.y).item(), float((logits.argmax(axis=1) == data.y).mean())
    assert evaluate(model, data) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 2500])
def test_probabilities_of_every_row_sum_to_one(rows):
    probabilities = predict_proba(network(), blobs(rows).x)
    assert probabilities.shape == (rows, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_evaluating_data_without_labels_is_refused():
    with pytest.raises(DataError, match="evaluate wants labelled data"):
        evaluate(network(), Dataset(TRAIN.x))


# Refusals

UNLABELLED = Dataset(TRAIN.x)
WIDE = Dataset(np.ones((9, 6)), np.arange(9) % 3)
MANY = Dataset(TRAIN.x, np.arange(50) % 4)

BAD_DATA: dict[str, tuple[Callable[[], tuple[Dataset, ...]], type[Exception], str]] = {
    "training rows without labels": (lambda: (UNLABELLED,), DataError, "labelled data"),
    "validation rows without labels": (lambda: (TRAIN, UNLABELLED), DataError, "labelled data"),
    "another number of features": (lambda: (WIDE,), ShapeError, r"\(1, 6\), \(5, 8\), \(8,\)"),
    "another number of features to validate on": (lambda: (TRAIN, WIDE), ShapeError, r"\(1, 6\), \(5, 8\)"),
    "more classes than outputs": (lambda: (MANY,), DataError, "3 outputs, the data 4 classes; make the last size 4"),
    "more classes to validate on": (lambda: (TRAIN, MANY), DataError, "3 outputs, the data 4 classes"),
    "NaN": (lambda: (Dataset(np.where(TRAIN.x > 2, np.nan, TRAIN.x), TRAIN.y),), DataError, "is nan"),
    "inf": (lambda: (TRAIN, Dataset(np.where(TRAIN.x > 2, np.inf, TRAIN.x), TRAIN.y)), DataError, "is inf"),
    "no rows": (lambda: (Dataset(np.ones((0, 5)), []),), DataError, "empty"),
    "float labels": (lambda: (Dataset(TRAIN.x, TRAIN.y * 1.0),), DataError, "labels are class numbers"),
    "negative labels": (lambda: (Dataset(TRAIN.x, TRAIN.y - 1),), DataError, r"y\[0\] is -1"),
}
bad_data = pytest.mark.parametrize(("parts", "error", "message"), BAD_DATA.values(), ids=BAD_DATA)


@bad_data
def test_data_is_refused_with_a_typed_error_that_names_what_is_wrong(parts, error, message):
    with pytest.raises(error, match=message):
        trainer().fit(*parts())


@bad_data
def test_refused_data_changes_nothing_and_writes_nothing(parts, error, message, tmp_path):
    model = network(dropout=0.5)
    before, draw, mode = bits(model), model.generator.draw, model.training
    run = trainer(model, out=tmp_path / "run")
    with pytest.raises(error):
        run.fit(*parts())
    assert (bits(model), model.generator.draw, model.training) == (before, draw, mode)
    assert not hasattr(run.standardizer, "mean_")
    assert run.generator.draw == 0
    assert list(tmp_path.iterdir()) == []


def test_a_standardizer_of_other_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ShapeError, match="standardizer"):
        trainer(standardize=Standardizer().fit(np.ones((2, 6))), out=tmp_path / "run").fit(TRAIN)
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_standardized_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="too large"):
        trainer(out=tmp_path / "run").fit(Dataset(np.full((9, 5), 1e308), np.arange(9) % 3))
    assert list(tmp_path.iterdir()) == []


def test_values_that_the_networks_dtype_cannot_hold_are_an_error_about_the_data():
    with pytest.raises(DataError):
        trainer(standardize="none").fit(Dataset(1e300 * TRAIN.x, TRAIN.y))


def test_a_model_whose_output_is_no_row_of_logits_is_refused():
    class Flat(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sum()

    with pytest.raises(ShapeError, match=r"gives logits \[n, classes\], this model gives \(\)"):
        trainer(Flat([5, 3], generator=0)).fit(TRAIN)


def test_an_optimizer_of_another_network_is_refused():
    with pytest.raises(TinygradError):
        trainer(optimizer=SGD(network(), 0.1)).fit(TRAIN)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lr": -1}, "lr must be a finite number >= 0, got -1"),
        ({"lr": float("nan")}, "lr must be a finite number >= 0, got nan"),
        ({"lr_decay": 0}, "decay .* got 0"),
        ({"lr_decay": 1.5}, r"decay .* got 1\.5"),
        ({"momentum": 1}, r"momentum must be a number in \[0, 1\), got 1"),
        ({"reg": -0.5}, r"reg must be a finite number >= 0, got -0\.5"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"epochs": 2.5}, r"epochs must be an integer of at least 1, got 2\.5"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"train_sample": 0}, "train_sample must be an integer of at least 1, got 0"),
        ({"generator": -1}, "seed must be an integer of at least 0 .* got -1"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg': did you mean 'sgd'"),
        ({"optimizer": "unknown"}, "unknown optimizer 'unknown': Known: adam, adamw, sgd"),
        ({"standardize": "per-featur"}, "unknown standardization 'per-featur': did you mean 'per-feature'"),
    ],
    ids=str,
)
def test_an_option_is_refused_by_name_and_value(option, message):
    with pytest.raises(OptionError, match=message):
        trainer(**option)


def test_a_folder_with_another_run_is_refused_before_anything_changes(tmp_path):
    trainer(out=tmp_path).fit(TRAIN)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    model = network(generator=5)
    before = bits(model)
    run = trainer(model, out=tmp_path)
    with pytest.raises(RunError, match="already holds another run; nothing was written, choose a new folder"):
        run.fit(TRAIN)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert (bits(model), hasattr(run.standardizer, "mean_"), run.generator.draw) == (before, False, 0)


# Divergence


def diverging(out: Path | None = None) -> tuple[MLP, Trainer]:
    """Two quiet epochs, then a learning rate that ends in inf or NaN."""
    model = network()
    return model, trainer(model, schedule=lambda step: 0.1 if step < 8 else 1e25, epochs=9, out=out, monitors=False)


def test_divergence_is_an_error_that_names_cost_epoch_step_and_learning_rate():
    _, run = diverging()
    with pytest.raises(
        DivergenceError, match=r"became (nan|inf) in epoch 3, step \d+: .*learning rate, 1e\+25, .*try 1e"
    ):
        run.fit(TRAIN, VALIDATION)


def test_with_monitors_divergence_is_no_error_and_leaves_the_same(tmp_path):
    model, _ = diverging()
    history = trainer(model, schedule=lambda step: 0.1 if step < 8 else 1e25, epochs=9, out=tmp_path).fit(
        TRAIN, VALIDATION
    )
    healthy = network()
    trainer(healthy, epochs=2).fit(TRAIN, VALIDATION)
    assert bits(model) == bits(healthy) == bits(load_run(tmp_path).model)
    assert (len(history), history.events[-1].level, history.events[-1].epoch) == (2, "fail", 3)


def test_divergence_leaves_the_best_epoch_before_it():
    model, run = diverging()
    with pytest.raises(ArithmeticError):
        run.fit(TRAIN, VALIDATION)
    healthy = network()
    trainer(healthy, epochs=2).fit(TRAIN, VALIDATION)
    assert bits(model) == bits(healthy)


def test_divergence_leaves_a_usable_run_folder(tmp_path):
    model, run = diverging(tmp_path)
    with pytest.raises(DivergenceError):
        run.fit(TRAIN, VALIDATION)
    loaded = load_run(tmp_path)
    assert bits(loaded.model) == bits(model)
    assert len(loaded.history) == 2


def test_divergence_tells_the_reporter_that_training_was_cut_short():
    model = network()
    watched = Watched(model)
    with pytest.raises(DivergenceError):
        trainer(model, lr=1e25, reporter=watched, monitors=False).fit(TRAIN)
    assert watched.best_accuracy is None


def test_divergence_in_the_first_epoch_leaves_the_network_as_it_was():
    model = network()
    with pytest.raises(DivergenceError):
        trainer(model, lr=1e38, monitors=False).fit(TRAIN)
    assert bits(model) == bits(network())


def one_bad_update(out: Path) -> MLP:
    """An epoch of one step: its cost is fine, and its update blows the network up to NaN where class 0 wins ties."""
    model = network()
    most = Dataset(TRAIN.x, (np.arange(50) > 44).astype(int) + (np.arange(50) > 47))
    with pytest.raises(DivergenceError):
        trainer(model, lr=1e30, momentum=0, batch_size=50, out=out, monitors=False).fit(most, most)
    return model


def test_the_history_of_a_diverged_run_is_json(tmp_path):
    one_bad_update(tmp_path)
    for line in (tmp_path / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_an_epoch_with_an_undefined_validation_loss_is_not_kept_as_the_best(tmp_path):
    model = one_bad_update(tmp_path)
    assert math.isfinite(evaluate(model, TRAIN, Standardizer("per-feature").fit(TRAIN.x))[0])


def test_a_frozen_weight_counts_in_the_cost():
    model = network()
    model.layers[0].weight.requires_grad = False
    free = trainer(network(), reg=2.0, epochs=1, batch_size=50).fit(TRAIN)[0]["loss"]
    assert trainer(model, reg=2.0, epochs=1, batch_size=50).fit(TRAIN)[0]["loss"] == pytest.approx(free, rel=1e-6)


def test_arrays_are_data_too():
    assert len(trainer(epochs=2).fit((TRAIN.x, TRAIN.y), (TRAIN.x, TRAIN.y))) == 2


def test_compiled_training_ends_with_the_eager_bits():
    models = [network(), network()]
    for model, compile in zip(models, (True, False), strict=True):
        trainer(model, epochs=3, batch_size=16, reg=0.01, compile=compile).fit(TRAIN, TRAIN)
    assert bits(models[0]) == bits(models[1])


class Peeking(MLP):
    """Looks at a value on the way, which a replay could not do."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        y.sum().item()
        return y


def test_a_model_that_cannot_be_captured_is_trained_eagerly(capsys):
    trainer(Peeking([5, 3], generator=0), epochs=2, reporter=True, compile=True).fit(TRAIN)
    assert capsys.readouterr().out.count("training runs eagerly: item() cannot be captured") == 1


class Counting(SGD):
    """Looks at the parameters after each update, or only where norms are measured: a replay could not do that."""

    always = True

    def step(self, **options):
        norms = super().step(**options)
        if self.always or options.get("norms"):
            self.flat.parameters[0].sum().item()
        return norms


class CountingWithNorms(Counting):
    always = False


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize(
    ("kind", "make"), [(Peeking, SGD), (MLP, Counting), (MLP, CountingWithNorms)], ids=["forward", "update", "norms"]
)
def test_a_capture_that_failed_leaves_no_trace_in_the_eager_run(kind, make, members):
    def trained(compile):
        model = kind([5, 8, 3], dropout=0.5, members=members, generator=0)
        optimizer = make(model, lr=0.1, momentum=0.9)
        trainer(model, optimizer=optimizer, epochs=3, compile=compile).fit(TRAIN)
        return bits(model), [generator.state() for generator in generators(model)]

    assert trained(True) == trained(False)


def test_a_second_fit_learns_the_standardization_of_its_own_data():
    again = trainer(epochs=1)
    again.fit(TRAIN)
    again.fit(Dataset(TRAIN.x + 1000, TRAIN.y))
    assert (again.standardizer.mean_ > 900).all()


def test_a_network_with_nothing_to_learn_is_refused_before_anything_is_written(tmp_path):
    model = network()
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(GraphError, match="nothing can be learned"):
        trainer(model, out=tmp_path / "run").fit(TRAIN)
    assert not (tmp_path / "run").exists()


def test_a_schedule_that_turns_negative_is_refused_with_its_value():
    with pytest.raises(OptionError, match=r"lr must be a finite number >= 0, got -0\.5"):
        trainer(schedule=lambda step: 0.1 if step < 2 else -0.5, batch_size=10).fit(TRAIN)


class Cube(MLP):
    """An operation of one's own, computed with NumPy behind the engine's back."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return record(y.data**3, (y,), lambda g: (3 * g * y.data**2,))


@pytest.mark.parametrize("compile", [None, True])
def test_layers_of_ones_own_are_trained_as_they_are_written(compile):
    models = [Cube([5, 3], generator=0), Cube([5, 3], generator=0)]
    for model, choice in zip(models, (compile, False), strict=True):
        trainer(model, epochs=2, lr=1e-3, compile=choice).fit(TRAIN)
    assert bits(models[0]) == bits(models[1])
