"""`optuna_objective`: trials whose points Optuna chooses, and that its pruners may end early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinygrad_cr.data import Dataset, Standardizer, load
from tinygrad_cr.errors import OptionError, extra
from tinygrad_cr.options import integer
from tinygrad_cr.search.sampling import as_value, stage_seeds
from tinygrad_cr.search.spaces import Choice, IntUniform, LogUniform, Space, Uniform
from tinygrad_cr.search.training import STOP, Material, check_parts, train_group
from tinygrad_cr.search.trial import DIVERGED, Row, Trial

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Part = Dataset | tuple[Any, Any]


def optuna_objective(
    train: Part,
    validation: Part,
    space: Mapping[str, Any],
    *,
    epochs: int = 5,
    seed: int = 0,
    patience: int | None = None,
    standardize: str = "per-feature",
    dtype: str = "float32",
    device: str = "cpu",
) -> OptunaObjective:
    """What ``study.optimize`` maximises: the best validation accuracy of a network trained at a trial's point.

    Each epoch's validation accuracy is reported as an intermediate value, so a pruner may end the trial there. A trial
    that diverges counts as pruned: it is no failure, and its point is worse than any that was trained to the end.

    Optuna's trial number n is trained with the weights, masks and shuffles of trial n + 1 of a `random_search` with
    the same seed.

    Args:
        train, validation: a `Dataset`, or a pair of arrays (x, y).
        space: a range, a `Choice` or a value for each of some hyperparameters, see `Space`.
        epochs: how long a trial that is not pruned is trained.
        seed: of weights, masks and shuffles; that of the points belongs to Optuna's sampler.
        patience, standardize, dtype, device: as of `random_search`.

    Raises:
        ExtraError: Optuna is not installed.
        OptionError: an unknown name, or a value out of its range.
        DataError, ShapeError: parts that cannot be learned from, do not fit each other, or have no labels.

    >>> import optuna
    >>> from tinygrad_cr.data import load, split
    >>> parts = split(load("digits"), seed=0)
    >>> space = {"lr": LogUniform(1e-4, 1.0), "hidden": Choice([20, [20, 10]])}
    >>> objective = optuna_objective(parts.train, parts.validation, space, epochs=2)
    >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
    >>> study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    >>> study.optimize(objective, n_trials=2)
    >>> sorted(objective.point(study.best_params)) == sorted(space)
    True
    """
    with extra("optuna"):
        import optuna  # noqa: F401 - asked for here, so that what is missing is told before any work
    part, held_out = load(train), load(validation)
    check_parts(part, held_out)
    if dtype not in ("float32", "float64"):
        raise OptionError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    material = Material(
        part,
        held_out,
        Standardizer(standardize).fit(part.x),
        None if patience is None else integer("patience", patience, least=1),
        dtype,
        device,
    )
    return OptunaObjective(material, Space(space), integer("epochs", epochs, least=1), seed)


class OptunaObjective:
    """What `optuna_objective` makes: called with a trial, it trains, and gives the best validation accuracy.

    The trial's user attributes then hold status ("finished", "stopped" by patience, "pruned" or "diverged"), epoch
    (epochs trained), val_loss, accuracy and loss (of the best epoch) and seconds.

    >>> from tinygrad_cr.data import load, split
    >>> from optuna.trial import FixedTrial
    >>> parts = split(load("digits"), seed=0)
    >>> objective = optuna_objective(*parts[:2], {"lr": LogUniform(1e-4, 1.0), "hidden": 10}, epochs=1)
    >>> trial = FixedTrial({"lr": 0.05})
    >>> objective(trial) > 0.5, trial.user_attrs["status"], objective.point(trial.params)
    (True, 'finished', {'lr': 0.05, 'hidden': [10]})
    """

    def __init__(self, material: Material, space: Space, epochs: int, seed: int) -> None:
        self.material, self.space, self.epochs = material, space, epochs
        self.seed = stage_seeds(seed, 1).training

    def __call__(self, trial: BaseTrial) -> float:
        """Train the network that the trial describes.

        Raises:
            TrialPruned: the pruner ended it, or it diverged; Optuna wants to be told like this.
            OptionError: the study does not maximise.
        """
        import optuna

        _check_direction(trial)
        pruned = False

        def report(_: Trial, row: Row) -> str | None:
            nonlocal pruned
            if math.isfinite(row["val_loss"]):
                trial.report(row["val_accuracy"], row["epoch"])
                pruned = trial.should_prune()
            return STOP if pruned else None

        ours = Trial(1, trial.number + 1, self._suggested(trial), self.seed)
        outcome = train_group([ours], self.material, self.epochs, report)[0]
        status = "pruned" if pruned else outcome.status
        values = {key: getattr(outcome, key) for key in ("epoch", "val_loss", "accuracy", "loss", "seconds")}
        for key, value in ({"status": status} | values).items():
            trial.set_user_attr(key, value)
        if pruned or status == DIVERGED or outcome.val_accuracy is None:
            raise optuna.TrialPruned(f"{status} after epoch {outcome.epoch}")
        return outcome.val_accuracy

    def point(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters that Optuna's ``trial.params`` stand for, fixed values of the space included.

        A choice among lists, such as the widths of `hidden`, has strings there, as Optuna stores nothing else.
        """
        from optuna.trial import FixedTrial

        return self._suggested(FixedTrial(dict(params)))

    def _suggested(self, trial: BaseTrial) -> dict[str, Any]:
        return {name: as_value(name, _suggest(trial, name, dimension)) for name, dimension in self.space.items()}


def _suggest(trial: BaseTrial, name: str, dimension: Any) -> Any:
    if isinstance(dimension, Choice):
        if not any(isinstance(value, tuple) for value in dimension.values):
            return trial.suggest_categorical(name, dimension.values)
        named = {str(list(value) if isinstance(value, tuple) else value): value for value in dimension.values}
        return named[trial.suggest_categorical(name, list(named))]
    if isinstance(dimension, IntUniform):
        return trial.suggest_int(name, dimension.low, dimension.high)
    if isinstance(dimension, Uniform | LogUniform):
        return trial.suggest_float(name, dimension.low, dimension.high, log=isinstance(dimension, LogUniform))
    return dimension


def _check_direction(trial: BaseTrial) -> None:
    study = getattr(trial, "study", None)
    directions = [] if study is None else [direction.name for direction in study.directions]
    if directions not in ([], ["MAXIMIZE"]):
        raise OptionError(
            f"the study wants to {' and '.join(directions).lower()}, and accuracies want to grow: "
            'make it with optuna.create_study(direction="maximize")'
        )
