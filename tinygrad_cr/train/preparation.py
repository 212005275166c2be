"""What stands before the first step: checks, minibatches, and the configuration that is written down."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tinygrad_cr.compile import compile as capturing
from tinygrad_cr.data import Batches, Dataset, Standardizer
from tinygrad_cr.errors import DataError, GraphError, OptionError
from tinygrad_cr.nn import MLP, Module
from tinygrad_cr.random import Generator, Generators
from tinygrad_cr.schedules import Formula, Schedule
from tinygrad_cr.tape import mode
from tinygrad_cr.train.evaluate import Evaluation, check_fit, kernels_of

if TYPE_CHECKING:
    from tinygrad_cr.train.trainer import Trainer

OPTIONS = (
    *("lr", "lr_decay", "reg", "clip_norm", "epochs", "batch_size", "train_sample"),
    *("validate_epochs", "validate_steps", "patience", "monitors", "checkpoint_epochs"),
)
"""The options of a `Trainer` that are plain values: config.json shows them, and they come back from checkpoints."""


def prepare(trainer: Trainer, train: Dataset, validation: Dataset | None) -> Batches:
    """Check everything that can be checked before the first step; the minibatches of the training part."""
    model = trainer.model
    if not trainer.optimizer.trains(model):
        raise OptionError("the optimizer was made for another model; make it as SGD(model, ...) for this one")
    if not mode.recording or not any(p.requires_grad for p in model.parameters()):
        raise GraphError("nothing can be learned: every parameter is frozen, or fit was called under no_grad()")
    for part in (train, validation):
        if part is not None:
            if part.y is None:
                raise DataError("training wants labelled data")
            check_fit(model, part)
    standardizer = trainer.standardizer
    if trainer.learns_standardizer:
        standardizer = Standardizer(standardizer.mode).fit(train.x)
    dtype = str(model.dtype)
    if validation is not None:
        Batches(validation, trainer.batch_size, standardizer=standardizer, shuffle=False, dtype=dtype)
    # A population shuffles for itself.
    generator = trainer.generator if isinstance(trainer.generator, Generator) else None
    batches = Batches(train, trainer.batch_size, standardizer=standardizer, generator=generator, dtype=dtype)
    trainer.standardizer = standardizer
    return batches


def evaluations(trainer: Trainer, sample: Dataset, validation: Dataset | None) -> tuple[Evaluation, Evaluation | None]:
    """What looks at the model after epochs: on rows of the training part, and on the validation part if any."""
    model, standardizer = trainer.model, trainer.standardizer
    on_validation = None if validation is None else Evaluation(model, validation, standardizer)
    return Evaluation(model, sample, standardizer), on_validation


def config(trainer: Trainer, train: Dataset, data: dict[str, str]) -> dict[str, Any]:
    """What goes into config.json; data: the digests of the parts."""
    model, optimizer = trainer.model, trainer.optimizer
    return (
        trainer.config
        | {
            "optimizer": type(optimizer).__name__.lower(),
            "optimizer_options": optimizer.config(),
            "momentum": getattr(optimizer, "momentum", None),
            "schedule": _schedule(trainer.schedule),
            "standardize": trainer.standardizer.mode,
            "seed": (trainer.generator[0] if isinstance(trainer.generator, Generators) else trainer.generator).seed,
            "class_names": list(train.class_names),
            "image_shape": None if train.image_shape is None else list(train.image_shape),
            "data_digest": data.get("train"),
            "device": kernels_of(model).name,
            "model": model.config() if isinstance(model, MLP) else None,
            "versions": {name: _version(name) for name in ("tinygrad_cr", "numpy", "numba")}
            | {"python": platform.python_version()},
            "created": trainer.config.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
        }
        | options(trainer)
    )


def options(trainer: Trainer) -> dict[str, Any]:
    """The options that are plain values.

    >>> from tinygrad_cr.nn import MLP
    >>> from tinygrad_cr.train import Trainer
    >>> options(Trainer(MLP([4, 2], generator=0)))["epochs"]
    20
    """
    return {name: getattr(trainer, name) for name in OPTIONS}


def captured(trainer: Trainer, step: Callable[..., Any]) -> capturing | None:
    """The compiled step, if it is wanted."""
    wanted, own = trainer.compile, _own_layers(trainer.model)
    if wanted is None and own:
        trainer.reporter.note(f"training runs eagerly: {own[0]} is a layer of your own; compile=True captures it too")
    return capturing(step) if wanted or (wanted is None and not own) else None


def repeatable(trainer: Trainer) -> bool:
    """Whether steps can be undone and made again: nobody but this package keeps anything from step to step."""
    return not _own_layers(trainer.model) and type(trainer.optimizer).__module__.startswith("tinygrad_cr.")


def _own_layers(model: Module) -> list[str]:
    """The kinds of layers in it that are not of this package."""
    return [type(m).__name__ for m in model.modules() if not type(m).__module__.startswith("tinygrad_cr.nn")]


def update_ratios(names: Sequence[str], norms: Any) -> dict[str, float | None]:
    """Norm of the update over norm of the parameter, wanted near 1e-3 (CS231n); None for a parameter of zeros.

    norms: [k, 2], as `Optimizer.step` measures them.

    >>> import numpy as np
    >>> update_ratios(["weight"], np.array([[4.0, 1.0]]))
    {'update_ratio.weight': 0.5}
    """
    return {
        f"update_ratio.{name}": math.sqrt(update / value) if value else None
        for name, (value, update) in zip(names, norms.tolist(), strict=True)
    }


def _schedule(schedule: Schedule | None) -> dict[str, Any] | str | None:
    """A schedule as its name and arguments; "custom" for a function that only its own program knows."""
    if not isinstance(schedule, Formula):
        return None if schedule is None else "custom"
    try:
        return schedule.config()
    except OptionError:  # there is such a function inside
        return "custom"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
