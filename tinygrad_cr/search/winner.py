"""The winner of a search: made again, and judged by data that did not choose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.errors import RunError, TinygradError
from tinygrad_cr.nn import MLP
from tinygrad_cr.search.ledger import WINNER, Ledger
from tinygrad_cr.search.optimism import expected_optimism, optimism_bound, standard_error
from tinygrad_cr.search.parameters import PARAMETERS
from tinygrad_cr.search.sampling import stage_seeds
from tinygrad_cr.search.training import Material, make_model, train_group
from tinygrad_cr.search.trial import DIVERGED, Outcome, Row, Trial, ranked, scored
from tinygrad_cr.train import evaluate
from tinygrad_cr.train.checkpoint import STANDARDIZER, load_standardizer, standardizer_arrays

REPEAT_STAGE = 2**30
"""From there on stages have the seeds of repeated trainings: no search has so many."""


@dataclass(frozen=True)
class Winner:
    """The best trial, trained again with its seed, which gives the network that was chosen.

    Attributes:
        row: of the trial; its val_accuracy is the score that chose it.
        model, standardizer: the network, in evaluation mode, and what its inputs go through.
        val_accuracy, val_loss: of the network that was made again.
        test_accuracy, test_loss: on data that chose nothing; None without a test part.
        optimism: val_accuracy of the row minus test_accuracy; None without a test part.
        expected_optimism, optimism_bound: see `expected_optimism` and `optimism_bound`.
        rows: how many the validation part has, and the test part (0 if there is none).
        trials: out of how many with a score it was chosen.
        repeats: the same settings trained from other seeds, a row each with seed, val_accuracy, val_loss,
            test_accuracy, test_loss, status.

    >>> from tinygrad_cr.data import load, split
    >>> from tinygrad_cr.search import random_search
    >>> parts = split(load("digits"), seed=0)
    >>> space = {"lr": 0.02, "hidden": 10}
    >>> winner = random_search(*parts[:2], space, test=parts.test, trials=2, epochs=1, reporter=False).winner
    >>> winner.model.sizes, winner.trials, winner.optimism == winner.row["val_accuracy"] - winner.test_accuracy
    ([64, 10, 10], 2, True)
    """

    row: Row
    model: MLP
    standardizer: Standardizer
    val_accuracy: float | None
    val_loss: float | None
    test_accuracy: float | None
    test_loss: float | None
    expected_optimism: float
    optimism_bound: float
    rows: tuple[int, int]
    trials: int
    repeats: Sequence[Row] = ()

    @property
    def optimism(self) -> float | None:
        """By how much the score that chose the network is above its accuracy on data that did not."""
        return None if self.test_accuracy is None else float(self.row["val_accuracy"] - self.test_accuracy)

    def summary(self) -> str:
        """The scores, and how far the one that chose is to be trusted."""
        validation, test = self.rows
        score = self.row["val_accuracy"]
        chosen = f"validation accuracy {score:.4f}, the best of {self.trials}"
        expected = (
            f"about {self.expected_optimism:.4f} is expected of the best of {self.trials} scores on "
            f"{validation} rows, {self.optimism_bound:.4f} if all were equally good"
        )
        if self.test_accuracy is None or self.optimism is None:
            text = (
                f"{chosen}. That score chose it and is too high by an amount that is not known, as no test part was "
                f"given: {expected}"
            )
        else:
            error = float(np.hypot(standard_error(score, validation), standard_error(self.test_accuracy, test)))
            text = (
                f"test accuracy {self.test_accuracy:.4f}; {chosen}. Optimism {self.optimism:+.4f}, "
                f"give or take {error:.4f}: {expected}"
            )
        return text + self._repeated()

    def _repeated(self) -> str:
        if not self.repeats:
            return ""
        text = f". Trained from {len(self.repeats)} other seeds"
        for part, key in (("validation", "val_accuracy"), ("test", "test_accuracy")):
            found = [row[key] for row in self.repeats if row[key] is not None]
            if found:
                text += f"{', ' if text.endswith(')') else ': '}{part} accuracy {np.mean(found):.4f}"
                text += f" (standard deviation {np.std(found, ddof=1 if len(found) > 1 else 0):.4f})"
        lost = sum(row["val_accuracy"] is None for row in self.repeats)
        return text + (f"; {lost} diverged" if lost else "")

    def to_dict(self) -> dict[str, Any]:
        """All but the network, as JSON can hold it."""
        left_out = ("model", "standardizer")
        values = {key: value for key, value in vars(self).items() if key not in left_out}
        return values | {
            "rows": list(self.rows),
            "repeats": list(self.repeats),
            "model": self.model.config(),
            "standardize": self.standardizer.mode,
            "optimism": self.optimism,
        }


def make_winner(
    rows: Sequence[Row], material: Material, test: Dataset | None, *, seed: int, repeats: int
) -> Winner | None:
    """Train the best trial again, test it, and repeat it from other seeds; None if no trial has a score.

    Args:
        rows: of all trials.
        seed: of the search.
        repeats: how many other seeds.
    """
    best = next(iter(ranked(rows)), None)
    if best is None:
        return None
    point = {name: value for name, value in best.items() if name in PARAMETERS}
    trial = Trial(best["stage"], best["trial"], point, best["seed"])
    # So many as its row tells of, which may be a lower rung: a longer run could have a later, better epoch.
    outcome = train_group([trial], material, best["epoch"], keep=True)[0]
    model = _network(trial, outcome, material)
    test_loss, test_accuracy = (None, None) if test is None else evaluate(model, test, material.standardizer)
    scores = [row["val_accuracy"] for row in scored(rows)]
    return Winner(
        row=best,
        model=model,
        standardizer=material.standardizer,
        val_accuracy=outcome.val_accuracy,
        val_loss=outcome.val_loss,
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        expected_optimism=expected_optimism(scores, len(material.validation)),
        optimism_bound=optimism_bound(best["val_accuracy"], len(scores), len(material.validation)),
        rows=(len(material.validation), 0 if test is None else len(test)),
        trials=len(scores),
        repeats=_repeat(point, best["epochs"], material, test, seed, repeats),
    )


def save_winner(ledger: Ledger, winner: Winner) -> None:
    """Write the network, and then what is known about it.

    Raises:
        RunError: it cannot be written.
    """
    tensors = winner.model.state_dict() | standardizer_arrays(winner.standardizer)
    # safetensors writes the memory of an array as it lies, whatever its strides.
    ledger.write_file(WINNER, save_tensors({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
    ledger.write(winner=winner.to_dict())


def load_winner(path: Path, state: Mapping[str, Any] | None) -> Winner | None:
    """The winner in a folder, described by what `search.json` says; None if it says nothing.

    Raises:
        RunError: the file is missing or broken.
    """
    if state is None:
        return None
    try:
        tensors = load_tensors((path / WINNER).read_bytes())
        model = MLP(**state["model"], generator=0)
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(STANDARDIZER)})
        model.eval()
        plain = {key: state[key] for key in Winner.__dataclass_fields__ if key not in ("model", "standardizer")}
        standardizer = load_standardizer(tensors, state["standardize"])
        return Winner(**plain | {"rows": tuple(plain["rows"])}, model=model, standardizer=standardizer)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError, TinygradError) as error:
        raise RunError(f"{path} does not hold a whole winner: {error}") from None


def _repeat(
    point: dict[str, Any], epochs: int, material: Material, test: Dataset | None, seed: int, repeats: int
) -> list[Row]:
    # A seed each, not one for all as in a stage: the luck of the order of rows is to show, too.
    stages = [(REPEAT_STAGE + number, number) for number in range(1, repeats + 1)]
    trials = [Trial(stage, number, point, stage_seeds(seed, stage).training) for stage, number in stages]
    rows = []
    for trial, outcome in zip(trials, train_group(trials, material, epochs, keep=True), strict=True):
        valid = outcome.status != DIVERGED and outcome.val_accuracy is not None
        loss, accuracy = (
            evaluate(_network(trial, outcome, material), test, material.standardizer)
            if valid and test is not None
            else (None, None)
        )
        rows.append(
            {
                "seed": trial.seed,
                "trial": trial.number,
                "status": outcome.status,
                "val_accuracy": outcome.val_accuracy if valid else None,
                "val_loss": outcome.val_loss if valid else None,
                "test_accuracy": accuracy,
                "test_loss": loss,
            }
        )
    return rows


def _network(trial: Trial, outcome: Outcome, material: Material) -> MLP:
    model = make_model(trial.point, material.ends, 0, material.dtype)
    model.load_state_dict(outcome.state or {})
    model.eval()
    return model
