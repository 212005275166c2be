"""How much each hyperparameter matters: the share of the differences between trials that it explains.

A smooth surface is fitted to the validation accuracies, and its variance is divided among the parameters (functional
analysis of variance). Hutter, Hoos and Leyton-Brown (2014) do so with a forest of trees; here the surface is the mean
of a Gaussian process, whose kernel is a product over the parameters, so that the shares are sums that need no
sampling (Oakley and O'Hagan 2004; Durrande et al. 2013). It takes few trials better than trees do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from tinygrad_cr.errors import DataError
from tinygrad_cr.options import integer

Array = np.ndarray[Any, Any]

COLUMNS = frozenset(
    {"trial", "stage", "trials", "epochs", "epoch", "rung", "seed", "status", "seconds", "member"}
    | {"val_accuracy", "val_loss", "accuracy", "loss"}
)
"""What a trial's row holds besides its hyperparameters."""

LEAST = 8
"""Of fewer trials, nothing can be said."""

MOST = 200
"""Of more trials, so many are used, evenly spaced: the work grows with the cube."""

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, math.inf)
"""How far a parameter must move, as a fraction of all trials, for the accuracy to change: never is the last."""

NOISES = np.geomspace(1e-4, 1e2, 25)
"""Variance that no parameter explains, in that of the surface."""

SWEEPS = 4
"""So often each length is chosen again; seldom does the second time change much."""

INTERVAL = 0.8
"""Of the halves, so many have their share between `low` and `high`."""


@dataclass(frozen=True)
class Importance:
    """What one hyperparameter explains, as shares of the variance of the accuracy over trials.

    Attributes:
        name: of the parameter.
        alone: what is explained by its value alone, whatever the others are (the main effect).
        total: that, and its interactions with other parameters, which count for each of them.
        low, high: where `total` probably lies (about 80 %), given how few trials there are.
    """

    name: str
    alone: float
    total: float
    low: float
    high: float


class Importances(Sequence[Importance]):
    """What `importance` finds, the most important parameter first.

    Attributes:
        explained: the share of the variance that the surface predicts of trials which it was not fitted to; 0 where
            it predicts no better than the mean.
        trials: how many it was fitted to.
    """

    def __init__(self, found: Sequence[Importance], explained: float, trials: int) -> None:
        self._found = tuple(found)
        self.explained = explained
        self.trials = trials

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> Importance: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Importance]: ...
    def __getitem__(self, index: int | slice) -> Importance | Sequence[Importance]:
        return self._found[index]

    def __str__(self) -> str:
        width = max((len(each.name) for each in self), default=0)
        lines = [
            f"{each.name:{width}}  {100 * each.total:3.0f} % ({100 * each.low:.0f} to {100 * each.high:.0f} %), "
            f"alone {100 * each.alone:.0f} %"
            for each in self
        ]
        return "\n".join(
            [*lines, f"{self.trials} trials; predicts {100 * self.explained:.0f} % of what it did not see"]
        )


def parameters(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The hyperparameters that differ between trials, in the order of the rows.

    >>> parameters([{"trial": 1, "lr": 0.1, "reg": 0.0}, {"trial": 2, "lr": 0.2, "reg": 0.0}])
    ['lr']
    """
    names = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    return [name for name in names if len({_label(row.get(name)) for row in rows}) > 1]


def importance(rows: Sequence[Mapping[str, Any]], *, draws: int = 30, generator: int = 0) -> Importances:
    """How much each hyperparameter of a search matters to the validation accuracy.

    Numbers count by their rank, so that it makes no difference whether a range was logarithmic. A diverged trial counts
    as the worst accuracy of all. Shares hold for the ranges that were searched: in a range narrowed around the best
    value, no parameter matters much.

    The lengths and the noise of the surface are those of the greatest likelihood, less the extended Bayesian
    criterion's price for each parameter that it depends on (Chen and Chen 2008): one that explains nothing gets
    exactly 0. The interval comes from surfaces fitted anew to random halves of the trials, which vary as bootstrap
    draws of all do (Friedman and Hall 2007) and do not hold a trial twice, which would look like one without noise.

    Args:
        rows: trials, as `SearchResult` holds them: dicts with "val_accuracy", "status" and the hyperparameters.
        draws: how many halves the interval rests on.
        generator: seed of the draws.

    Raises:
        DataError: fewer than 8 trials, none that finished, or no parameter that differs between them.

    >>> rng = np.random.default_rng(0)
    >>> rows = [{"lr": 10 ** rng.uniform(-4, -1), "reg": rng.random()} for _ in range(40)]
    >>> found = importance([r | {"val_accuracy": 0.9 - 0.1 * abs(np.log10(r["lr"]) + 2)} for r in rows], draws=3)
    >>> found[0].name, found[0].total > 0.9, found[1].total < 0.02
    ('lr', True, True)
    """
    integer("draws", draws, least=1)
    y = accuracies(rows)
    names = parameters(rows)
    if len(rows) < LEAST:
        raise DataError(f"importance wants at least {LEAST} trials, got {len(rows)}: search longer")
    if not names:
        raise DataError("no hyperparameter differs between these trials, so none can be told to matter")
    if len(rows) > MOST:
        kept = np.linspace(0, len(rows) - 1, MOST).round().astype(int)
        rows, y = [rows[i] for i in kept], y[kept]
    columns = [_column([single(row.get(name)) for row in rows]) for name in names]
    surface = _fit(columns, y)
    alone, total = surface.shares()
    rng = np.random.default_rng(generator)
    drawn: list[Array] = []
    for _ in range(draws):
        some = rng.choice(len(y), len(y) // 2, replace=False)
        part = [_Column(column.values[some], column.ordered) for column in columns]
        drawn.append(_fit(part, y[some], surface.lengths, 1).shares()[1])
    ends = np.quantile(drawn, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    # Halves see less than the whole: their middle may lie elsewhere, and both intervals are possible then.
    shift = total - np.median(drawn, axis=0)
    low, high = np.clip([ends[0] + np.minimum(shift, 0), ends[1] + np.maximum(shift, 0)], 0, 1)
    found = [
        Importance(name, *map(float, values)) for name, *values in zip(names, alone, total, low, high, strict=True)
    ]
    found.sort(key=lambda each: -each.total)
    return Importances(found, surface.explained(), len(y))


def accuracies(rows: Sequence[Mapping[str, Any]]) -> Array:
    """The validation accuracy of each trial [n], for one that diverged the worst of all.

    Raises:
        DataError: no trial has one.

    >>> accuracies([{"val_accuracy": 0.4}, {"val_accuracy": None}, {"val_accuracy": 0.3, "status": "diverged"}])
    array([0.4, 0.3, 0.3])
    """
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or "val_accuracy" not in row:
            raise DataError(f"row {i} is no trial: it wants val_accuracy and the hyperparameters, got {row!r:.80}")
    values = np.array([math.nan if row["val_accuracy"] is None else row["val_accuracy"] for row in rows], np.float64)
    if not np.isfinite(values).any():
        raise DataError("no trial has a validation accuracy: all of them diverged, or there are none")
    diverged = np.array([row.get("status") == "diverged" for row in rows])
    return np.where(diverged | ~np.isfinite(values), np.nanmin(values), values)


@dataclass(frozen=True)
class _Column:
    """The values of a parameter, [n]: ranks in [0, 1] if ordered, else numbers of categories."""

    values: Array
    ordered: bool

    def kernel(self, length: float) -> Array:
        """How alike the trials are in this parameter, [n, n]."""
        distance = np.abs(self.values[:, None] - self.values)
        if math.isinf(length):
            return np.ones_like(distance)
        if not self.ordered:
            # Categories are all equally far from each other.
            distance = 0.5 * (distance > 0)
        scaled = math.sqrt(3) * distance / length
        # Matern 3/2: accuracies fall off cliffs, which a Gaussian kernel would smooth away.
        alike: Array = (1 + scaled) * np.exp(-scaled)
        return alike


class _Surface:
    """The mean of a Gaussian process with a product kernel, fitted to y [n]."""

    def __init__(self, columns: Sequence[_Column], y: Array, lengths: Sequence[float]) -> None:
        self.y, self.lengths = y, tuple(lengths)
        self.kernels = [column.kernel(length) for column, length in zip(columns, lengths, strict=True)]
        values, self._vectors = np.linalg.eigh(np.prod(self.kernels, axis=0))
        self._values = np.maximum(values, 0.0)
        n = len(y)
        projected = (self._vectors.T @ (y - y.mean())) ** 2
        spread = self._values + NOISES[:, None]
        # The variance of the surface that makes y likeliest has a closed form.
        scale = np.maximum((projected / spread).sum(axis=1) / n, 1e-12)
        likelihood = -0.5 * (n * np.log(scale) + np.log(spread).sum(axis=1))
        best = int(likelihood.argmax())
        self.noise = float(NOISES[best])
        active = sum(math.isfinite(length) for length in self.lengths)
        self.score = float(likelihood[best]) - active * (0.5 * math.log(n) + math.log(len(self.kernels)))

    @property
    def _inverse(self) -> Array:
        inverse: Array = (self._vectors / (self._values + self.noise)) @ self._vectors.T
        return inverse

    def explained(self) -> float:
        """The share of the variance that is predicted of trials left out, one at a time (in closed form)."""
        inverse = self._inverse
        errors = (inverse @ (self.y - self.y.mean())) / np.diag(inverse)
        spread = float(self.y.var())
        return max(0.0, 1 - float((errors**2).mean()) / spread) if spread > 0 else 0.0

    def shares(self) -> tuple[Array, Array]:
        """Main and total effects of each parameter as shares of the variance of y, [d] each.

        The parameters are taken as independent, each distributed as in the trials.
        """
        spread = float(self.y.var())
        weights = self._inverse @ (self.y - self.y.mean())
        n = len(weights)
        squares = [kernel @ kernel / n for kernel in self.kernels]
        means = [np.outer(m, m) for m in (kernel.mean(axis=1) for kernel in self.kernels)]
        alone, total = np.zeros((2, len(self.kernels)))
        if spread <= 0:
            return alone, total

        def variance(matrices: Sequence[Array]) -> float:
            return float(weights @ np.prod(matrices, axis=0) @ weights)

        constant, whole = variance(means), variance(squares)
        for j in range(len(self.kernels)):
            only = [squares[i] if i == j else means[i] for i in range(len(means))]
            others = [means[i] if i == j else squares[i] for i in range(len(means))]
            alone[j], total[j] = variance(only) - constant, whole - variance(others)
        return np.clip(alone / spread, 0, 1), np.clip(total / spread, 0, 1)


def _fit(
    columns: Sequence[_Column], y: Array, lengths: Sequence[float] | None = None, sweeps: int = SWEEPS
) -> _Surface:
    """The surface of the best score, one length chosen after the other until none changes."""
    known: dict[tuple[float, ...], _Surface] = {}

    def surface(chosen: tuple[float, ...]) -> _Surface:
        if chosen not in known:
            known[chosen] = _Surface(columns, y, chosen)
        return known[chosen]

    best = surface(tuple(lengths or [0.8] * len(columns)))
    for _ in range(sweeps):
        before = best.lengths
        for j in range(len(columns)):
            others = best.lengths[:j], best.lengths[j + 1 :]
            tried = [surface((*others[0], length, *others[1])) for length in LENGTHS]
            best = max([best, *tried], key=lambda each: each.score)
        if best.lengths == before:
            break
    return best


def single(value: Any) -> Any:
    """The number in a list of one: the width of a single hidden layer.

    >>> single([50]), single([100, 50]), single(0.1)
    (50, [100, 50], 0.1)
    """
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _column(values: Sequence[Any]) -> _Column:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        _, place, counts = np.unique(np.array(values, np.float64), return_inverse=True, return_counts=True)
        # Equal values share the middle of their ranks.
        middles = np.cumsum(counts) - (counts + 1) / 2
        return _Column(middles[place] / max(1, len(values) - 1), ordered=True)
    labels = [_label(value) for value in values]
    order = {label: float(i) for i, label in enumerate(dict.fromkeys(labels))}
    return _Column(np.array([order[label] for label in labels]), ordered=False)


def _label(value: Any) -> str:
    return repr(list(value)) if isinstance(value, list | tuple) else repr(value)
