"""Steps that are made in blocks, by one call of compiled code, are those that would be made one by one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DivergenceError, OptionError
from tinygrad_cr.nn import MLP, Module
from tinygrad_cr.optim import SGD
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train import Callback, Steps, Trainer, loop
from tinygrad_cr.train.checkpoint import read
from tinygrad_cr.train.run import checkpoints
from tinygrad_cr.train.updates import Updates


def blobs(n: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 5)) + 1.5 * np.eye(3, 5)[y], y)


TRAIN, VALIDATION = blobs(133), blobs(31, seed=1)
"""67 steps of 2 rows, the last of one."""


class Witness(Callback):
    """Keeps what it is shown, and the parameters at that moment."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def start(self, setup: Any) -> None:
        self.model = setup.model

    def steps(self, seen: Steps) -> None:
        norms = None if seen.norms is None else seen.norms.tobytes()
        parameters = [p.data.tobytes() for p in self.model.parameters()]
        self.seen.append((seen.epoch, seen.step, repr(seen.costs), seen.lr, norms, parameters))


class Interrupting:
    """A reporter that counts steps, and interrupts after one of them."""

    def __init__(self, step: int) -> None:
        self.step, self.told, self.trainer = step, list[int](), None

    def start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def epoch(self, row: Any, epochs: int) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self, best_accuracy: Any) -> None: ...

    def steps(self, done: int) -> None:
        self.told.append(done)
        if done == self.step:
            self.trainer.interrupt()


def everything(out: Path | None, interrupt: int = 0, **options: Any) -> dict[str, Any]:
    """All that a run shows and leaves behind, but the time that it took."""
    witness, reporter = Witness(), Interrupting(interrupt)
    model = MLP([5, 8, 3], dropout=0.5, generator=0, dtype=options.pop("dtype", "float32"))
    wanted = {"lr": 0.02, "epochs": 2, "batch_size": 2, "generator": 1, "callbacks": [witness], "out": out}
    trainer = reporter.trainer = Trainer(model, reporter=reporter, **wanted | options)
    error = history = None
    try:
        history = trainer.fit(TRAIN, VALIDATION)
    except (DivergenceError, OptionError) as caught:
        error = str(caught)
    found: dict[str, Any] = {"error": error, "seen": witness.seen, "told": reporter.told}
    if history is not None:
        found["rows"] = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
        found["events"] = history.events
    optimizer = trainer.optimizer
    found["optimizer"] = {name: value.tobytes() for name, value in optimizer.state_dict().items()}
    found |= {"model": optimizer.flat.values.tobytes(), "lr": optimizer.lr, "masks": model.generator.state()}
    if out is not None:
        checkpoint = read(checkpoints(out)[-1])
        found["arrays"] = {name: value.tobytes() for name, value in checkpoint.arrays.items()}
        found["state"] = {k: v for k, v in checkpoint.state.items() if k not in ("seconds", "history")}
    return found


def late(step: int) -> float:
    """A learning rate that loses the run in the middle of a block of the second epoch."""
    return 1e30 if step == 80 else 0.02


def negative(step: int) -> float:
    return -1.0 if step == 80 else 0.02


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg": 0.01, "validate_steps": 30},
        {"optimizer": "adamw", "dtype": "float64", "reg": 0.1},
        {"schedule": lambda step: 0.1 / (1 + step)},
        {"schedule": late},
        {"schedule": late, "reg": 0.01, "monitors": False},
        {"interrupt": 13},
        {"interrupt": 90, "optimizer": "adam"},
        {"interrupt": 67},
        {"clip_norm": 0.1, "interrupt": 30},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_a_run_in_blocks_shows_and_leaves_what_one_step_by_step_does(options, monkeypatch, tmp_path):
    blocks = everything(tmp_path / "run", **options)
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr(loop, "KEPT_BYTES", -1)
    assert blocks == everything(tmp_path / "run", **options)


def test_a_schedule_that_fails_within_a_block_leaves_the_steps_before_it(monkeypatch):
    blocks = everything(None, schedule=negative)
    monkeypatch.setattr(loop, "KEPT_BYTES", -1)
    steps = everything(None, schedule=negative)
    assert "lr must be a finite number >= 0, got -1.0" in blocks["error"]
    # Nobody is told of steps whose block was cut short by an error.
    assert blocks | {"told": []} == steps | {"told": []}


@pytest.mark.parametrize("rates", [[0.1, 0.2], np.array([0.1, 0.2]), None], ids=["list", "array", "None"])
def test_a_schedule_that_gives_no_number_is_told_so(rates):
    error = everything(None, schedule=lambda step: rates)["error"]
    assert error == f"lr must be a finite number >= 0, got {rates!r}"


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each block has."""
    found: list[int] = []
    make = Updates.make

    def counting(self: Updates, rows: Any, measure: bool, before: Any) -> Any:
        found.append(len(rows))
        return make(self, rows, measure, before)

    monkeypatch.setattr(Updates, "make", counting)
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [49, 1, 16, 1]),
        ({"reg": 0.01}, [49, 1, 16, 1]),
        ({"validate_steps": 20}, [19, 1, 19, 1, 9, 1, 9, 1, 6, 1]),
        ({"compile": False}, [1] * 67),
        ({"schedule": lambda step: 1e30}, [49, 2]),
    ],
    ids=lambda given: ",".join(given) if isinstance(given, dict) else "",
)
def test_a_block_ends_where_somebody_looks(options, expected, sizes):
    everything(None, epochs=1, **options)
    assert sizes == expected


class Doubled(Module):
    """A layer of somebody's own, which may remember anything."""

    def __init__(self, inner: Module) -> None:
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 2.0)


class Own(SGD):
    """An optimizer of somebody's own, which may remember anything, too."""


@pytest.mark.parametrize("whose", ["layer", "optimizer"])
def test_what_is_somebodys_own_is_stepped_one_by_one(whose, sizes):
    model: Module = MLP([5, 8, 3], generator=0)
    model = Doubled(model) if whose == "layer" else model
    optimizer = Own(model, lr=0.01) if whose == "optimizer" else "sgd"
    Trainer(model, optimizer=optimizer, batch_size=2, epochs=1, generator=0, compile=True, reporter=False).fit(TRAIN)
    assert sizes == [1] * 67


def test_a_penalty_is_summed_as_in_a_step_of_its_own(monkeypatch):
    histories = []
    for kept in (1 << 22, -1):
        monkeypatch.setattr(loop, "KEPT_BYTES", kept)
        model = MLP([5, *[4] * 19, 3], generator=0)
        trainer = Trainer(model, reg=0.37, batch_size=16, epochs=2, generator=0, reporter=False)
        histories.append(trainer.fit(TRAIN).column("loss"))
    assert histories[0] == histories[1]
