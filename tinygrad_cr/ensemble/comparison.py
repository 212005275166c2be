"""`comparison`: the ways to get more out of one network, trained on the same data and put into one table."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tinygrad_cr.data import Dataset, load
from tinygrad_cr.ensemble.calibration import calibration
from tinygrad_cr.ensemble.dropout import mc_dropout
from tinygrad_cr.ensemble.ensemble import Ensemble
from tinygrad_cr.ensemble.settings import settings
from tinygrad_cr.ensemble.snapshots import snapshot_ensemble
from tinygrad_cr.ensemble.training import Pair, train_ensemble
from tinygrad_cr.ensemble.weights import WeightAverage
from tinygrad_cr.errors import DataError, unknown_name
from tinygrad_cr.options import integer, number
from tinygrad_cr.random import Generator, as_generator

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]
COLUMNS = ("method", "members", "accuracy", "log loss", "ECE", "training time")
DECIDED = {"patience": "every method is compared after the same number of epochs"}
SMALLEST = 1e-300
"""A probability that is 0 in float64 counts as this in the log loss."""


class Comparison(Sequence[Row]):
    """One row for each method; ``print(comparison)`` shows a table, and so does rich.

    Keys of a row: method, members (answers that are averaged), accuracy, log_loss (in nats), ece (15 bins),
    relative_time (of training, as a multiple of the single model's), seconds. ``comparison["snapshot ensemble"]`` is
    one row; ``pandas.DataFrame(comparison)`` works.

    Attributes:
        ensembles: what was trained, by method.

    >>> row = {"method": "single model", "members": 1, "accuracy": 0.5, "log_loss": 1.0, "ece": 0.1,
    ...        "relative_time": 1.0, "seconds": 2.0}
    >>> print(Comparison([row], {}))
    method        members  accuracy  log loss     ECE  training time
    single model        1    0.5000    1.0000  0.1000           1.00
    """

    def __init__(self, rows: Sequence[Row], ensembles: Mapping[str, Ensemble]) -> None:
        self.rows = list(rows)
        self.ensembles = dict(ensembles)

    @overload
    def __getitem__(self, key: int | str) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    def __getitem__(self, key: int | str | slice) -> Row | list[Row]:
        """A row by position or by method; `OptionError` names the nearest method if there is none of that name."""
        if not isinstance(key, str):
            return self.rows[key]
        for row in self.rows:
            if row["method"] == key:
                return row
        raise unknown_name("method", key, [row["method"] for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        cells = [COLUMNS, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for first, *others in cells:
            numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join([first.ljust(widths[0]), *numbers]))
        return "\n".join(lines)

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(COLUMNS[0])
        for column in COLUMNS[1:]:
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*_cells(row))
        return table


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
    if test.y is None:
        raise DataError("comparison wants a labelled test part")
    source = as_generator(generator)
    common: dict[str, Any] = {"hidden": hidden, "reporter": reporter, **options}
    epochs = settings(hidden, source, options, DECIDED).epochs
    rate = number("mask_rate", mask_rate, below=1, hint="it is the dropout of the network for MC dropout")
    samples = integer("samples", samples, least=2)
    average = WeightAverage(start)

    def fresh() -> Generator:
        # Every method begins with the same weights and the same order of rows.
        return Generator(**source.state())

    def independent(k: int, **more: Any) -> tuple[Ensemble, float]:
        return _timed(lambda: train_ensemble(k, train, validation, **{**common, **more}, generator=fresh()))

    single, unit = independent(1, callbacks=[*options.get("callbacks", ()), average])
    together, together_seconds = independent(members)
    accuracies = [together[i : i + 1].evaluate(validation)[1] for i in range(len(together))]
    best = int(np.argmax(accuracies))
    once = {name: value for name, value in common.items() if name not in ("lr_decay", "schedule")}
    once |= {"epochs": epochs, "cycles": cycles} | ({} if snapshot_lr is None else {"lr": snapshot_lr})
    snapshots, snapshot_seconds = _timed(lambda: snapshot_ensemble(train, validation, **once, generator=fresh()))
    dropping, dropping_seconds = (single, unit) if options.get("dropout") else independent(1, dropout=rate)
    network = dropping[0]
    passes = mc_dropout(network.model, test.x, samples, standardizer=network.standardizer, generator=fresh())

    def answer(ensemble: Ensemble) -> Any:
        return ensemble.predict_proba(test.x)

    found: list[tuple[str, int, Any, float, Ensemble]] = [
        ("single model", 1, answer(single), unit, single),
        ("best single", 1, answer(together[best : best + 1]), together_seconds, together[best : best + 1]),
        ("independent ensemble", len(together), answer(together), together_seconds, together),
        ("snapshot ensemble", len(snapshots), answer(snapshots), snapshot_seconds, snapshots),
        ("MC dropout", samples, passes.mean, dropping_seconds, dropping),
    ]
    model = copy.deepcopy(single[0].model)
    average.apply(model)
    averaged = Ensemble([model], standardizer=single[0].standardizer, class_names=single.class_names)
    found.append(("weight average", 1, answer(averaged), unit, averaged))
    rows = [
        {"method": method, "members": count, **scores(p, test.y), "relative_time": seconds / unit, "seconds": seconds}
        for method, count, p, seconds, _ in found
    ]
    return Comparison(rows, {method: ensemble for method, _, _, _, ensemble in found})


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


def _timed(train: Callable[[], Ensemble]) -> tuple[Ensemble, float]:
    begin = time.perf_counter()
    return train(), time.perf_counter() - begin


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["method"],
        str(row["members"]),
        f"{row['accuracy']:.4f}",
        f"{row['log_loss']:.4f}",
        f"{row['ece']:.4f}",
        f"{row['relative_time']:.2f}",
    )
