"""`preflight`: what it leaves alone, what it says of healthy networks, and what it refuses to examine."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from planted import DIGITS, LR, NoBiasGradient, Setting, healthy, stacked
from tinygrad_cr import data, no_grad, ops
from tinygrad_cr.data import Dataset, Standardizer, split
from tinygrad_cr.doctor import Check, RateRange, Report, Status, learning_rate_range, preflight
from tinygrad_cr.errors import DataError, DTypeError, GraphError, OptionError, ShapeError
from tinygrad_cr.nn import MLP, Affine, Dropout, Module, ReLU
from tinygrad_cr.optim import SGD, Adam
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor

ORDER = [
    *("inputs", "labels", "signal", "split", "initial loss", "initialisation", "regularisation", "gradients"),
    *("evaluation mode", "dropout", "overfit", "learning rate", "update ratio", "units"),
]


def blobs(n: int = 60, classes: int = 3, seed: int = 0) -> Dataset:
    """Clouds of points with 5 features."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return Dataset(rng.standard_normal((n, 5)) + 3 * np.eye(classes, 5)[y], y)


TRAIN, VALIDATION = blobs(), blobs(31, seed=1)


def network(**options: Any) -> MLP:
    return MLP([5, 16, 3], **{"generator": 0} | options)


def loud(report: Report) -> dict[str, str]:
    """The checks that say that something is wrong."""
    return {check.name: check.status.value for check in report.checks if check.status in ("WARN", "FAIL")}


# Healthy networks


def digits(seed: int) -> Setting:
    return healthy(seed)


def fashion_mnist(seed: int) -> Setting:
    try:
        parts = split(data.load("fashion-mnist", download=False), seed=seed)
    except DataError as missing:
        pytest.skip(str(missing))
    model = MLP([784, 256, 10], generator=seed)
    return Setting(model, parts.train, parts.validation, {"lr": 0.01})


def cifar(seed: int) -> Setting:
    images = data.load(Path(__file__).parent / "data" / "cifar10-20.npz")
    options = {"lr": 1e-3, "momentum": 0, "batch_size": 20, "standardize": "mean-image"}
    return Setting(MLP([3072, 50, 10], init=1e-4, generator=seed), images, None, options)


def cases(seeds: dict[Callable[[int], Setting], range]) -> list[Any]:
    return [pytest.param(make, seed, id=f"{make.__name__} {seed}") for make, all_ in seeds.items() for seed in all_]


@pytest.mark.parametrize(("make", "seed"), cases({digits: range(3), cifar: range(3), fashion_mnist: range(1)}))
def test_a_healthy_network_passes_with_one_warning_at_most(make, seed):
    setting = make(seed)
    found = loud(preflight(setting.model, setting.train, setting.validation, generator=seed, **setting.options))
    assert ("FAIL" not in found.values(), len(found) <= 1) == (True, True), found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "seed"), cases({digits: range(3, 20), cifar: range(3, 20), fashion_mnist: range(1, 20)})
)
def test_a_healthy_network_passes_with_every_seed(make, seed):
    test_a_healthy_network_passes_with_one_warning_at_most(make, seed)


OTHERS: dict[str, tuple[Callable[[], Module], Dataset, dict[str, Any]]] = {
    "softmax regression": (lambda: MLP([64, 10], generator=0), DIGITS, {"lr": 0.01}),
    "softmax regression from zero": (lambda: MLP([64, 10], init=0.0), DIGITS, {"lr": 0.01}),
    "deep": (lambda: MLP([64, *[64] * 8, 10], generator=1), DIGITS, {"lr": 0.005}),
    "vanilla dropout": (
        lambda: MLP([64, 99, 10], dropout=0.5, dropout_mode="vanilla", generator=0),
        DIGITS,
        {"lr": 0.01},
    ),
    "Adam": (lambda: MLP([64, 99, 10], dropout=0.5, generator=0), DIGITS, {"lr": 1e-3, "optimizer": "adam"}),
    "AdamW": (lambda: MLP([64, 99, 10], generator=0), DIGITS, {"lr": 1e-3, "optimizer": "adamw"}),
    "float64": (lambda: MLP([64, 99, 10], generator=0, dtype="float64"), DIGITS, {"lr": 0.01}),
    "a penalty": (lambda: MLP([64, 99, 10], generator=0), DIGITS, {"lr": 0.01, "reg": 1e-2}),
    "layers one by one": (lambda: stacked(0, Dropout(0.5, generator=0)), DIGITS, {"lr": 0.01}),
    "two classes": (lambda: MLP([5, 16, 2], generator=0), blobs(200, classes=2), {"lr": 0.05}),
    "small steps": (network, TRAIN, {"lr": 0.1, "momentum": 0.0, "batch_size": 7}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_nothing_is_found_where_nothing_is_wrong(kind):
    make, train, options = OTHERS[kind]
    assert loud(preflight(make(), train, **options)) == {}


def test_a_labels_relation_that_no_line_separates_is_seen():
    rng = np.random.default_rng(0)
    radius = rng.uniform(0, 1, 600)
    angle = rng.uniform(0, 2 * np.pi, 600)
    rings = Dataset(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), (radius * 4).astype(int) % 2)
    assert preflight(MLP([2, 64, 2], generator=0), rings)["signal"].status is Status.PASS


def test_of_a_few_rows_nothing_is_said_about_a_relation():
    rng = np.random.default_rng(0)
    few = Dataset(rng.standard_normal((24, 5)), np.arange(24) % 3)
    assert preflight(network(), few)["signal"].status is Status.SKIP


# What comes back


class Counting(Dropout):
    """A layer with a state of its own."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def used(kind: type[SGD] | type[Adam] = SGD) -> tuple[Module, Any]:
    """A model and its optimiser in the middle of something: gradients, momentum, draws taken, modes mixed."""
    model = stacked(0, Counting(0.3, generator=5))
    optimizer = kind(model, 0.01)
    if isinstance(optimizer, SGD):
        optimizer.momentum = 0.9
    for _ in range(2):
        optimizer.zero_grad()
        ops.cross_entropy(model(Tensor(np.ones((4, 64), "float32"))), [0, 1, 2, 3]).backward()
        optimizer.step()
    model.layers[0].eval()
    model.layers[3].bias.grad = None
    return model, optimizer


def state(model: Module, optimizer: Any) -> dict[str, Any]:
    """Every bit of both that a preflight might touch."""
    own = {}
    for name, p in model.named_parameters():
        own[name] = (p.data.tobytes(), id(p.data), None if p.grad is None else (p.grad.tobytes(), id(p.grad)))
    own["modes"] = [module.training for module in model.modules()]
    own["generators"] = [module.generator.state() for module in model.modules() if hasattr(module, "generator")]
    own["calls"] = [vars(module).get("calls") for module in model.modules()]
    own["attributes"] = [sorted(vars(module)) for module in model.modules()]
    own["optimizer"] = {key: value.tobytes() for key, value in optimizer.state_dict().items()}
    own["rate"] = (optimizer.lr, optimizer.weight_decay, optimizer.trains(model))
    own["numpy"] = np.random.get_state()[1].tobytes()  # noqa: NPY002 - the global generator must stay, too
    own["errors"] = np.geterr()
    return own


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_model_and_optimizer_come_back_bit_for_bit(kind):
    model, optimizer = used(kind)
    before = state(model, optimizer)
    preflight(model, DIGITS, optimizer=optimizer, lr=0.5, reg=0.1)
    assert state(model, optimizer) == before


def test_data_standardizer_and_generator_come_back_as_they_were():
    train, validation = blobs(), blobs(30, seed=1)
    standardizer, generator = Standardizer("per-feature"), Generator(3, stream=2, draw=7)
    before = [part.tobytes() for part in (train.x, train.y, validation.x, validation.y)]
    preflight(network(), train, validation, standardize=standardizer, generator=generator)
    after = [part.tobytes() for part in (train.x, train.y, validation.x, validation.y)]
    assert (after == before, generator.draw, hasattr(standardizer, "mean_")) == (True, 7, False)


def test_a_model_whose_parameters_are_not_packed_stays_unpacked():
    class Plain(Module):
        def __init__(self) -> None:
            self.first, self.last = Affine(5, 16, generator=0), Affine(16, 3, generator=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(ops.relu(self.first(x)))

    model = Plain()
    arrays = [id(p.data) for p in model.parameters()]
    preflight(model, TRAIN)
    assert (model._flat, [id(p.data) for p in model.parameters()]) == (None, arrays)


@pytest.mark.parametrize("name", ["inputs", "gradients", "overfit", "update ratio", "units"])
def test_everything_comes_back_when_a_check_raises(name, monkeypatch):
    def broken(*_: Any) -> Check:
        raise ZeroDivisionError(name)

    module = importlib.import_module("tinygrad_cr.doctor.preflight")
    changed = tuple(e._replace(check=broken) if e.name == name else e for e in module.EXAMINATIONS)
    monkeypatch.setattr(module, "EXAMINATIONS", changed)
    model = healthy().model
    optimizer = SGD(model, LR, 0.9)
    before = state(model, optimizer)
    with pytest.raises(ZeroDivisionError, match=name):
        preflight(model, DIGITS, optimizer=optimizer)
    assert state(model, optimizer) == before


def test_everything_comes_back_when_the_model_itself_raises():
    class Broken(MLP):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 3:
                raise RuntimeError("no more")
            return super().forward(x)

    model = Broken([64, 20, 10], generator=0)
    optimizer = SGD(model, LR)
    before = state(model, optimizer)
    with pytest.raises(RuntimeError, match="no more"):
        preflight(model, DIGITS, optimizer=optimizer)
    assert state(model, optimizer) == before


def test_the_learning_rate_range_changes_nothing_either():
    model, optimizer = used()
    before = state(model, optimizer)
    learning_rate_range(model, DIGITS, optimizer=optimizer)
    assert state(model, optimizer) == before


def test_the_same_generator_gives_the_same_report():
    reports = [preflight(network(dropout=0.5), TRAIN, VALIDATION, generator=4).to_json() for _ in range(2)]
    assert reports[0] == reports[1]


# What cannot be examined


def frozen() -> MLP:
    model = network()
    for p in model.parameters():
        p.requires_grad = False
    return model


class Flat(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum(axis=1)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "fewer outputs than classes": (
        lambda: preflight(MLP([5, 8, 2], generator=0), TRAIN),
        DataError,
        "the model has 2 outputs, the data 3 classes; make the last size 3",
    ),
    "more outputs than classes": (
        lambda: preflight(MLP([5, 8, 7], generator=0), TRAIN),
        DataError,
        "7 outputs, the data 3 classes; make the last size 3, or name all classes",
    ),
    "more classes in validation than outputs": (
        lambda: preflight(network(), TRAIN, blobs(40, classes=5)),
        DataError,
        "the model has 3 outputs, the data 5 classes",
    ),
    "fewer than 20 rows": (
        lambda: preflight(network(), blobs(19)),
        DataError,
        "19 rows in the training part are too few",
    ),
    "one class": (
        lambda: preflight(network(), Dataset(TRAIN.x, np.full(60, 2))),
        DataError,
        "every label is 2: one class leaves nothing to learn",
    ),
    "no labels": (lambda: preflight(network(), Dataset(TRAIN.x)), DataError, "the training part has no labels"),
    "no labels in validation": (
        lambda: preflight(network(), TRAIN, Dataset(TRAIN.x)),
        DataError,
        "the validation part has no labels",
    ),
    "other features": (lambda: preflight(MLP([4, 3], generator=0), TRAIN), ShapeError, r"\(2, 5\).*\(4, 3\)"),
    "other features in validation": (
        lambda: preflight(network(), TRAIN, Dataset(np.zeros((9, 4)), TRAIN.y[:9])),
        ShapeError,
        "training part has 5 features, the validation part 4",
    ),
    "no logits": (lambda: preflight(Flat([5, 3], generator=0), TRAIN), ShapeError, r"logits \[n, classes\].*\(2,\)"),
    "no module": (lambda: preflight(lambda x: x, TRAIN), OptionError, "model must be a Module"),
    "no loss": (lambda: preflight(network(), TRAIN, loss="mse"), OptionError, "loss must be a function"),
    "unknown optimizer": (
        lambda: preflight(network(), TRAIN, optimizer="sdg"),
        OptionError,
        "unknown optimizer 'sdg': did you mean 'sgd'",
    ),
    "no optimizer": (lambda: preflight(network(), TRAIN, optimizer=3), OptionError, "a name or an Optimizer, got 3"),
    "another model's optimizer": (
        lambda: preflight(network(), TRAIN, optimizer=SGD(network(), 0.1)),
        OptionError,
        "made for another model",
    ),
    "a negative rate": (lambda: preflight(network(), TRAIN, lr=-1), OptionError, "lr must be"),
    "a momentum of 1": (lambda: preflight(network(), TRAIN, momentum=1), OptionError, "momentum must be"),
    "a negative penalty": (lambda: preflight(network(), TRAIN, reg=-1), OptionError, "reg must be"),
    "an empty batch": (lambda: preflight(network(), TRAIN, batch_size=0), OptionError, "batch_size must be"),
    "unknown standardisation": (
        lambda: preflight(network(), TRAIN, standardize="per-featur"),
        OptionError,
        "did you mean 'per-feature'",
    ),
    "another data set's standardizer": (
        lambda: preflight(network(), TRAIN, standardize=Standardizer().fit(np.ones((3, 4)))),
        ShapeError,
        "does not fit a standardizer",
    ),
    "frozen parameters": (lambda: preflight(frozen(), TRAIN), GraphError, "every parameter is frozen"),
    "under no_grad": (lambda: no_grad()(preflight)(network(), TRAIN), GraphError, "under no_grad"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_examined_is_a_typed_error(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call()


def test_a_refusal_changes_nothing():
    model, optimizer = used()
    before = state(model, optimizer)
    with pytest.raises(DataError, match="10 outputs"):
        preflight(model, blobs_of_64(), optimizer=optimizer)
    assert state(model, optimizer) == before


def blobs_of_64() -> Dataset:
    return Dataset(np.random.default_rng(0).standard_normal((40, 64)), np.arange(40) % 3)


# The report


def test_the_checks_come_in_the_lectures_order():
    assert [check.name for check in preflight(network(), TRAIN).checks] == ORDER


def test_a_check_is_found_by_name_and_a_wrong_name_is_answered_with_the_nearest():
    report = preflight(network(), TRAIN)
    assert report["overfit"].name == "overfit"
    with pytest.raises(OptionError, match="did you mean 'overfit'"):
        report["overfitt"]


def test_a_report_is_ok_unless_a_check_fails():
    checks = [Check("a", status, "", "") for status in Status]
    oks = [Report(checks[:n]).ok for n in range(len(checks) + 1)]
    assert oks == [True, True, True, True, False]


def test_the_worst_of_a_report_is_its_most_severe_status():
    checks = [Check("a", status, "", "") for status in Status]
    assert [Report(checks[:n]).worst for n in range(1, 5)] == list(Status)


@pytest.fixture(scope="module")
def failing() -> Report:
    return preflight(network(dropout=0.5), TRAIN, TRAIN, lr=1e3)


def test_a_report_goes_through_json_and_back(failing):
    assert Report.from_dict(json.loads(failing.to_json())) == failing


def test_json_holds_finite_numbers_only(failing):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(failing.to_json(), parse_constant=refuse)
    assert (content["ok"], [check["name"] for check in content["checks"]]) == (False, ORDER)


def test_values_without_a_place_in_json_become_none():
    values = {"a": np.float32("nan"), "b": np.array([1, np.inf]), "c": {"d": (-math.inf, 2)}}
    report = Report([Check("a", Status.PASS, "", "", values=values)])
    assert json.loads(report.to_json())["checks"][0]["values"] == {"a": None, "b": [1.0, None], "c": {"d": [None, 2]}}


@pytest.mark.parametrize(
    "content", [{}, {"format": 99, "checks": []}, [], None, {"format": 1}, {"format": 1, "checks": [{}]}]
)
def test_what_is_no_report_is_a_typed_error(content):
    with pytest.raises(DataError, match="preflight report"):
        Report.from_dict(content)


def test_the_values_of_the_learning_rate_hold_the_range(failing):
    found = RateRange.from_dict(failing["learning rate"].values)
    assert found.to_dict().items() <= dict(failing["learning rate"].values).items()
    assert failing.suggested_lr == found.suggestion


def test_the_plain_table_says_what_was_measured_expected_and_what_to_do(failing):
    text = str(failing)
    for check in failing.checks:
        assert all(
            word in text for part in (check.name, check.measured, check.expected, check.advice) for word in part.split()
        )
    assert max(map(len, text.splitlines())) <= 120


def test_rich_shows_the_same_table_in_colour(failing):
    console = Console(width=200, record=True, force_terminal=True, color_system="standard", file=StringIO())
    console.print(failing)
    text = console.export_text(styles=True)
    assert all(check.name in text for check in failing.checks)
    assert "\x1b[1;31mFAIL" in text


def test_brackets_in_a_finding_are_no_markup_to_rich():
    console = Console(width=200, file=StringIO(), record=True)
    console.print(Report([Check("a", Status.FAIL, "[red]w[/red]", "[bold]")]))
    assert "[red]w[/red]" in console.export_text()


# What is skipped


def test_a_check_is_skipped_where_another_has_to_be_put_right_first():
    model = stacked(0, ReLU(), NoBiasGradient)
    report = preflight(model, DIGITS)
    assert report["overfit"].advice == report["update ratio"].advice == "put this right first: gradients"


def test_numbers_that_are_not_finite_are_a_finding_and_no_error():
    x = np.random.default_rng(0).standard_normal((60, 5))
    train = Dataset(x, TRAIN.y)
    x[7, 3], x[9, 0] = np.nan, np.inf
    report = preflight(network(), train, VALIDATION)
    assert loud(report) == {"inputs": "FAIL"}
    assert report["inputs"].measured == "2 NaN or inf, the first (nan) in row 7, column 3"
    assert report["gradients"].advice == "put this right first: inputs"


def test_numbers_that_float32_cannot_hold_are_a_finding_and_no_error():
    x = np.random.default_rng(0).standard_normal((60, 5))
    x[:, 2] *= 1e200
    report = preflight(network(), Dataset(x, TRAIN.y), standardize="mean-image")
    assert loud(report) == {"inputs": "FAIL"}
    assert "column 2" in report["inputs"].measured


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_one_finding(value):
    model = network(dropout=0.5)
    model.layers[1].weight.data[0, 0] = value
    report = preflight(model, TRAIN)
    assert loud(report) == {"initialisation": "FAIL"}
    assert report["initialisation"].measured == "a parameter holds NaN or inf: layers.1.weight"
    assert report["regularisation"].advice == "put this right first: initialisation"


def test_without_a_chosen_rate_one_is_suggested():
    check = preflight(network(), TRAIN)["learning rate"]
    assert (check.status, check.measured) == (Status.PASS, "none was chosen")
    assert check.values["low"] < check.values["suggestion"] < check.values["high"]


def test_the_rate_of_an_optimizer_counts_as_chosen():
    model = network()
    assert preflight(model, TRAIN, optimizer=SGD(model, 1e3))["learning rate"].status is Status.FAIL


def test_a_model_that_knows_float32_only_skips_the_gradients():
    class Single(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + Tensor(np.zeros(3, "float32"))

    with pytest.raises(DTypeError):
        Single([5, 16, 3], generator=0, dtype="float64")(np.zeros((2, 5)))
    report = preflight(Single([5, 16, 3], generator=0), TRAIN)
    assert (report["gradients"].status, loud(report)) == (Status.SKIP, {})
