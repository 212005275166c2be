"""`PopulationLoop`: one call of `Trainer.fit` for a population. The members train side by side, each as it would alone.

Steps are made in blocks, by one call of compiled code where that is possible. A member that is lost, or that nobody
wants to see trained any further, is retired: from then on it costs no time, and the others go on to the same bits, or
on a GPU to the same numbers but for rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.data import Dataset
from tinygrad_cr.device import assign
from tinygrad_cr.errors import DivergenceError, OptionError
from tinygrad_cr.nn import member_of
from tinygrad_cr.options import PerMember, of_member
from tinygrad_cr.tape import computing
from tinygrad_cr.train import preparation
from tinygrad_cr.train.callbacks import (
    STEPS_BETWEEN_OBSERVATIONS,
    Callback,
    EarlyStopping,
    Setup,
    Steps,
    checked_events,
)
from tinygrad_cr.train.checkpoint import digest
from tinygrad_cr.train.history import Event, History, Row
from tinygrad_cr.train.monitors import DeadUnits, Divergence, divergence_message
from tinygrad_cr.train.progress import event_line
from tinygrad_cr.train.run import RunFolder
from tinygrad_cr.train.updates import Updates

if TYPE_CHECKING:
    from tinygrad_cr.train.trainer import Trainer

Array = np.ndarray[Any, Any]


@dataclass
class Member:
    """What is kept of one member while it trains.

    Attributes:
        number: its place in the population.
        watching: the monitors that may end its training, and patience.
        best, best_accuracy: its best parameters so far, flat, and how good they are.
        cost: sum of cost times rows since its last row in the history.
        training: whether it is not retired.
        lost: whether it is, because its run failed.
    """

    number: int
    watching: list[Callback]
    best: Array
    best_accuracy: float | None = None
    cost: float = 0.0
    training: bool = True
    lost: bool = False


class PopulationLoop:
    """A fit that is under way; see `Loop`, whose checks it makes."""

    def __init__(self, trainer: Trainer, train: Dataset, validation: Dataset | None, folder: RunFolder | None) -> None:
        self.trainer, self.validation, self.folder = trainer, validation, folder
        self.model, self.optimizer, self.reporter = trainer.model, trainer.optimizer, trainer.reporter
        if trainer.validate_steps is not None:
            raise OptionError("a population is validated after epochs: leave validate_steps out")
        self.batches = preparation.prepare(trainer, train, validation)
        self.steps = len(self.batches)
        self.sample = train.spread(trainer.train_sample)
        self.looks = preparation.evaluations(trainer, self.sample, validation)
        self.flat = self.optimizer.flat
        assert self.flat.members is not None
        count = self.flat.members
        self.schedule = trainer.schedule or self._decayed
        self.rates: tuple[int, Any] = (-1, None)
        self.regularized = [p.regularized for p in self.flat.parameters]
        self.shared = trainer.shuffle == "shared"
        self.updates = Updates(trainer, self.batches, shared=self.shared)
        self.history, self.step, self.epoch = History(), 0, 1
        self.stopped = False
        values = self._values()
        self.members = [Member(m, self._watching(), values[m].copy()) for m in range(count)]
        self._start_callbacks()
        self.begin = time.perf_counter()

    def run(self) -> History:
        """Train to the end, or until no member is left; each then holds its best parameters."""
        if self.folder:
            parts = {"train": self.batches.dataset}
            data = {name: digest(part) for name, part in parts.items()}
            self.folder.write_config(preparation.config(self.trainer, self.batches.dataset, data))
        self.reporter.start(self.trainer.epochs, self.steps)
        completed = False
        try:
            while self.epoch <= self.trainer.epochs and not self.stopped:
                self._epoch()
            completed = not self.stopped or self.history.stopped is None
        finally:
            for member in self.members:
                assign(self.flat.values[member.number], member.best, self.updates.kernels)
                if member.lost:
                    self.optimizer.forget(member.number)
            accuracies = [m.best_accuracy for m in self.members if m.best_accuracy is not None]
            self.reporter.stop(max(accuracies, default=math.nan) if completed else None)
        self._hear(lambda callback: callback.stop(self.history))
        if self.folder:
            self.folder.write_history(self.history)
        return self.history

    @property
    def training(self) -> list[Member]:
        """The members that are not retired."""
        return [member for member in self.members if member.training]

    def _active(self) -> Any:
        """A mask of them; None while that is everybody."""
        mask = np.array([member.training for member in self.members])
        return None if mask.all() else mask

    def _epoch(self) -> None:
        self.model.train()
        norms: Any = None
        for block in self._blocks():
            with computing(self._active()):
                costs, norms = self._block(block)
            self.step += len(block)
            self.reporter.steps(self.step)
            self._look_at(costs, block.shape[-1], norms)
            if self.trainer.interrupted:
                message = f"interrupted after step {self.step}, in epoch {self.epoch}"
                self._tell([Event("note", "interrupted", self.epoch, self.step, None, message, stop=True)])
            if self.stopped:
                return
        self._end_epoch(norms)

    def _blocks(self) -> Iterator[Array]:
        """The rows of this epoch's minibatches, in blocks of steps: int64 [steps, members, batch], or [steps, batch].

        A block ends where costs are looked at. Norms are measured in the last step, which has a block of its own.
        """
        n, size = len(self.batches.dataset), self.batches.batch_size
        orders = self.trainer.generator.permutation(n) if self.shared else self.trainer.generator.permutations(n)
        last = (self.steps - 1) * size
        for start in range(0, last, STEPS_BETWEEN_OBSERVATIONS * size):
            stop = min(last, start + STEPS_BETWEEN_OBSERVATIONS * size)
            block = orders[..., start:stop].reshape(*orders.shape[:-1], -1, size)
            yield np.ascontiguousarray(np.moveaxis(block, -2, 0))
        yield orders[None, ..., last:]

    def _block(self, block: Array) -> tuple[Array, Array | None]:
        """Some steps: the cost of each member in each, float64 [steps, members], and norms of the last or None."""

        def before(k: int) -> None:
            self.optimizer.lr = self.schedule(self.step + k)

        measure = self.step + len(block) == self.epoch * self.steps
        return self.updates.make(block, measure, before)

    def _decayed(self, step: int) -> Any:
        """The learning rates of an epoch; the same object within it."""
        epoch = step // self.steps
        if self.rates[0] != epoch:
            lr, decay = self.trainer.lr, self.trainer.lr_decay
            rates = [of_member(lr, m) * of_member(decay, m) ** epoch for m in range(len(self.members))]
            self.rates = epoch, PerMember(rates)
        return self.rates[1]

    # What is seen

    def _look_at(self, costs: Array, rows: int, norms: Array | None) -> None:
        """Add up the costs of a block, and retire those that are lost."""
        for member in self.training:
            own = costs[:, member.number].tolist()
            for cost in own:  # one by one, as they come to a network that trains alone
                member.cost += cost * rows
            lr = float(of_member(self.optimizer.lr, member.number))
            lost = next((i for i, cost in enumerate(own) if not math.isfinite(cost)), None)
            measured = None if norms is None or lost is not None else norms[member.number]
            seen = Steps(self.epoch, self.step, own, lr, measured)
            for watch in member.watching:
                self._tell(watch.steps(seen), member)
            if lost is not None and member.training:
                step = self.step - len(own) + 1 + lost
                self._lost(member, f"the cost became {own[lost]} in epoch {self.epoch}, step {step}", step)
        self._check_left()

    def _end_epoch(self, norms: Array) -> None:
        """A row for each member, and whoever wants to see it."""
        due = self.epoch % self.trainer.validate_epochs == 0 or self.epoch == self.trainer.epochs
        rows: list[Row] = []
        values = self._values()
        with computing(self._active()):
            on_sample, on_validation = self.looks
            loss, accuracy = on_sample.measure(compiled=self.updates.captured)
            val_loss = val_accuracy = None
            if due and on_validation is not None:
                val_loss, val_accuracy = on_validation.measure(compiled=self.updates.captured)
        for member in self.training:
            m = member.number
            row: Row = {
                "member": m,
                "epoch": self.epoch,
                "step": self.step,
                "loss": member.cost / len(self.batches.dataset),
                "lr": float(of_member(self.optimizer.lr, m)),
            }
            row |= preparation.update_ratios(self.flat.names, norms[m])
            row["accuracy"] = float(accuracy[m])
            row["val_loss"] = None if val_loss is None else float(val_loss[m])
            row["val_accuracy"] = None if val_accuracy is None else float(val_accuracy[m])
            row["seconds"] = time.perf_counter() - self.begin
            member.cost = 0.0
            rows.append(row)
            self.history.append(row)
            # Where it matters most.
            judged = float(loss[m]) if row["val_loss"] is None else row["val_loss"]
            if math.isfinite(judged):
                self._keep_if_best(member, row, values)
            for watch in member.watching:
                if member.training:
                    self._tell(watch.epoch(row), member)
            if not math.isfinite(judged) and member.training:
                self._lost(member, f"the loss was {judged} after epoch {self.epoch}", self.step)
        for row in rows:
            self._hear(lambda callback, row=row: callback.epoch(row))  # type: ignore[misc]
        self._report(rows)
        self.epoch += 1
        self._check_left()
        if self.folder:
            self.folder.write_history(self.history)
            state = self.model.state_dict()
            self._write_best(state)

    def _write_best(self, state: dict[str, Array]) -> None:
        """The best parameters of each member so far, as the run would end now."""
        assert self.folder is not None
        for name, (start, stop) in zip(self.flat.names, self.flat.spans.tolist(), strict=True):
            for member in self.members:
                state[name][member.number] = member.best[start:stop].reshape(state[name].shape[1:])
        self.folder.write_model(state, self.trainer.standardizer)

    def _values(self) -> Array:
        """All parameters on the host, [members, p]: copied if they lie on a GPU, once for all members."""
        return np.asarray(self.updates.kernels.to_numpy(self.flat.values))

    def _keep_if_best(self, member: Member, row: Row, values: Array) -> None:
        accuracy = row["val_accuracy"]
        if self.validation is not None and accuracy is None:
            return
        if accuracy is None or member.best_accuracy is None or accuracy > member.best_accuracy:
            member.best, member.best_accuracy = values[member.number].copy(), accuracy

    def _report(self, rows: list[Row]) -> None:
        """The best member's line; how many there are still."""
        if rows:
            key = "accuracy" if rows[0]["val_accuracy"] is None else "val_accuracy"
            best = max(rows, key=lambda row: row[key])
            self.reporter.epoch(best, self.trainer.epochs)
            if len(rows) > 1:
                worst = min(row[key] for row in rows)
                left = f"{len(self.training)} of {len(self.members)} members train"
                self.reporter.note(f"{left}; the best is member {best['member']}, the least accurate reaches {worst:f}")

    # What is told

    def _watching(self) -> list[Callback]:
        """Who looks after a member: of the monitors those that may end a run, the others have their eyes on one."""
        watching: list[Callback] = [Divergence(), DeadUnits()] if self.trainer.monitors else []
        if self.trainer.patience is not None:
            key = "loss" if self.validation is None else "val_accuracy"
            watching.append(EarlyStopping(self.trainer.patience, key))
        return watching

    def _start_callbacks(self) -> None:
        setup = Setup(
            model=self.model,
            standardizer=self.trainer.standardizer,
            sample=self.sample,
            validation=self.validation,
            names=tuple(self.flat.names),
            regularized=tuple(self.regularized),
            classes=self.batches.dataset.classes,
            epochs=self.trainer.epochs,
            steps_per_epoch=self.steps,
            reg=self.trainer.reg,
        )
        for member in self.members:
            m = member.number
            own = replace(setup, model=member_of(self.model, m), reg=of_member(self.trainer.reg, m))
            for watch in member.watching:
                watch.start(own)
        for callback in self.trainer.callbacks:
            callback.start(setup)

    def _hear(self, ask: Callable[[Callback], Iterable[Event] | None]) -> None:
        for callback in self.trainer.callbacks:
            self._tell(checked_events(callback, ask(callback)))

    def _tell(self, events: Iterable[Event] | None, member: Member | None = None) -> None:
        """Note what was seen, and retire the member that is to stop, or end the run."""
        for event in events or ():
            if member is not None:
                event = replace(event, member=member.number, message=f"member {member.number}: {event.message}")
            elif event.member is not None and not 0 <= event.member < len(self.members):
                raise OptionError(f"an event names member {event.member}, there are {len(self.members)}: {event!r}")
            self.history.events.append(event)
            self.reporter.note(event_line(event))
            if event.stop and event.member is None:
                self.stopped = True
            elif event.stop and event.member is not None:
                retired = self.members[event.member]
                retired.training, retired.lost = False, retired.lost or event.level == "fail"

    def _lost(self, member: Member, what: str, step: int) -> None:
        message = divergence_message(what, float(of_member(self.optimizer.lr, member.number)), step)
        self._tell([Event("fail", "divergence", self.epoch, step, None, message, stop=True)], member)

    def _check_left(self) -> None:
        """End a run in which no member trains any more.

        Raises:
            DivergenceError: all of them were lost, and there are no monitors to say so in events alone.
        """
        lost = sum(member.lost for member in self.members)
        everybody = lost == len(self.members)
        if self.training or self.stopped or (self.epoch > self.trainer.epochs and not everybody):
            return
        why = f"no member trains any more: {lost} of {len(self.members)} were lost"
        level, kind = ("fail", "divergence") if everybody else ("note", "early_stopping")
        self._tell([Event(level, kind, self.epoch, self.step, None, why, stop=True)])
        if everybody and not self.trainer.monitors:
            raise DivergenceError(f"{why}; {self.history.events[0].message}")
