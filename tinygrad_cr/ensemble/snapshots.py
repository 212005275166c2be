"""`snapshot_ensemble`: several networks from one run, whose learning rate falls and jumps up again."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from tinygrad_cr import schedules
from tinygrad_cr.data import Dataset
from tinygrad_cr.ensemble.ensemble import Ensemble
from tinygrad_cr.ensemble.members import Member
from tinygrad_cr.ensemble.settings import Settings, settings
from tinygrad_cr.ensemble.training import Pair, Trained, assembled, loaded
from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn import Module
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator
from tinygrad_cr.train import Callback, Setup
from tinygrad_cr.train.history import History, Row
from tinygrad_cr.train.trainer import DEFAULT_LR

State = dict[str, np.ndarray[Any, Any]]

DECIDED = {
    "schedule": "the learning rate of a snapshot ensemble is schedules.cosine_restarts; give lr and low",
    "lr_decay": "the learning rate falls within each cycle; give lr and low",
    "patience": "every cycle is trained to its end",
}


class Snapshots(Callback):
    """Copies the parameters after some steps that end epochs.

    Args:
        steps: after how many updates: numbers of the column "step" of a history.

    Attributes:
        states: number of updates -> parameters by name, in the order in which they were taken.

    >>> from tinygrad_cr.nn import MLP
    >>> from tinygrad_cr.train import Trainer
    >>> model, snapshots = MLP([1, 2], generator=0), Snapshots([2])
    >>> trainer = Trainer(model, epochs=3, generator=0, callbacks=[snapshots], reporter=False)
    >>> _ = trainer.fit(([[0.0], [1.0]], [0, 1]))
    >>> list(snapshots.states)
    [2]
    """

    def __init__(self, steps: Iterable[int]) -> None:
        self.steps_wanted = {integer("a snapshot's step", step, least=1) for step in steps}
        self.states: dict[int, State] = {}
        self.model: Module | None = None

    def start(self, setup: Setup) -> None:
        """Remember whom to copy."""
        self.model = setup.model

    def epoch(self, row: Row) -> None:
        """Copy, if it is time."""
        if row["step"] in self.steps_wanted and self.model is not None:
            state = self.model.state_dict()
            if all(np.isfinite(value).all() for value in state.values()):
                self.states[row["step"]] = state

    def state_dict(self) -> dict[str, Any]:
        """The snapshots so far."""
        return {str(step): base64.b64encode(save_tensors(state)).decode() for step, state in self.states.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from them."""
        self.states = {int(step): load_tensors(base64.b64decode(text)) for step, text in state.items()}


def snapshot_ensemble(
    train: Dataset | Pair,
    validation: Dataset | Pair | None = None,
    *,
    cycles: int = 5,
    t_mult: int = 1,
    lr: float = DEFAULT_LR,
    low: float = 0.0,
    hidden: Sequence[int] = (100,),
    epochs: int = 20,
    generator: Generator | int | None = None,
    **options: Any,
) -> Ensemble:
    """One run with warm restarts; its parameters at the end of each cycle are the members (Huang et al. 2017).

    The learning rate is `schedules.cosine_restarts` (SGDR, Loshchilov and Hutter 2017). A cycle is a whole number of
    epochs, so that each of its minima ends an epoch. A snapshot is what the network was after the update at a
    minimum, also where an epoch before was better on the validation part. `ensemble[-3:]` is that of the last three
    cycles. If the run is lost, the cycles that it finished are the ensemble.

    Args:
        cycles: how many; epochs must be a multiple of 1 + t_mult + ... + t_mult**(cycles - 1).
        t_mult: each cycle is so many times as long as the one before.
        lr, low: learning rate at the beginning and at the end of each cycle. The rate at the beginning may be higher
            than that of an ordinary run: it takes the network to another minimum of the loss.
        epochs: of all cycles together.
        train, validation, hidden, generator, options: as for `train_ensemble`; this is member 0 of that with another
            schedule.

    Raises:
        OptionError: cycles that are no whole epochs; an unknown option, or one outside its range.
        DataError, ShapeError: as `Trainer.fit`.
        DivergenceError: the run was lost before its first cycle ended.

    >>> from tinygrad_cr.data import load, split
    >>> parts = split(load("digits"), seed=0)
    >>> ensemble = snapshot_ensemble(
    ...     parts.train, cycles=3, epochs=6, hidden=[32], generator=0, reporter=False
    ... )
    >>> len(ensemble), ensemble.evaluate(parts.test)[1] > 0.9
    (3, True)
    """
    first = whole_cycles(cycles, t_mult, epochs)
    made = settings(hidden, generator, options, DECIDED).with_training(epochs=epochs)
    return assembled(_trained(*loaded(train, validation), made, lr, low, first, t_mult))


def whole_cycles(cycles: int, t_mult: int, epochs: int) -> int:
    """How many epochs the first cycle has.

    Raises:
        OptionError: cycles that would not end with an epoch.

    >>> whole_cycles(3, 2, epochs=14)  # 2 + 4 + 8
    2
    """
    cycles, epochs = integer("cycles", cycles, least=1), integer("epochs", epochs, least=1)
    t_mult = integer("t_mult", t_mult, least=1)
    units: int = sum(t_mult**i for i in range(cycles))
    if epochs % units:
        fitting = sorted({max(1, epochs // units) * units, -(-epochs // units) * units})
        raise OptionError(
            f"{cycles} cycles with t_mult {t_mult} take a multiple of {units} epochs, got epochs {epochs}; "
            f"take {' or '.join(map(str, fitting))}"
        )
    return epochs // units


def _trained(
    train: Dataset,
    validation: Dataset | None,
    made: Settings,
    lr: float,
    low: float,
    first_cycle: int,
    t_mult: int,
) -> Trained:
    """The snapshots of a run whose first cycle has so many epochs."""
    model = made.model(train)
    steps_per_epoch = -(-len(train) // made.trainer(model).batch_size)
    schedule = schedules.cosine_restarts(lr, first_cycle * steps_per_epoch, t_mult, low)
    # A minimum is the number of a step from 0; the column "step" counts the updates that were made.
    snapshots = Snapshots(step + 1 for step in schedule.minima(made.epochs * steps_per_epoch))
    watching = [*made.training.get("callbacks", ()), snapshots]
    trainer = made.with_training(schedule=schedule, callbacks=watching).trainer(model)
    history = trainer.fit(train, validation)
    members = []
    for state in snapshots.states.values():
        member = made.model(train)
        member.load_state_dict(state)
        members.append(Member(member.eval(), trainer.standardizer, train.class_names))
    return Trained(members, History([{"member": 0, **row} for row in history], history.events))
