"""One call of `Trainer.fit`: the loop over epochs and minibatches, and what is told and written on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cr import schedules
from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, DivergenceError, OptionError, RunError
from tinygrad_cr.train import checkpoint, preparation
from tinygrad_cr.train.callbacks import (
    STEPS_BETWEEN_OBSERVATIONS,
    Callback,
    EarlyStopping,
    Setup,
    Steps,
    checked_events,
)
from tinygrad_cr.train.checkpoint import Checkpoint, Progress, digest
from tinygrad_cr.train.histograms import Histograms
from tinygrad_cr.train.history import Event, History, Row
from tinygrad_cr.train.moment import Moment
from tinygrad_cr.train.monitors import default_monitors, divergence_message
from tinygrad_cr.train.progress import event_line, validation_line
from tinygrad_cr.train.run import RunFolder
from tinygrad_cr.train.updates import Updates

if TYPE_CHECKING:
    from tinygrad_cr.train.trainer import Trainer

KEPT_BYTES = 1 << 22
"""Of parameters and their momentum that are copied before a block of steps. Where there is more, a step takes so long
that making several in one call gains less than the copy costs."""


class Loop:
    """A fit that is under way. Making one checks everything and changes nothing but the trainer's standardizer.

    Args:
        trainer: the options, and what is trained.
        folder: where the run is written; None for nowhere.
        resumed: the checkpoint to go on from.

    Raises:
        DataError, ShapeError, OptionError, GraphError, RunError: as `Trainer.fit` says.
    """

    def __init__(
        self,
        trainer: Trainer,
        train: Dataset,
        validation: Dataset | None,
        folder: RunFolder | None,
        resumed: Checkpoint | None,
    ) -> None:
        self.trainer, self.validation, self.folder, self.resumed = trainer, validation, folder, resumed
        self.model, self.optimizer, self.reporter = trainer.model, trainer.optimizer, trainer.reporter
        self.batches = preparation.prepare(trainer, train, validation)
        self.sample = train.spread(trainer.train_sample)
        self.looks = preparation.evaluations(trainer, self.sample, validation)
        self.schedule = trainer.schedule or schedules.exponential(trainer.lr, trainer.lr_decay, len(self.batches))
        self.updates = Updates(trainer, self.batches)
        self.moment = Moment(self.model, self.optimizer)
        # A single step on a GPU is never worth it: its cost would be waited for.
        host = self.updates.kernels.host
        self.blocks = not host or (preparation.repeatable(trainer) and self.moment.nbytes <= KEPT_BYTES)
        self.histograms = Histograms() if folder else None
        self.callbacks = self._callbacks()
        self.data: dict[str, str] = {}
        if folder:
            parts = {"train": train} if validation is None else {"train": train, "validation": validation}
            self.data = {name: digest(part) for name, part in parts.items()}
        if resumed is None:
            self.progress = Progress(trainer.generator.state(), self.model.state_dict())
        else:
            self.progress = self._restored(resumed)
        self.begin = time.perf_counter() - self.progress.seconds

    def run(self) -> History:
        """Train to the end, or until somebody asks to stop; the model then holds its best parameters."""
        progress, history = self.progress, self.progress.history
        if self.folder:
            self.folder.write_config(preparation.config(self.trainer, self.batches.dataset, self.data))
            if self.resumed is None:
                self._write_checkpoint()
        self.reporter.start(self.trainer.epochs, len(self.batches))
        if self.resumed is not None:
            self.reporter.note(f"going on after step {progress.step}, in epoch {progress.epoch}")
        completed = False
        try:
            while progress.epoch <= self.trainer.epochs and history.stopped is None:
                self._epoch()
            completed = not any(event.stop and event.level == "fail" for event in history.events)
            completed = completed and not any(event.kind == "interrupted" for event in history.events)
        finally:
            self.model.load_state_dict(progress.best)
            accuracy = math.nan if progress.best_accuracy is None else progress.best_accuracy
            self.reporter.stop(accuracy if completed else None)
        self._hear(lambda callback: callback.stop(history))
        self._write_history()
        return history

    def _epoch(self) -> None:
        """The rest of the epoch in progress, or less if somebody asks to stop."""
        progress, size = self.progress, self.batches.batch_size
        self.model.train()
        order, norms = self.batches.order(), None
        while progress.position < len(self.batches):
            begin, end = progress.position, self._block_end(progress.position)
            rows = order[begin * size : end * size]
            norms = self._block(rows.reshape(end - begin, -1))
            if progress.history.stopped:
                return
        self._end_epoch(norms)

    def _validated(self, position: int) -> bool:
        within = self.trainer.validate_steps
        return within is not None and position % within == 0 and position < len(self.batches)

    def _observed(self, position: int) -> bool:
        ends = position % STEPS_BETWEEN_OBSERVATIONS == 0 or position == len(self.batches)
        return ends or self._validated(position)

    def _block_end(self, position: int) -> int:
        """Up to which step of the epoch those behind this one can be made together."""
        if not (self.blocks and self.updates.together):
            return position + 1
        last = len(self.batches)
        end = next(i for i in range(position + 1, last + 1) if self._observed(i))
        # Updates are measured in the step that is observed, if not in all; the last minibatch may be smaller.
        everywhere = self.updates.penalty_norms is True
        alone = not everywhere or (end == last and len(self.batches.dataset) % self.batches.batch_size)
        return max(position + 1, end - 1) if alone else end

    def _block(self, rows: NDArray[np.int64]) -> Any:
        """Updates with the minibatches of these rows, int64 [steps, batch], and who sees them; the norms of the last.

        It is what making them one by one comes to: should training end, or be interrupted, after an earlier one than
        the last, then only those before it are made.
        """
        progress, first, rates = self.progress, self.progress.step, list[Any]()
        observed = self._observed(progress.position + len(rows))

        def before(k: int) -> None:
            if k == len(rates):
                rates.append(self.schedule(first + k))
            # Checking a number costs as much as a tenth of a small step.
            if not isinstance(rates[k], float) or rates[k] != self.optimizer.lr:
                self.optimizer.lr = rates[k]

        if len(rows) > 1:
            self.moment.keep()
        costs, norms = self.updates.make(rows, observed, before)
        made = self._count(costs.tolist(), rows.shape[1])
        if made < len(rows):
            self.moment.restore()
            self.updates.make(rows[:made], False, before)
            observed = False
        if not math.isfinite(costs[made - 1]):
            self._diverged(f"the cost became {costs[made - 1]} in epoch {progress.epoch}, step {progress.step}")
            return None
        if observed:
            self._observe_steps(norms)
        if self._validated(progress.position) and not progress.history.stopped:
            self._row(norms)
            self.model.train()
        if self.trainer.interrupted and not progress.history.stopped and progress.position < len(self.batches):
            self._interrupt()
        return norms

    def _count(self, costs: list[float], rows: int) -> int:
        """Note what steps cost; how many count: none behind one that is lost, or after which somebody interrupts."""
        progress, interrupted = self.progress, self.trainer.interrupted
        for made, cost in enumerate(costs, 1):
            progress.position, progress.step = progress.position + 1, progress.step + 1
            progress.pending.append(cost)
            if not math.isfinite(cost):
                return made
            progress.cost += cost * rows
            progress.rows += rows
            self.reporter.steps(progress.step)
            if self.trainer.interrupted is not interrupted:
                return made
        return len(costs)

    def _end_epoch(self, norms: Any) -> None:
        row = self._row(norms)
        progress = self.progress
        progress.epoch, progress.position, progress.shuffle = progress.epoch + 1, 0, self.trainer.generator.state()
        ended = progress.epoch > self.trainer.epochs or progress.history.stopped is not None
        if self.folder and (row["epoch"] % self.trainer.checkpoint_epochs == 0 or ended):
            self._write_checkpoint()
        if self.trainer.interrupted and not ended:
            self._interrupt()

    def _row(self, norms: Any) -> Row:
        """Add a row to the history, and keep the parameters if they are the best so far."""
        progress, history = self.progress, self.progress.history
        ended = progress.position == len(self.batches)
        row: Row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "loss": progress.cost / progress.rows,
            "lr": self.optimizer.lr,
        }
        row |= preparation.update_ratios(self.optimizer.flat.names, norms)
        progress.cost, progress.rows = 0.0, 0
        due = progress.epoch % self.trainer.validate_epochs == 0 or progress.epoch == self.trainer.epochs
        loss = self._evaluate(row, due or not ended)
        row["seconds"] = time.perf_counter() - self.begin
        history.append(row)
        if math.isfinite(loss):
            self._keep_if_best(row)
        self._hear(lambda callback: callback.epoch(row))
        if not math.isfinite(loss) and history.stopped is None:
            self._lost(f"the loss was {loss} after epoch {row['epoch']}")
        if self.histograms is not None and math.isfinite(loss):
            self.histograms.epoch(row)
        self._write_history()
        if ended:
            self.reporter.epoch(row, self.trainer.epochs)
        elif row["val_loss"] is not None:
            self.reporter.note(validation_line(row, self.trainer.epochs))
        return row

    def _keep_if_best(self, row: Row) -> None:
        progress, accuracy = self.progress, row["val_accuracy"]
        if self.validation is not None and accuracy is None:
            return
        if accuracy is None or progress.best_accuracy is None or accuracy > progress.best_accuracy:
            progress.best, progress.best_accuracy = self.model.state_dict(), accuracy
            if self.folder:
                self.folder.write_model(progress.best, self.trainer.standardizer)

    def _evaluate(self, row: Row, validate: bool) -> float:
        """Add to the row how good the network is now; the loss where it matters most."""
        loss: float
        on_sample, on_validation = self.looks
        loss, row["accuracy"] = on_sample.measure(compiled=self.updates.captured)
        row["val_loss"] = row["val_accuracy"] = None
        if validate and on_validation is not None:
            loss, row["val_accuracy"] = on_validation.measure(compiled=self.updates.captured)
            row["val_loss"] = loss
        return loss

    # Those who watch

    def _callbacks(self) -> list[Callback]:
        trainer, flat = self.trainer, self.optimizer.flat
        callbacks = default_monitors() if trainer.monitors else []
        if trainer.patience is not None:
            callbacks.append(EarlyStopping(trainer.patience, "loss" if self.validation is None else "val_accuracy"))
        callbacks += trainer.callbacks
        setup = Setup(
            model=self.model,
            standardizer=trainer.standardizer,
            sample=self.sample,
            validation=self.validation,
            names=tuple(flat.names),
            regularized=tuple(p.regularized for p in flat.parameters),
            classes=self.batches.dataset.classes,
            epochs=trainer.epochs,
            steps_per_epoch=len(self.batches),
            reg=trainer.reg,
        )
        if self.histograms:
            self.histograms.start(setup)
        for callback in callbacks:
            callback.start(setup)
        return callbacks

    def _observe_steps(self, norms: Any) -> None:
        progress = self.progress
        seen = Steps(progress.epoch, progress.step, tuple(progress.pending), self.optimizer.lr, norms)
        progress.pending.clear()
        self._hear(lambda callback: callback.steps(seen))

    def _hear(self, ask: Callable[[Callback], Iterable[Event] | None]) -> None:
        """Ask every callback, and tell what they saw; of a run that is lost just that, and who else wants it to end."""
        events = [event for callback in self.callbacks for event in checked_events(callback, ask(callback))]
        lost = next((i for i, event in enumerate(events) if event.stop and event.level == "fail"), len(events))
        self._tell(event for i, event in enumerate(events) if i <= lost or event.stop)

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self.progress.history.events.append(event)
            self.reporter.note(event_line(event))

    def _diverged(self, what: str) -> None:
        """Let the callbacks end the run, or else end it here."""
        self._observe_steps(None)
        if self.progress.history.stopped is None:
            self._lost(what)

    def _lost(self, what: str) -> None:
        """The end of a run that no callback has ended: an event and, where there are no monitors, an error."""
        message, progress = divergence_message(what, self.optimizer.lr, self.progress.step), self.progress
        self._tell([Event("fail", "divergence", progress.epoch, progress.step, None, message, stop=True)])
        self._write_history()
        if not self.trainer.monitors:
            raise DivergenceError(message)

    def _interrupt(self) -> None:
        progress = self.progress
        if self.folder:
            self._write_checkpoint()
        where = f"step {progress.step}, in epoch {progress.epoch}"
        message = f"interrupted after {where}"
        if self.folder:
            message += f"; resume {self.folder.path} to go on"
        self._tell([Event("note", "interrupted", progress.epoch, progress.step, None, message, stop=True)])

    # What is written

    def _write_history(self) -> None:
        if self.folder:
            self.folder.write_history(self.progress.history)

    def _write_checkpoint(self) -> None:
        if self.folder is None or self.histograms is None:
            return
        progress = self.progress
        progress.seconds = time.perf_counter() - self.begin
        content = checkpoint.to_bytes(
            progress,
            self.model,
            self.optimizer,
            self.trainer.standardizer,
            callbacks={name: callback.state_dict() for name, callback in self._named_callbacks()},
            data=self.data,
            options=preparation.options(self.trainer),
        )
        self.folder.write_histograms(self.histograms.records)
        self.folder.write_checkpoint(progress.step, content)

    def _named_callbacks(self) -> list[tuple[str, Callback]]:
        watching = [*self.callbacks, *([self.histograms] if self.histograms else [])]
        return [(f"{i}.{type(callback).__name__}", callback) for i, callback in enumerate(watching)]

    def _restored(self, resumed: Checkpoint) -> Progress:
        """Everything as it was when the checkpoint was written."""
        given, known = self._named_callbacks(), resumed.state["callbacks"]
        if [name for name, _ in given] != list(known):
            raise RunError(
                f"{resumed.path} was written with the callbacks {', '.join(known)}, "
                f"and these are {', '.join(name for name, _ in given)}: pass the same ones in the same order"
            )
        if self.data != resumed.state["data"]:
            differing = [
                part
                for part in {**self.data, **resumed.state["data"]}
                if self.data.get(part) != resumed.state["data"].get(part)
            ]
            raise DataError(f"the {' and the '.join(differing)} part is not the one that this run was trained on")
        ended = resumed.state["epoch"] - 1
        if self.trainer.epochs < ended:
            raise OptionError(f"{ended} epochs of this run have ended already: epochs must be at least that")
        progress = resumed.restore(self.model, self.optimizer)
        for name, callback in given:
            callback.load_state_dict(known[name])
        self.trainer.generator.restore(progress.shuffle)
        return progress
