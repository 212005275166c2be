"""The lecture's coarse search beside scikit-learn's `RandomizedSearchCV`, in turns: 100 networks of 5 epochs.

Both draw lr and reg log-uniformly from the same ranges, train 784-50-10 on the same rows of Fashion-MNIST with SGD and
momentum 0.9, and judge by the same validation rows; scikit-learn on two processes, with rows that are standardised
beforehand. The ranges are such that nothing diverges: a search that may drop half of its trials would be no contest.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from typing import Any

import numpy as np

from bench.report import table
from tinygrad_cr import data, search

BAR = 4.0
HIDDEN, BATCH, MOMENTUM = 50, 100, 0.9
LR, REG = (1e-4, 1e-1), (1e-6, 1e-2)


def measure(rounds: int, quick: bool = False) -> dict[str, Any]:
    """Seconds and the winner's accuracies, for each round; the seeds of both differ from round to round."""
    parts = data.split(data.load("fashion-mnist", download=False), seed=0)
    train = parts.train.spread(2000) if quick else parts.train
    validation = parts.validation.spread(1000) if quick else parts.validation
    trials, epochs = (6, 2) if quick else (100, 5)
    peer = _Peer(train, validation, parts.test, trials, epochs)
    _ours(train, validation, parts.test, 2, 1, 0)  # compiles
    found: dict[str, list[dict[str, float]]] = {"ours": [], "sklearn": []}
    for i in range(rounds):
        turns = {
            "ours": lambda i=i: _ours(train, validation, parts.test, trials, epochs, i),
            "sklearn": lambda i=i: peer(i),
        }
        for name in sorted(turns, reverse=bool(i % 2)):
            found[name].append(turns[name]())
    return {"trials": trials, "epochs": epochs, "rows": len(train), "test_rows": len(parts.test), **found}


def _ours(train: Any, validation: Any, test: Any, trials: int, epochs: int, seed: int) -> dict[str, float]:
    """The whole call, the winner's second training and its test included."""
    space = {
        "lr": search.LogUniform(*LR),
        "reg": search.LogUniform(*REG),
        "hidden": [HIDDEN],
        "batch_size": BATCH,
        "momentum": MOMENTUM,
    }
    begin = time.perf_counter()
    result = search.random_search(
        train, validation, space, test=test, trials=trials, epochs=epochs, seed=seed, reporter=False
    )
    seconds = time.perf_counter() - begin
    assert result.winner is not None
    return {"seconds": seconds, "validation": result.best["val_accuracy"], "test": result.winner.test_accuracy}


class _Peer:
    """RandomizedSearchCV over MLPClassifier on one split; its winner is tested after the clock has stopped."""

    def __init__(self, train: Any, validation: Any, test: Any, trials: int, epochs: int) -> None:
        standardizer = data.Standardizer("per-feature").fit(train.x)
        self.train, self.validation, self.test = (
            (standardizer.transform(part.x, dtype="float32"), part.y) for part in (train, validation, test)
        )
        self.trials, self.epochs = trials, epochs

    def __call__(self, seed: int) -> dict[str, float]:
        from scipy.stats import loguniform
        from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV

        x = np.concatenate([self.train[0], self.validation[0]])
        y = np.concatenate([self.train[1], self.validation[1]])
        fold = np.repeat([-1, 0], [len(self.train[1]), len(self.validation[1])])
        # scikit-learn divides its penalty by the rows of a minibatch.
        space = {"learning_rate_init": loguniform(*LR), "alpha": loguniform(*(BATCH * r for r in REG))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            begin = time.perf_counter()
            found = RandomizedSearchCV(
                self._classifier(seed),
                space,
                n_iter=self.trials,
                cv=PredefinedSplit(fold),
                refit=False,
                n_jobs=2,
                random_state=seed,
            ).fit(x, y)
            seconds = time.perf_counter() - begin
            winner = self._classifier(seed).set_params(**found.best_params_).fit(*self.train)
        return {"seconds": seconds, "validation": found.best_score_, "test": winner.score(*self.test)}

    def _classifier(self, seed: int) -> Any:
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(
            (HIDDEN,),
            solver="sgd",
            batch_size=BATCH,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            max_iter=self.epochs,
            n_iter_no_change=self.epochs + 1,
            random_state=seed,
        )


def markdown(results: dict[str, Any]) -> str:
    """A row each; the ratio is taken within a round."""
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(results["ours"], results["sklearn"], strict=True)]
    ratio = statistics.median(ratios)
    rows = [
        [
            title,
            *(_median(results[name], key, digits) for key, digits in (("seconds", 1), ("validation", 4), ("test", 4))),
        ]
        for name, title in (("ours", "tinygrad_cr"), ("sklearn", "scikit-learn, 2 processes"))
    ]
    ours, theirs = (statistics.median(turn["test"] for turn in results[name]) for name in ("ours", "sklearn"))
    # Of the difference of two accuracies on this many rows.
    error = math.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / results["test_rows"])
    equal = ours >= theirs - 2 * error
    verdict = f"missed by a factor of {BAR / ratio:.2f}" if ratio < BAR else "met" if equal else "missed in accuracy"
    return (
        table(["search", "seconds", "best validation accuracy", "the winner's test accuracy"], rows)
        + f"\n\n{results['trials']} trials of {results['epochs']} epochs on {results['rows']:,} rows, "
        f"{len(ratios)} rounds: {ratio:.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}); our winners' test "
        f"accuracy is {ours - theirs:+.4f} beside theirs, with a standard error of {error:.4f}. At least {BAR:g} times "
        f"at equal accuracy was promised: {verdict}. (Validation: our best of the epochs, scikit-learn's last one.)\n"
    )


def _median(turns: list[dict[str, float]], key: str, digits: int) -> str:
    values = [turn[key] for turn in turns]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
