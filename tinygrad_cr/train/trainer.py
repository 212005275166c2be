"""`Trainer`: what is trained, how, and who watches; the loop itself is in `loop`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinygrad_cr import schedules
from tinygrad_cr.data import Dataset, Standardizer, load
from tinygrad_cr.device import device_memory, find_backend
from tinygrad_cr.errors import OptionError, RunError, unknown_name
from tinygrad_cr.nn import MLP, Module
from tinygrad_cr.nn.members import Source, as_generators
from tinygrad_cr.optim import OPTIMIZERS, Number, Optimizer, make_optimizer
from tinygrad_cr.options import integer, number, numbers, of_member
from tinygrad_cr.random import Generator
from tinygrad_cr.train.callbacks import Callback
from tinygrad_cr.train.checkpoint import Checkpoint, load_standardizer
from tinygrad_cr.train.evaluate import kernels_of
from tinygrad_cr.train.history import History
from tinygrad_cr.train.loop import Loop
from tinygrad_cr.train.population import PopulationLoop
from tinygrad_cr.train.progress import Reporter, Silent, default_reporter
from tinygrad_cr.train.run import RunFolder, last_checkpoint, read_run

DEFAULT_LR = 0.01
SHUFFLES = ("members", "shared")
Pair = tuple[Any, Any]


class Trainer:
    """Trains a classifier by minibatch gradient descent on softmax cross-entropy.

    The cost is the mean cross-entropy plus 0.5 * reg * sum(W**2) over all weights (not biases).

    Args:
        model: gives logits [n, classes] for x [n, features].
        optimizer: "sgd", "adam", "adamw", or an optimiser made for this model.
        lr: learning rate at the start; left out, that of the optimiser, or 0.01 if it is given by name.
        momentum: of SGD, where the optimiser is given by name.
        lr_decay: factor on the learning rate after each epoch.
        schedule: learning rate as a function of the step, instead of lr and lr_decay.
        reg: strength of the penalty.
        clip_norm: longest gradient that an update follows, see `optim.clip_norm`; None for any.
        epochs: how often each training row is seen.
        batch_size: rows in a minibatch; the last of an epoch may be smaller.
        standardize: "per-feature", "mean-image" or "none", learned from the training part; or a fitted Standardizer.
        generator: of the shuffles: a Generator, a seed, or None for a fresh seed; of a population see `shuffle`.
        shuffle: of a population: "members" gives each minibatches of its own, from the generator's stream and those
            that follow it (or a list of generators); "shared" gives all the same ones, from one generator.
        train_sample: the training accuracy is measured on at most so many rows.
        validate_epochs: validate after every so many epochs, and after the last.
        validate_steps: validate within epochs too, after every so many steps of each; None for not.
        patience: stop when so many validations in a row brought no better validation accuracy; None for never. Without
            a validation part it is the cost that wants to improve.
        monitors: watch for trouble (see `monitors`): a run that diverges or explodes is stopped, other troubles are
            told once. Without them, divergence is an error.
        callbacks: who else watches, see `Callback`, which also says in which order.
        out: folder for config.json, history.jsonl, model.safetensors and so on; it must be new or empty.
        checkpoint_epochs: write a checkpoint into the folder after every so many epochs; `resume` goes on from it.
        config: further entries for config.json.
        compile: capture the step once and replay it (see `tinygrad_cr.compile`). Left out, models made of this
            package's layers are; with layers of your own, whose Python would be frozen at capture, say True if that
            is safe. A model that is not captured is trained eagerly, and the reporter says so once.
        reporter: where progress goes; True for a bar or lines on standard output, False for silence.
        device: where to train, "cpu" or "gpu"; the model is moved there. None for where the model is.

    A population (`nn.MLP(..., members=M)`, `nn.stack`) trains like a model: lr, momentum, lr_decay and reg may be lists
    of one number a member, each member ends with the bits of its solo run, and the history has a row for each member
    and epoch. A member that diverges, explodes or has no living unit left is retired, which the others do not notice;
    so is one that patience stops, or an event of a callback that names it. Callbacks hear `epoch` for each member's
    row. There are no other monitors, no validation within epochs and no checkpoints.

    Raises:
        OptionError: an option outside its range, an unknown name, another number of values than members, or a device
            together with an optimiser of a model that is on another one.
        DeviceError: a device that this machine does not have.
    """

    def __init__(
        self,
        model: Module,
        *,
        optimizer: str | Optimizer = "sgd",
        lr: Number | None = None,
        momentum: Number = 0.9,
        lr_decay: Number = 1.0,
        schedule: schedules.Schedule | None = None,
        reg: Number = 0.0,
        clip_norm: float | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        standardize: str | Standardizer = "per-feature",
        generator: Source = None,
        shuffle: str = "members",
        train_sample: int = 1000,
        validate_epochs: int = 1,
        validate_steps: int | None = None,
        patience: int | None = None,
        monitors: bool = True,
        callbacks: Sequence[Callback] = (),
        out: Path | str | None = None,
        checkpoint_epochs: int = 1,
        config: Mapping[str, Any] | None = None,
        reporter: Reporter | bool = True,
        compile: bool | None = None,
        device: str | None = None,
    ) -> None:
        if not isinstance(model, Module):
            raise OptionError(f"model must be a Module, got {model!r}")
        if device is not None and find_backend(device) is not kernels_of(model):
            if isinstance(optimizer, Optimizer):
                raise OptionError(
                    f"the optimizer was made for a model on {kernels_of(model).name!r}, training was asked for on "
                    f"{device!r}: move the model with model.to({device!r}) and make the optimizer afterwards"
                )
            model.to(device)
        self.model = model
        if lr is None:
            lr = optimizer.lr if isinstance(optimizer, Optimizer) else DEFAULT_LR
        members = model.members
        lr, lr_decay = numbers("lr", lr, members), numbers("lr_decay", lr_decay, members)
        for m in range(members or 1):
            schedules.exponential(of_member(lr, m), of_member(lr_decay, m), 1)
        if isinstance(optimizer, str):
            optimizer = make_optimizer(optimizer, model, lr, momentum)
        if not isinstance(optimizer, Optimizer):
            raise OptionError(f"optimizer must be a name or an Optimizer, got {optimizer!r}")
        self.optimizer = optimizer
        self.lr: Any = lr
        self.lr_decay: Any = lr_decay
        self.schedule = schedule
        self.reg: Any = numbers("reg", reg, members)
        self.clip_norm = None if clip_norm is None else number("clip_norm", clip_norm)
        if self.clip_norm == 0:
            raise OptionError("clip_norm is the length that gradients are cut to and must be above 0; None cuts none")
        self.epochs = integer("epochs", epochs, least=1)
        self.batch_size = integer("batch_size", batch_size, least=1)
        self.train_sample = integer("train_sample", train_sample, least=1)
        self.validate_epochs = integer("validate_epochs", validate_epochs, least=1)
        self.validate_steps = None if validate_steps is None else integer("validate_steps", validate_steps, least=1)
        self.checkpoint_epochs = integer("checkpoint_epochs", checkpoint_epochs, least=1)
        self.patience = None if patience is None else integer("patience", patience, least=1)
        self.monitors = bool(monitors)
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise OptionError(f"callbacks must be Callback objects, got {callback!r}")
        self.standardizer = standardize if isinstance(standardize, Standardizer) else Standardizer(standardize)
        self.learns_standardizer = not hasattr(self.standardizer, "mean_")
        if shuffle not in SHUFFLES:
            raise unknown_name("shuffle", shuffle, SHUFFLES)
        self.shuffle = shuffle
        self.generator: Any = as_generators(generator, members if shuffle == "members" else None)
        self.out = out
        self._resumed: Checkpoint | None = None
        self.interrupted = False
        self.compile = compile
        self.config = dict(config or {})
        self.reporter: Reporter = (
            (default_reporter() if reporter else Silent()) if isinstance(reporter, bool) else reporter
        )

    @classmethod
    def resume(
        cls,
        run: Path | str,
        *,
        model: Module | None = None,
        optimizer: Optimizer | None = None,
        schedule: schedules.Schedule | None = None,
        epochs: int | None = None,
        callbacks: Sequence[Callback] = (),
        reporter: Reporter | bool = True,
        compile: bool | None = None,
        device: str | None = None,
    ) -> Trainer:
        """A trainer that goes on with a run where its last checkpoint was written: call `fit` with the same data.

        The run then ends with the bits of one that was never interrupted. For a run of the command line the data is
        ``load_parts(config)``.

        Args:
            run: the run folder.
            model, optimizer, schedule: as they were made for the run. A folder knows how to make an `MLP`, the
                optimisers and the schedules of this package again; anything else has to be given.
            epochs: train longer than the run was meant to, or shorter, but not less than it has been.
            callbacks: those of the run, in the same order.
            device: where to go on; None for where a model that is given is, or where the run was trained.

        Raises:
            RunError: no run, no checkpoint, a damaged or foreign one, or a run that is being trained at the moment.
            OptionError: the run used a model, optimizer or schedule that has to be given.
            DeviceError: a device that this machine does not have; with device="cpu" the run goes on anywhere.
        """
        config = read_run(run).config
        state = last_checkpoint(run)
        try:
            if model is None:
                if config["model"] is None:
                    raise OptionError(f"{run} trained a network that is no MLP: make it again and pass model=")
                model = MLP(**config["model"], generator=0)
                device = device or config.get("device")
            if device is not None and optimizer is None:
                find_backend(device)
                model.to(device)
            if optimizer is None:
                name = config["optimizer"]
                if name not in OPTIMIZERS:
                    raise OptionError(f"{run} used an optimizer of your own, {name}: make it again and pass optimizer=")
                optimizer = OPTIMIZERS[name](model, state.state["options"]["lr"], **config["optimizer_options"])
            if schedule is None and isinstance(config["schedule"], dict):
                try:
                    schedule = schedules.from_config(config["schedule"])
                except OptionError as error:
                    raise RunError(
                        f"{run} holds a schedule that cannot be made again: {error}; pass schedule="
                    ) from None
            if config["schedule"] and schedule is None:
                raise OptionError(f"{run} used a schedule of its own: pass schedule=")
            trainer = cls(
                model,
                optimizer=optimizer,
                schedule=schedule,
                standardize=load_standardizer(state.arrays, config["standardize"]),
                generator=Generator(**state.state["shuffle"]),
                callbacks=callbacks,
                out=run,
                reporter=reporter,
                compile=compile,
                device=device,
                **state.state["options"] | ({} if epochs is None else {"epochs": epochs}),
            )
        except (LookupError, TypeError) as error:
            raise RunError(f"{run} does not hold a whole run: {error!r}") from None
        trainer.config = config
        trainer._resumed = state
        return trainer

    def interrupt(self) -> None:
        """Ask `fit` to end after the step in progress, with a checkpoint; for signal handlers and other threads."""
        self.interrupted = True

    def fit(self, train: Dataset | Pair, validation: Dataset | Pair | None = None) -> History:
        """Train; afterwards the model holds the parameters of its best epoch.

        Each part is a `Dataset` or a pair of arrays (x, y). The best epoch is the first with the highest validation
        accuracy; without a validation part, the last one. What was noticed on the way is in `History.events`, and why
        training ended early, if it did, in `History.stopped`; then the model holds its best epoch before that, or what
        it held at the start.

        Raises:
            DataError, ShapeError: data that does not fit the model, has no labels, or is not that of the resumed run.
                Nothing was changed.
            RunError: the run folder is taken. Nothing was changed.
            DivergenceError: the cost became infinite or undefined, and there are no monitors to stop the run.
            DeviceMemoryError: the GPU has not enough memory; the model holds its best parameters so far.
            OptionError: a callback gave something else than events; a resumed run is to be shorter than it is.

        >>> from tinygrad_cr.data import load, split
        >>> parts = split(load("digits"), seed=0)
        >>> model = MLP([64, 32, 10], generator=0)
        >>> history = Trainer(model, epochs=3, generator=0, reporter=False).fit(parts.train, parts.validation)
        >>> history.best()["val_accuracy"] > 0.9
        True
        """
        train = load(train)
        validation = None if validation is None else load(validation)
        state, self._resumed, self.interrupted = self._resumed, None, False
        folder = RunFolder(self.out, resume=state is not None) if self.out is not None else None
        try:
            with device_memory():
                if self.model.members is not None:
                    return PopulationLoop(self, train, validation, folder).run()
                return Loop(self, train, validation, folder, state).run()
        finally:
            if folder:
                folder.close()
