"""`comparison`: the ways to get more out of one network, trained on the same data and put into one table."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr.data import Dataset, load
from tinygrad_cr.ensemble.calibration import calibration
from tinygrad_cr.ensemble.dropout import mc_dropout
from tinygrad_cr.ensemble.ensemble import Ensemble
from tinygrad_cr.ensemble.settings import settings
from tinygrad_cr.ensemble.snapshots import snapshot_ensemble, whole_cycles
from tinygrad_cr.ensemble.table import Comparison, Row
from tinygrad_cr.ensemble.training import Pair, train_ensemble
from tinygrad_cr.ensemble.weights import WeightAverage
from tinygrad_cr.errors import DataError, OptionError, ShapeError
from tinygrad_cr.options import integer, number
from tinygrad_cr.random import Generator, as_generator

DECIDED = {
    "patience": "every method is compared after the same number of epochs",
    "validate_steps": "the independent members are a population, which is validated after epochs",
}
PER_MEMBER = ("dropout", "init", "lr", "momentum", "lr_decay", "reg")
"""What may differ between the members of a population."""
SMALLEST = 1e-300
"""A probability that is 0 in float64 counts as this in the log loss."""


class Timed(NamedTuple):
    """An ensemble, and how long its training took."""

    ensemble: Ensemble
    seconds: float


def comparison(
    train: Dataset | Pair,
    validation: Dataset | Pair,
    test: Dataset | Pair,
    *,
    members: int = 5,
    cycles: int = 5,
    samples: int = 50,
    start: float = 0.75,
    snapshot_lr: float | None = None,
    mask_rate: float = 0.2,
    hidden: Sequence[int] = (100,),
    generator: Generator | int | None = None,
    reporter: Any = False,
    **options: Any,
) -> Comparison:
    """Train every kind of ensemble, and measure all on the test part.

    - single model: one network, and its training time the unit of all others.
    - best single: of the independent members the one with the best validation accuracy; it costs them all.
    - independent ensemble: `train_ensemble`; its first member is the single model again.
    - snapshot ensemble: `snapshot_ensemble` with as many epochs in all as the single model.
    - MC dropout: the mean of `samples` masked passes of one network. Where dropout is 0, it is another network, trained
      with dropout `mask_rate`.
    - weight average: of the single model's own run, see `WeightAverage`; that run was trained once for both.

    Args:
        members, cycles, samples, start: see there.
        snapshot_lr: learning rate at the beginning of each cycle; None for that of the others.
        options: of the networks and the trainer, as for `train_ensemble`. Epochs must be a multiple of cycles. The
            snapshot ensemble goes without lr_decay and schedule.

    Raises:
        OptionError: an unknown option, or one outside its range.
        DataError, ShapeError: parts that do not fit the network or each other, or have no labels.
        DivergenceError: a method whose every run was lost.

    >>> from tinygrad_cr.data import split
    >>> parts = split(load("digits"), seed=0)
    >>> table = comparison(*parts, members=2, cycles=2, samples=5, epochs=2, lr=0.02, hidden=[16], generator=0)
    >>> [row["method"] for row in table]  # doctest: +NORMALIZE_WHITESPACE
    ['single model', 'best single', 'independent ensemble', 'snapshot ensemble', 'MC dropout', 'weight average']
    """
    train, validation, test = load(train), load(validation), load(test)
    _check(train, test)
    source, average = as_generator(generator), WeightAverage(start)
    members = integer("members", members, least=1)
    common: dict[str, Any] = {"hidden": hidden, "reporter": reporter, **options}
    epochs = settings(hidden, source, options, DECIDED).epochs
    whole_cycles(cycles, 1, epochs)
    rate = number("mask_rate", mask_rate, below=1, hint="it is the dropout of the network for MC dropout")
    samples = integer("samples", samples, least=2)
    _check_options(hidden, options, members, rate, snapshot_lr)

    def fresh() -> Generator:
        # Every method begins with the same weights and the same order of rows.
        return Generator(**source.state())

    def independent(k: int, **more: Any) -> Timed:
        return _timed(lambda: train_ensemble(k, train, validation, **{**common, **more}, generator=fresh()))

    _warm(train, validation, common | {"epochs": 1, "dropout": options.get("dropout") or rate})
    single = independent(1, callbacks=[*options.get("callbacks", ()), average])
    together = independent(members)
    once = {name: value for name, value in common.items() if name not in ("lr_decay", "schedule")}
    once |= {"epochs": epochs, "cycles": cycles} | ({} if snapshot_lr is None else {"lr": snapshot_lr})
    snapshots = _timed(lambda: snapshot_ensemble(train, validation, **once, generator=fresh()))
    dropping = single if options.get("dropout") else independent(1, dropout=rate)
    network = dropping.ensemble[0]
    passes = mc_dropout(network.model, test.x, samples, standardizer=network.standardizer, generator=fresh())

    rows, ensembles = [], {}
    for method, (ensemble, seconds) in {
        "single model": single,
        "best single": Timed(_best(together.ensemble, validation), together.seconds),
        "independent ensemble": together,
        "snapshot ensemble": snapshots,
        "MC dropout": dropping,
        "weight average": Timed(_averaged(single.ensemble, average), single.seconds),
    }.items():
        masked = method == "MC dropout"
        row: Row = {"method": method, "members": samples if masked else len(ensemble)}
        row |= scores(passes.mean if masked else ensemble.predict_proba(test.x), test.y)
        rows.append(row | {"relative_time": seconds / single.seconds, "seconds": seconds})
        ensembles[method] = ensemble
    return Comparison(rows, ensembles)


def scores(probabilities: Any, y: Any) -> dict[str, float]:
    """Accuracy, log loss in nats, and expected calibration error of probabilities [n, classes] for labels [n].

    >>> {name: round(value, 3) for name, value in scores(np.array([[0.8, 0.2]]), np.array([0])).items()}
    {'accuracy': 1.0, 'log_loss': 0.223, 'ece': 0.2}
    """
    right = np.maximum(probabilities[np.arange(len(y)), y], SMALLEST)
    return {
        "accuracy": float((probabilities.argmax(axis=1) == y).mean()),
        "log_loss": float(-np.log(right).mean()),
        "ece": calibration(probabilities, y).ece,
    }


def _check(train: Dataset, test: Dataset) -> None:
    """Complain before hours of training, not after."""
    if test.y is None:
        raise DataError("comparison wants a labelled test part")
    if test.features != train.features:
        raise ShapeError(f"the test part has {test.features} features, the training part {train.features}")
    if test.y.max() >= train.classes:
        raise DataError(f"the test part has a label {test.y.max()}, the training part only 0..{train.classes - 1}")


def _check_options(
    hidden: Sequence[int], options: Mapping[str, Any], members: int, mask_rate: float, snapshot_lr: float | None
) -> None:
    if not hidden:
        raise OptionError("hidden is empty: MC dropout drops hidden units; give at least one hidden layer, as [100]")
    for name in PER_MEMBER:
        if np.ndim(options.get(name, 0)):
            raise OptionError(
                f"{name} must be one value here, got {options[name]!r}: all methods train the same network; for "
                "members that differ call train_ensemble"
            )
    if not mask_rate and not options.get("dropout"):
        raise OptionError("mask_rate 0 drops nothing, so that all masks are the same: take a number in (0, 1), as 0.2")
    if snapshot_lr is not None:
        number("snapshot_lr", snapshot_lr, hint="or None for the learning rate of the others")
    if members > 1 and any(isinstance(callback, WeightAverage) for callback in options.get("callbacks", ())):
        raise OptionError("a WeightAverage cannot follow the independent members: leave it out, it has its own row")


def _warm(train: Dataset, validation: Dataset, options: Mapping[str, Any]) -> None:
    """Train an epoch: what is compiled, loaded or grown at the first use is no training time of the single model."""
    for k in (1, 2):
        train_ensemble(k, train, validation, **{**options, "callbacks": (), "reporter": False, "generator": 0})


def _best(ensemble: Ensemble, validation: Dataset) -> Ensemble:
    """The member with the best validation accuracy alone."""
    accuracies = [ensemble[i : i + 1].evaluate(validation)[1] for i in range(len(ensemble))]
    best = int(np.argmax(accuracies))
    return ensemble[best : best + 1]


def _averaged(single: Ensemble, average: WeightAverage) -> Ensemble:
    model = copy.deepcopy(single[0].model)
    average.apply(model)
    return Ensemble([model], standardizer=single[0].standardizer, class_names=single.class_names)


def _timed(train: Callable[[], Ensemble]) -> Timed:
    begin = time.perf_counter()
    return Timed(train(), time.perf_counter() - begin)
